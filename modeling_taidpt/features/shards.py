"""Arrow files of caption or image features, read through memory maps.

A file is an Arrow stream of one record batch, which `datasets.Dataset.from_file` opens too: a pooled vector per row
(`caption_embeds` or `image_embeds`), and a list of dense vectors per row (`token_embeds` or `dense_embeds`). bfloat16,
which Arrow lacks, is kept as its bits in uint16. Files of images also say how many rows and columns of cells each has.
After the stream, where readers stop, come a mark and a checksum of all bytes before it and of the names of the file
and of its folder: a flipped bit, a lost page and a file of another corpus are found when the file is opened.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import xxhash

CAPTION_COLUMNS = ("caption_embeds", "token_embeds")
IMAGE_COLUMNS = ("image_embeds", "dense_embeds")
CHECKSUM_MARK = b"taidpt-xxh3-128:"
ARROW_TYPES = {torch.float32: pa.float32(), torch.float16: pa.float16(), torch.bfloat16: pa.uint16()}


class Shard(NamedTuple):
    """Views into one mapped file.

    Attributes:
        pooled (`torch.Tensor` of shape `(rows, dim)`): global features.
        dense (`torch.Tensor` of shape `(dense, dim)`): features of tokens or cells, row after row.
        offsets (`np.ndarray` of shape `(rows + 1,)`): where the dense features of each row begin.
        names (`tuple[str, str]`): names of the two columns.
        grid (`tuple[int, int]`, *optional*): height and width in cells of every image.
    """

    pooled: torch.Tensor
    dense: torch.Tensor
    offsets: np.ndarray
    names: tuple[str, str]
    grid: tuple[int, int] | None


def write_shard(
    path: Path,
    features: Sequence[tuple[torch.Tensor, torch.Tensor]],
    names: tuple[str, str],
    grid: tuple[int, int] | None = None,
) -> None:
    """Writes a file whole or not at all.

    Args:
        path (`Path`): the file; one of that name is replaced.
        features (`Sequence`): global `(dim,)` and dense `(length, dim)` features of each row.
        names (`tuple[str, str]`): names of the two columns.
        grid (`tuple[int, int]`, *optional*): height and width in cells of every image.
    """
    pooled = torch.stack([pair[0] for pair in features])  # (rows, dim)
    dense = torch.cat([pair[1] for pair in features])  # (dense, dim)
    offsets = np.cumsum([0, *(len(pair[1]) for pair in features)]).astype(np.int32)  # (rows + 1,)
    vectors = [_vectors(pooled), pa.ListArray.from_arrays(pa.array(offsets), _vectors(dense))]
    batch = pa.record_batch(vectors, names=list(names))
    if grid is not None:
        batch = batch.replace_schema_metadata({"grid": f"{grid[0]} {grid[1]}"})
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            hashed = _HashedFile(file)
            with pa.ipc.new_stream(pa.PythonFile(hashed, "w"), batch.schema) as writer:
                writer.write_batch(batch)
            file.write(CHECKSUM_MARK + hashed.checksum(path))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _HashedFile:
    """A file to write to, whose checksum is known at the end."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash = file, xxhash.xxh3_128()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Leave the file open, for the checksum."""

    def checksum(self, path: Path) -> bytes:
        return _with_place(self.hash, path)


def _with_place(checksum: Any, path: Path) -> bytes:
    checksum.update(f"{path.parent.name}/{path.name}".encode())
    return checksum.digest()


_verified: set[tuple[Any, ...]] = set()  # files that this process has checked


def verify_shard(path: Path) -> None:
    """Checks a file against its checksum; once in a process, unless it has changed.

    Raises:
        OSError, ValueError: If the file is missing or damaged.
    """
    status = os.stat(path)
    seen = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    if seen in _verified:
        return
    end = status.st_size - len(CHECKSUM_MARK) - xxhash.xxh3_128().digest_size
    if end <= 0:
        raise ValueError("it is cut off")
    content = np.memmap(path, dtype=np.uint8, mode="r")  # (bytes,)
    found = xxhash.xxh3_128(content[:end])
    if content[end:].tobytes() != CHECKSUM_MARK + _with_place(found, path):
        raise ValueError("its checksum is wrong")
    _verified.add(seen)


def _vectors(features: torch.Tensor) -> pa.FixedSizeListArray:
    """An Arrow array of the rows of `features` `(rows, dim)`."""
    bits = features.view(torch.uint16) if features.dtype == torch.bfloat16 else features
    flat = pa.array(bits.contiguous().numpy().reshape(-1), type=ARROW_TYPES[features.dtype])  # (rows * dim,)
    return pa.FixedSizeListArray.from_arrays(flat, features.shape[1])


def read_shard(path: Path) -> Shard:
    """Maps a file whose checksum is right; nothing is copied.

    Raises:
        OSError, ValueError: If the file is missing or damaged (errors of pyarrow are among them).
    """
    verify_shard(path)
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
    names = tuple(table.column_names)
    if table.num_rows == 0 or names not in (CAPTION_COLUMNS, IMAGE_COLUMNS):
        raise ValueError("it holds no features")
    pooled, dense = (table.column(name).chunk(0) for name in names)
    if not _are_features(pooled.type, dense.type):
        raise ValueError("its features are of other kinds or widths than are cached")
    offsets = dense.offsets.to_numpy()  # (rows + 1,)
    if offsets[0] != 0 or offsets[-1] != len(dense.values) or (np.diff(offsets) < 0).any():
        raise ValueError("its rows are not one after the other")
    height, _, width = (table.schema.metadata or {}).get(b"grid", b"").decode().partition(" ")
    return Shard(_matrix(pooled), _matrix(dense.values), offsets, names, (int(height), int(width)) if height else None)


def _are_features(pooled: pa.DataType, dense: pa.DataType) -> bool:
    """Whether a column holds vectors of numbers that are cached, of one view or several, the other lists of such."""
    is_vector = pa.types.is_fixed_size_list(pooled) and pooled.value_type in ARROW_TYPES.values()
    if not is_vector or not pa.types.is_list(dense) or not pa.types.is_fixed_size_list(dense.value_type):
        return False
    cell = dense.value_type
    return cell.value_type == pooled.value_type and cell.list_size > 0 and pooled.list_size % cell.list_size == 0


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
        counts (`Sequence[int]`): rows in each.
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
        """Global `(dim,)` and dense `(length, dim)` features of a row, in the precision of the file."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        shard = self._shard(number)
        place = row - int(self._ends[number]) + self.counts[number]
        start, end = shard.offsets[place : place + 2]
        return shard.pooled[place], shard.dense[start:end]

    @property
    def dim(self) -> int:
        """Width of the features."""
        return self._shard(0).pooled.shape[1]

    @property
    def grid(self) -> tuple[int, int] | None:
        """Height and width in cells of every image; `None` for captions.

        Raises:
            ValueError: If images of different files have different grids.
        """
        grids = {self._shard(number).grid for number in range(len(self.paths))}
        if len(grids) > 1:
            raise ValueError(f"Images have different numbers of cells, {grids}: use a processor that crops them.")
        return grids.pop()

    def join(self, other: FeatureShards) -> FeatureShards:
        """These rows, then those of `other`."""
        return FeatureShards([*self.paths, *other.paths], [*self.counts, *other.counts])

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            try:
                self._open[number] = read_shard(self.paths[number])
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"The file {str(self.paths[number])!r} of the feature cache is missing or damaged ({error}): run "
                    "again, and it is written anew."
                ) from error
        return self._open[number]

    def __getstate__(self) -> dict:
        """Leave the maps out: another process opens the files itself."""
        return {**self.__dict__, "_open": {}}


__all__ = ["CAPTION_COLUMNS", "IMAGE_COLUMNS", "FeatureShards", "Shard", "read_shard", "verify_shard", "write_shard"]
