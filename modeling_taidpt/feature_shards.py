"""Arrow files of caption features, read through memory maps.

A file is an Arrow stream of one record batch, which `datasets.Dataset.from_file` opens too: `caption_embeds`, a
vector per caption, and `token_embeds`, a list of vectors per caption. bfloat16, which Arrow lacks, is kept as its bits
in uint16.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

ARROW_TYPES = {torch.float32: pa.float32(), torch.float16: pa.float16(), torch.bfloat16: pa.uint16()}


class Shard(NamedTuple):
    """Views into one mapped file.

    Attributes:
        caption_embeds (`torch.Tensor` of shape `(captions, dim)`): global features.
        token_embeds (`torch.Tensor` of shape `(tokens, dim)`): token features, caption after caption.
        offsets (`np.ndarray` of shape `(captions + 1,)`): where the tokens of each caption begin.
    """

    caption_embeds: torch.Tensor
    token_embeds: torch.Tensor
    offsets: np.ndarray


def write_shard(path: Path, features: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Writes a file whole or not at all.

    Args:
        path (`Path`): the file; one of that name is replaced.
        features (`Sequence`): global `(dim,)` and token `(length, dim)` features of each caption.
    """
    pooled = torch.stack([pair[0] for pair in features])  # (captions, dim)
    tokens = torch.cat([pair[1] for pair in features])  # (tokens, dim)
    offsets = np.cumsum([0, *(len(pair[1]) for pair in features)]).astype(np.int32)  # (captions + 1,)
    vectors = [_vectors(pooled), pa.ListArray.from_arrays(pa.array(offsets), _vectors(tokens))]
    batch = pa.record_batch(vectors, names=["caption_embeds", "token_embeds"])
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            with pa.ipc.new_stream(file, batch.schema) as writer:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _vectors(features: torch.Tensor) -> pa.FixedSizeListArray:
    """An Arrow array of the rows of `features` `(rows, dim)`."""
    bits = features.view(torch.uint16) if features.dtype == torch.bfloat16 else features
    flat = pa.array(bits.contiguous().numpy().reshape(-1), type=ARROW_TYPES[features.dtype])  # (rows * dim,)
    return pa.FixedSizeListArray.from_arrays(flat, features.shape[1])


def read_shard(path: Path) -> Shard:
    """Maps a file; nothing is copied.

    Raises:
        OSError, ValueError: If the file is missing or damaged (errors of pyarrow are among them).
    """
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
    if table.num_rows == 0 or table.column_names != ["caption_embeds", "token_embeds"]:
        raise ValueError("it holds no caption features")
    pooled, tokens = (table.column(name).chunk(0) for name in table.column_names)
    offsets = tokens.offsets.to_numpy()  # (captions + 1,)
    return Shard(_matrix(pooled), _matrix(tokens.values), offsets)


def _matrix(vectors: pa.FixedSizeListArray) -> torch.Tensor:
    """The rows of an Arrow array as a tensor `(rows, dim)` on the same memory; it must not be written to."""
    flat = vectors.values.to_numpy(zero_copy_only=True)  # (rows * dim,)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")  # nor shall it be written to
        return torch.frombuffer(flat, dtype=_torch_dtype(flat.dtype)).view(-1, vectors.type.list_size)  # (rows, dim)


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return {"float32": torch.float32, "float16": torch.float16, "uint16": torch.bfloat16}[dtype.name]


class FeatureShards:
    """The rows of several files, one file after the other, opened when first used.

    Args:
        paths (`Sequence[Path]`): the files.
        counts (`Sequence[int]`): captions in each.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int]) -> None:
        """Keep the paths; files are opened when first used."""
        self.paths, self.counts = list(paths), list(counts)
        self._ends = np.cumsum(self.counts)  # (files,)
        self._open: dict[int, Shard] = {}

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Global `(dim,)` and token `(length, dim)` features of a row, in the precision of the file."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        shard = self._shard(number)
        place = row - int(self._ends[number]) + self.counts[number]
        start, end = shard.offsets[place : place + 2]
        return shard.caption_embeds[place], shard.token_embeds[start:end]

    @property
    def dim(self) -> int:
        """Width of the features."""
        return self._shard(0).caption_embeds.shape[1]

    def join(self, other: FeatureShards) -> FeatureShards:
        """These rows, then those of `other`."""
        return FeatureShards([*self.paths, *other.paths], [*self.counts, *other.counts])

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            self._open[number] = read_shard(self.paths[number])
        return self._open[number]

    def __getstate__(self) -> dict:
        """Leave the maps out: another process opens the files itself."""
        return {**self.__dict__, "_open": {}}


__all__ = ["FeatureShards", "Shard", "read_shard", "write_shard"]
