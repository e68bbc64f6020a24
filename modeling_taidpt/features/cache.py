"""What cached features of captions and of images share: a data set on memory-mapped files, written once.

The cache is a folder per corpus, named by a fingerprint of everything that the features depend on. Each of its files
is written under another name and renamed when it is whole, so an encoding that was killed goes on after its last whole
file. Labels are not cached: they may change without the features changing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import datasets
import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm
from transformers.utils import logging

from ..atomic import plain_disk_errors
from .shards import FeatureShards, read_shard, write_shard

logger = logging.get_logger(__name__)

FORMAT = 2  # of the files, part of the fingerprint
Kept = TypeVar("Kept", bound="KeptFeatures")


def feature_cache_dir(kind: str) -> Path:
    """Where features of `"caption"` or `"image"` are cached by default: beside the data sets in `HF_HOME`."""
    return Path(datasets.config.HF_DATASETS_CACHE) / f"taidpt_{kind}_features"


class KeptFeatures(torch.utils.data.Dataset):
    """A data set of rows whose features a frozen CLIP has computed, with their labels.

    Args:
        shards (`FeatureShards`): features of distinct captions or images.
        rows (`np.ndarray` of shape `(rows,)`): the row of `shards` that each row has.
        labels (`np.ndarray` of shape `(rows, classes)`): labels.
    """

    kind: ClassVar[str]
    columns: ClassVar[tuple[str, str]]
    label_dtype: ClassVar[Any] = np.uint8

    def __init__(self, shards: FeatureShards, rows: np.ndarray, labels: np.ndarray) -> None:
        """Keep the three."""
        if len(rows) != len(labels):
            raise ValueError(
                f"There are {len(rows)} {self.kind}s and {len(labels)} rows of labels: give one per {self.kind}."
            )
        self.shards = shards
        self.rows = np.asarray(rows, dtype=np.int64)  # (rows,)
        self.labels = np.asarray(labels, dtype=self.label_dtype)  # (rows, classes)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return the features and labels of one row."""
        pooled, dense = self.shards[int(self.rows[index])]
        labels = torch.from_numpy(self.labels[index])  # (classes,)
        return {self.columns[0]: pooled, self.columns[1]: dense, "labels": labels}

    def select(self: Kept, indices: Sequence[int] | np.ndarray) -> Kept:
        """The rows at `indices`, on the same files."""
        indices = np.asarray(indices, dtype=np.int64)
        return type(self)(self.shards, self.rows[indices], self.labels[indices])

    def join(self: Kept, other: Kept) -> Kept:
        """These rows, then those of `other`."""
        rows = np.concatenate([self.rows, other.rows + len(self.shards)])  # (rows of both,)
        labels = np.concatenate([self.labels, other.labels])  # (rows of both, classes)
        return type(self)(self.shards.join(other.shards), rows, labels)


class Encoder:
    """Encodes rows of a corpus; what [`write_missing`] calls.

    Attributes:
        columns (`tuple[str, str]`): names of the pooled and of the dense features.
        grid (`tuple[int, int]`, *optional*): height and width in cells of every image, known after the first call.
    """

    columns: tuple[str, str]
    grid: tuple[int, int] | None = None

    def __call__(self, items: list[Any], bar: tqdm) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Pooled `(dim,)` and dense `(length, dim)` features of each item, in the cache's precision."""
        raise NotImplementedError


def write_missing(
    encoder: Encoder, items: Sequence[Any], folder: Path, shard_size: int, progress: bool, kind: str
) -> FeatureShards:
    """Writes the files of a corpus that are not there yet; one process at a time works on a corpus.

    Args:
        encoder (`Encoder`): encodes the items of one file.
        items (`Sequence`): the items.
        folder (`Path`): the folder of the corpus.
        shard_size (`int`): items per file.
        progress (`bool`): whether to show a progress bar.
        kind (`str`): `"caption"` or `"image"`.

    Returns:
        `FeatureShards`: of all files.
    """
    starts = range(0, len(items), shard_size)
    parts = [list(items[start : start + shard_size]) for start in starts]
    paths = [folder / f"{kind}s-{number:05d}-of-{len(starts):05d}.arrow" for number in range(len(starts))]
    shards = FeatureShards(paths, [len(part) for part in parts])
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        for leftover in folder.glob("*.tmp"):  # of an encoding that was killed
            leftover.unlink(missing_ok=True)
        missing = [(path, part) for path, part in zip(paths, parts, strict=True) if not _is_whole(path, len(part))]
        if not missing:
            logger.info(f"Features of {len(items)} {kind}s are taken from {folder}.")
            return shards
        total = sum(len(part) for _, part in missing)
        logger.info(f"Encoding {total} {kind}s into {folder}.")
        bar = tqdm(total=total, desc=f"Encoding {kind}s", unit=kind, disable=not progress)
        with bar, plain_disk_errors(folder):
            for path, part in missing:
                features = encoder(part, bar)
                write_shard(path, features, encoder.columns, encoder.grid)
    logger.info(f"Features of {len(items)} {kind}s take {sum(path.stat().st_size for path in paths):,} bytes.")
    return shards


def _is_whole(path: Path, count: int) -> bool:
    """Whether a file holds the features of `count` rows."""
    if not path.is_file() or os.path.getsize(path) == 0:
        return False
    try:
        return len(read_shard(path).offsets) == count + 1
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        logger.warning(f"The file {path} of the feature cache is damaged and is written again: {error}")
        return False


__all__ = ["FORMAT", "Encoder", "KeptFeatures", "feature_cache_dir", "write_missing"]
