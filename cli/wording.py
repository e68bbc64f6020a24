"""Messages of the package in the words of the command: its options, not the arguments of Python.

The package says "`caption_column`"; who gave `--column` knows no such thing. What a command cannot set keeps its name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

# What Python calls otherwise than the command. Names that are options, with hyphens, need no entry.
ALIASES = {
    "add_templates": "--templates",
    "candidate_labels": "--labels",
    "caption_column": "--column",
    "class_specific_context": "--class-specific",
    "eval_dataset": "--eval-captions",
    "labeling_method": "--method",
    "max_steps": "--steps",
    "num_context_tokens": "--context-tokens",
    "num_train_epochs": "--epochs",
    "output_dir": "--output",
    "per_device_train_batch_size": "--batch-size",
    "resume_from_checkpoint": "--resume",
    "save_prompts_only": "--prompts-only",
    "train_dataset": "--captions",
}
WHOLE = {  # turns of phrase that name what only Python has
    "`modeling_taidpt.calibrate` and save the model": "`taidpt calibrate`",
    "fit probabilities on a few images, with or without labels (`taidpt calibrate`, `modeling_taidpt.calibrate`)": (
        "fit probabilities on a few images, with or without labels (`taidpt calibrate`)"
    ),
    "`caption_column` or `label_column`": "`caption_column`",
    "`loader='hub'` and `label_column='label'`": "`--dataset hub --data label_column=label`",
    "start with `TaiDptModel.from_clip`": "start with `taidpt train`",
    ", or pass a `token=` that may do this": " as one who may",
    ", or pass a `token=`": ", or set HF_TOKEN",
    "pass `token=`": "set HF_TOKEN",
    "pass a `token=`": "set HF_TOKEN",
}
SETTING = "--set"  # takes every field of training arguments and configuration
_NAME = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")


def in_options(text: str, options: Collection[str]) -> str:
    """A message with the options of a command in the place of arguments.

    Args:
        text (`str`): what the package says.
        options (`Collection[str]`): the options of the command, as `--top-k`.

    Returns:
        `str`: what no option sets is as it was.
    """
    if not options:
        return text
    for phrase, plain in WHOLE.items():
        text = text.replace(phrase, plain)

    def replace(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        value = value and value.strip("'\"")
        hyphened = f"--{name.replace('_', '-')}"
        option = next((option for option in (ALIASES.get(name), hyphened) if option in options), None)
        if option is not None:
            if value in ("None", "False", "True"):
                return found[0] if value == "None" else f"`{_flag(option, value == 'True', options)}`"
            return f"`{option} {value}`" if value else f"`{option}`"
        if SETTING in options and name in _settings():
            return f"`{SETTING} {name}={value or '...'}`"
        return found[0]

    return _NAME.sub(replace, text)


def _flag(option: str, is_on: bool, options: Collection[str]) -> str:
    """A flag, or the one that turns it off."""
    off = f"--no-{option[2:]}"
    return option if is_on or off not in options else off


def _settings() -> set[str]:
    """The names that `--set` takes."""
    from dataclasses import fields

    from modeling_taidpt.configuration_taidpt import TaiDptConfig
    from modeling_taidpt.training.arguments import TaiDptTrainingArguments

    return {entry.name for entry in fields(TaiDptTrainingArguments) if entry.init} | set(
        TaiDptConfig.__dataclass_fields__
    )


@contextmanager
def warnings_in_options(options: Any) -> Iterator[None]:
    """Says warnings of the package in the words of a command.

    Args:
        options (`Callable[[], Collection[str]]`): the options of the command that runs, asked for at each warning.
    """
    make = logging.getLogRecordFactory()

    def make_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if record.name.startswith("modeling_taidpt"):
            record.msg, record.args = in_options(record.getMessage(), options()), None
        return record

    logging.setLogRecordFactory(make_record)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)


__all__ = ["in_options", "warnings_in_options"]
