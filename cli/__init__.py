"""The command `taidpt`, installed as `taidpt_cli`."""
