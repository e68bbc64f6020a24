"""The command `taidpt`, installed as `taidpt_cli`; the version is here, where reading it imports nothing."""

__version__ = "0.1.0"
