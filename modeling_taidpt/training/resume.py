"""Which checkpoints a run may go on from: whole ones, of this run, of the same labels, base and training data."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from ..atomic import staged_file
from ..features.cache import KeptFeatures
from ..hub import sample_weights

RECORD = "training_run.json"  # in the output folder and in each of its checkpoints
STATES = ("optimizer.pt", "scheduler.pt")  # without them training would go on with other steps, in silence


@dataclass(frozen=True)
class RunRecord:
    """What a run learns from; equal of a checkpoint and of the run that goes on from it.

    Args:
        run (`str`): name of the run, drawn when it starts.
        labels (`list[str]`): in the order of the logits.
        base (`list[float]`): a few weights of the CLIP.
        data (`str`): fingerprint of the training data: features, their order and their labels.
        weights (`str`, *optional*): of a checkpoint, SHA-256 of its prompts.
    """

    run: str
    labels: list[str]
    base: list[float]
    data: str
    weights: str | None = None

    def write(self, folder: str | Path) -> None:
        """Writes the record into a folder; with the digest of the weights that are there."""
        with staged_file(Path(folder) / RECORD) as path:
            path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> RunRecord | None:
        """The record in a folder; `None` where there is none that can be read."""
        try:
            return cls(**json.loads((Path(folder) / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def require_same(self, other: RunRecord, folder: str) -> None:
        """Raises a `ValueError` where the checkpoint in `folder`, with the record `other`, is of other things."""
        if self.labels != other.labels:
            same = sorted(self.labels) == sorted(other.labels)
            what = f"{'the same labels in another order' if same else 'other labels'} ({_few(other.labels)})"
        elif self.base != other.base:
            what = "another base"
        elif self.data != other.data:
            what = "other training data"
        else:
            return
        raise ValueError(
            f"The checkpoint {folder!r} was learned with {what} and cannot be gone on from: start anew without "
            "resuming, or in another folder."
        )


class FinishedRunMixin:
    """Lets a [`~transformers.Trainer`] that goes on from the last checkpoint of a finished run train no step more.

    transformers ends a run after a step, never before one: of a run that `max_steps` ended within an epoch, it would
    take one step more each time that the same command is given again.
    """

    def _run_epoch(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)


def data_fingerprint(data: Any) -> str:
    """Fingerprint of training data: of cached features which they are, their order and their labels.

    Args:
        data: [`CaptionFeatures`], [`ImageFeatures`], or another data set, of which length and `labels` count.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    digest = hashlib.sha256(str(len(data)).encode())
    if isinstance(data, KeptFeatures):
        # A cache folder is named by the fingerprint of the texts or images and of what encoded them.
        digest.update("\n".join(f"{path.parent.name}/{path.name}" for path in data.shards.paths).encode())
        digest.update(data.rows.tobytes())
    digest.update(np.ascontiguousarray(getattr(data, "labels", ())).tobytes())  # (rows, classes)
    return digest.hexdigest()[:32]


def base_sample(model: Any) -> list[float]:
    """A few weights of a model's CLIP; see [`sample_weights`]."""
    return sample_weights(model.clip.state_dict())


def weights_digest(folder: str | Path) -> str:
    """SHA-256 of the prompts of a checkpoint."""
    return hashlib.sha256((Path(folder) / SAFE_WEIGHTS_NAME).read_bytes()).hexdigest()


def whole_checkpoint(folder: str | Path, record: RunRecord | None, states: Sequence[str] = STATES) -> bool:
    """Whether a checkpoint was written to its end and is undamaged.

    The trainer's state is written last. Prompts are compared with the digest in the record; the files of torch are
    archives that hold checksums.

    Args:
        folder (`str` or `Path`): the checkpoint.
        record ([`RunRecord`], *optional*): its record.
        states (`Sequence[str]`, *optional*): files that it must have beside prompts and trainer state.

    Returns:
        `bool`.
    """
    folder = Path(folder)
    try:
        TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        if record is not None and record.weights is not None and weights_digest(folder) != record.weights:
            return False
        with safe_open(folder / SAFE_WEIGHTS_NAME, "pt"):
            pass
        if states and not any(folder.glob("rng_state*.pth")):  # dropout and shuffling would go on otherwise
            return False
        archives = {folder / name for name in states} | set(folder.glob("*.pt")) | set(folder.glob("*.pth"))
        for path in archives:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    return False
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError, zipfile.BadZipFile):
        return False
    return True


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels[:3]) + (" ..." if len(labels) > 3 else "")


__all__ = [
    "RECORD",
    "STATES",
    "FinishedRunMixin",
    "RunRecord",
    "base_sample",
    "data_fingerprint",
    "weights_digest",
    "whole_checkpoint",
]
