"""Which checkpoints a run may go on from: whole ones, of this run, of the same labels, base and training data."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from ..atomic import staged_file
from ..features.cache import KeptFeatures
from ..hub import sample_weights

logger = logging.get_logger(__name__)

RECORD = "training_run.json"  # in the output folder and in each of its checkpoints
STATES = ("optimizer.pt", "scheduler.pt")  # without them training would go on with other steps, in silence
CHECKPOINT_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-\d+")
# What one process writes and training goes on from; the other files of several processes may come later.
DIGESTED = (SAFE_WEIGHTS_NAME, *STATES, "rng_state.pth", TRAINER_STATE_NAME)


@dataclass(frozen=True)
class RunRecord:
    """What a run learns from; equal of a checkpoint and of the run that goes on from it.

    Args:
        run (`str`): name of the run, drawn when it starts.
        labels (`list[str]`): in the order of the logits.
        base (`list[float]`): a few weights of the CLIP.
        data (`str`): fingerprint of the training data: features, their order and their labels.
        files (`dict[str, str]`, *optional*): of a checkpoint, SHA-256 of its files by their names.
    """

    run: str
    labels: list[str]
    base: list[float]
    data: str
    files: dict[str, str] | None = None

    def write(self, folder: str | Path, names: Sequence[str] = ()) -> None:
        """Writes the record into a folder; with the digests of some files that are there."""
        record = replace(self, files=digest_files(folder, names))
        with staged_file(Path(folder) / RECORD) as path:
            path.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> RunRecord | None:
        """The record in a folder; `None` where there is none that can be read."""
        try:
            record = cls(**json.loads((Path(folder) / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        has_labels = isinstance(record.labels, list) and all(isinstance(label, str) for label in record.labels)
        return record if has_labels and isinstance(record.files or {}, dict) else None

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


def digest_files(folder: str | Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of those of some files that are in a checkpoint.

    Args:
        folder (`str` or `Path`): the checkpoint.
        names (`Sequence[str]`): of the files.

    Returns:
        `dict[str, str]`: by name.
    """
    paths = [Path(folder) / name for name in names]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def whole_checkpoint(folder: str | Path, record: RunRecord | None, states: Sequence[str] = STATES) -> bool:
    """Whether a checkpoint was written to its end and is undamaged.

    The trainer's state is written last, and after it the digests of all files into the record. Where a process was
    killed in between, the record holds that of the prompts, and the files of torch are archives with checksums.

    Args:
        folder (`str` or `Path`): the checkpoint.
        record ([`RunRecord`], *optional*): its record.
        states (`Sequence[str]`, *optional*): files that it must have beside prompts and trainer state.

    Returns:
        `bool`.
    """
    folder = Path(folder)
    digests = {} if record is None or record.files is None else record.files
    try:
        step = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME)).global_step
        if CHECKPOINT_NAME.fullmatch(folder.name) and folder.name != f"{PREFIX_CHECKPOINT_DIR}-{step}":
            return False
        if digest_files(folder, list(digests)) != digests:
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
    except Exception:  # the readers of JSON, archives and weights have many for what is damaged
        return False
    return True


def last_checkpoint(output: str | Path, states: Sequence[str] = STATES) -> str | None:
    """The last whole checkpoint of the run in an output folder.

    Args:
        output (`str` or `Path`): the folder. Checkpoints that an earlier run left there are not looked at.
        states (`Sequence[str]`, *optional*): as of [`whole_checkpoint`].

    Returns:
        `str` or `None`: its folder.

    Raises:
        ValueError: nobody knows which checkpoints are of the run; one sentence.
    """
    run = RunRecord.read(output)
    for folder in reversed(sort_checkpoints(output_dir=str(output))):
        record = RunRecord.read(folder)
        if run is None and record is not None:
            raise ValueError(
                f"{str(Path(output) / RECORD)!r} is missing or damaged, which says of which run the checkpoints are: "
                f"copy the {RECORD} of the checkpoint to go on from there, or start anew without resuming."
            )
        if run is None or (record is not None and record.run != run.run):
            continue
        if record is not None and whole_checkpoint(folder, record, states):
            return folder
        logger.warning(f"The checkpoint {folder!r} is damaged or was not written to its end: it is passed over.")
    return None


def require_undamaged(path: Path) -> None:
    """Raises a `ValueError` where a file of a checkpoint is missing, or has changed since it was written."""
    if not path.is_file():
        raise ValueError(f"The checkpoint {str(path.parent)!r} holds no {path.name}.")
    record = RunRecord.read(path.parent)
    digest = None if record is None or record.files is None else record.files.get(path.name)
    if digest not in (None, digest_files(path.parent, [path.name])[path.name]):
        raise ValueError(
            f"The checkpoint {str(path.parent)!r} is damaged, its {path.name} has changed since it was written: "
            "delete it, and go on from an earlier one."
        )


@contextmanager
def writing_into(output: str | Path, checkpoint: Path | None = None) -> Iterator[None]:
    """A block of a run that writes into its output folder; where that is deleted meanwhile, it says so.

    Args:
        output (`str` or `Path`): the folder.
        checkpoint (`Path`, *optional*): what is written; it goes again where nothing else is in the folder.

    Raises:
        FileNotFoundError: the folder was deleted; one sentence.
    """
    record, cause = Path(output) / RECORD, None
    try:
        if record.is_file():
            yield
    except Exception as error:  # each library has its own for a folder that is not there
        if record.is_file():
            raise
        cause = error
    if record.is_file():
        return
    if checkpoint is not None and checkpoint.is_dir() and list(Path(output).iterdir()) == [checkpoint]:
        shutil.rmtree(output, ignore_errors=True)
    raise FileNotFoundError(
        f"The output folder {str(output)!r} was deleted while it was trained: run the same command again."
    ) from cause


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels[:3]) + (" ..." if len(labels) > 3 else "")


__all__ = [
    "DIGESTED",
    "RECORD",
    "STATES",
    "FinishedRunMixin",
    "RunRecord",
    "base_sample",
    "data_fingerprint",
    "digest_files",
    "last_checkpoint",
    "require_undamaged",
    "whole_checkpoint",
    "writing_into",
]
