"""What a model card says of a training, noted when it is over."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from .arguments import TaiDptTrainingArguments

PACKAGES = ("taidpt", "transformers", "torch")
# Arguments that say how a run was watched and where it went, not what was learned.
NOT_REPORTED = (
    "dir",
    "token",
    "hub",
    "push",
    "log",
    "report",
    "disable_tqdm",
    "run_name",
    "save",
    "project",
    "trackio",
)


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
        there is one, `command`. Of files it holds the names, not the folders.
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
    return shlex.join(Path(word).name if Path(word).is_absolute() else word for word in words)


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
    return not any(part in name for part in NOT_REPORTED) and isinstance(value, (bool, int, float, str, list))


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


__all__ = ["training_command", "training_report"]
