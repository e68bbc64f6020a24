"""What a model card says of a training, noted when it is over."""

from __future__ import annotations

import importlib.metadata
import math
import os
import re
import shlex
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from .arguments import TaiDptTrainingArguments

PACKAGES = ("taidpt", "transformers", "torch")
# Arguments that say what was learned and how; no others are ever published, for they may hold folders and tokens.
REPORTED = (
    *("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "max_grad_norm", "lr_scheduler_type", "warmup_steps", "warmup_ratio"),
    *("warmup_learning_rate", "warmup_epochs", "dataloader_drop_last", "load_best_model_at_end"),
    *("metric_for_best_model", "bf16", "fp16", "seed", "data_seed", "label_smoothing_factor", "loss"),
    *("loss_on", "loss_weight", "caption_prototype_weight", "caption_prototype_centering", "add_templates"),
    *("caption_column", "label_column", "image_column", "shots", "known_labels", "labeling_method"),
    *("max_captions", "validation_size", "feature_dtype", "prompt_chunk_size", "recipe"),
)
# Options of the command whose values are shown: what was learned from, by the names of files, and by which method.
SHOWN = (
    *("--labels", "-l", "--captions", "-c", "--base", "-b", "--recipe", "-r", "--protocol", "--eval-captions"),
    *("--calibrate-images", "--eval-images", "--output", "-o", "--data", "--split", "--loss", "--method"),
    *("--optim",),
)
HIDDEN = "..."


def training_report(
    args: TaiDptTrainingArguments,
    labels: list[str],
    steps: int,
    corpus: dict[str, Any],
    metrics: dict[str, float],
) -> dict[str, Any]:
    """Notes what was learned from what, and how well.

    Args:
        args ([`TaiDptTrainingArguments`]): of the trainer.
        labels (`list[str]`): of the model.
        steps (`int`): optimizer steps taken.
        corpus (`dict`): what was learned from, ready for JSON.
        metrics (`dict[str, float]`): the figures.

    Returns:
        `dict`: ready for JSON; `labels`, `recipe`, `seed`, `arguments`, `corpus`, `metrics`, `versions` and, where
        there is one, `command`. Of files it holds the names, not the folders; arguments and options that are not
        listed in `REPORTED` and `SHOWN` are left out.
    """
    report: dict[str, Any] = {
        "labels": labels,
        "recipe": args.describe_recipe(),
        "seed": args.seed,
        "steps": steps,
        "arguments": _changed(args),
        "corpus": corpus,
        "metrics": {name: float(value) for name, value in metrics.items()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES if _is_installed(name)},
    }
    command = training_command(sys.orig_argv)
    return report | ({"command": command} if command else {})


def training_command(argv: list[str]) -> str | None:
    """The command line of this process without the folders of this machine; `None` for a notebook or a test.

    Args:
        argv (`list[str]`): the arguments of the process, the interpreter first.

    Returns:
        `str` or `None`.
    """
    words = argv[1:]
    if words and Path(words[0]).stem == "taidpt":  # the console script
        words = ["taidpt", *words[1:]]
    elif words and words[0].endswith(".py"):
        words = ["python", *words]
    elif words[:2] != ["-m", "modeling_taidpt"]:
        return None
    else:
        words = ["python", *words]
    start = 2 if words[0] == "taidpt" or words[1].endswith(".py") else 4  # the program and the name of its command
    shown, option = [_name(word) for word in words[:start]], ""
    for word in words[start:]:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            name = option if re.fullmatch(r"--[a-z-]+", option) else HIDDEN
            shown.append(name + (f"={_shown_value(option, value)}" if equals else ""))
        elif word.startswith("-") and not _is_number(word):
            option, equals, value = word[:2], word[2:3] == "=", word[2:].removeprefix("=")
            name = option + ("=" if equals else "")  # a short one and its value may be one word
            shown.append(name + (_shown_value(option, value) if value else ""))
        else:
            shown.append(_shown_value(option, word))
    return shlex.join(shown)


def _shown_value(option: str, value: str) -> str:
    """The value of an option as it may be published: numbers, and of few options words and names of files."""
    if _is_number(value):
        return value
    if option == "--set":
        name, _, setting = value.partition("=")
        is_known = name.strip().replace("-", "_") in REPORTED
        return f"{name}={_name(setting) if is_known else HIDDEN}" if name.strip().isidentifier() else HIDDEN
    return _name(value) if option in SHOWN else HIDDEN


def _name(word: str) -> str:
    """A word without the folders of this machine; an address, which may hold a token, is hidden."""
    if "://" in word or "@" in word:
        return HIDDEN
    return Path(word).name if os.sep in word and word.startswith((os.sep, "..", "~")) else word


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _changed(args: TaiDptTrainingArguments) -> dict[str, Any]:
    """Arguments that differ from the defaults and say what was learned."""
    changed = {}
    for entry in fields(args):
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        value = getattr(args, entry.name)
        value = getattr(value, "value", value)
        if entry.init and value != getattr(default, "value", default) and _is_reported(entry.name, value):
            changed[entry.name] = value
    return changed


def _is_reported(name: str, value: Any) -> bool:
    is_word = not isinstance(value, str) or re.fullmatch(r"[\w.,=+ -]{1,80}", value) is not None
    return name in REPORTED and is_word and isinstance(value, (bool, int, float, str, list))


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


__all__ = ["training_command", "training_report"]
