"""Parts of the study of image prompts: its settings, and its table."""
