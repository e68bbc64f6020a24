"""Learning prompts: trainer, arguments, data, schedules, reports."""
