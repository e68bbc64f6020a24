"""Images inside archives and Parquet files, which are found first and read one by one, when they are decoded."""

from __future__ import annotations

import os
import tarfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MAX_IMAGE_BYTES = 2**28  # of one stored image; four bytes for each of the pixels that Pillow decodes at most are fewer
ROWS_AT_ONCE = 16  # of a Parquet file


class StoredImage(dict):
    """An image as `datasets` stores it, `{"path", "bytes"}`, whose bytes are read when somebody asks for them.

    Args:
        name (`str`): what it is called.
    """

    def __init__(self, name: str) -> None:
        super().__init__(path=name, bytes=None)

    def read(self) -> bytes | None:
        """The encoded image.

        Raises:
            ValueError: If it cannot be read; one sentence that names it.
        """
        raise NotImplementedError

    def get(self, key: str, default: Any = None) -> Any:
        """Return the path, or read the bytes."""
        return self.read() if key == "bytes" else super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        """Return the path, or read the bytes."""
        return self.read() if key == "bytes" else super().__getitem__(key)

    def refuse(self, reason: str) -> ValueError:
        """The error of an image that cannot be read."""
        return ValueError(f"cannot read image {self['path']!r}: {reason}.")


class ArchivedImage(StoredImage):
    """A member of an archive that is not compressed.

    Args:
        name (`str`): what it is called.
        archive (`str`): path of the archive.
        offset (`int`): where its bytes begin.
        size (`int`): their number.
    """

    def __init__(self, name: str, archive: str, offset: int, size: int) -> None:
        super().__init__(name)
        self.place = (archive, offset, size)

    def read(self) -> bytes:
        """The encoded image."""
        archive, offset, size = self.place
        if size > MAX_IMAGE_BYTES:
            raise self.refuse(f"it has {size} bytes, more than the limit of {MAX_IMAGE_BYTES}")
        try:
            with open(archive, "rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise self.refuse(f"its archive cannot be read ({error.strerror})") from error
        if len(content) < size:
            raise self.refuse("its archive is cut off")
        return content

    def __reduce__(self) -> tuple:
        """Make it anew in another process."""
        return type(self), (self["path"], *self.place)


class TableImage(StoredImage):
    """A cell of a Parquet file.

    Args:
        name (`str`): what it is called.
        table (`str`): path of the file.
        column (`str`): its column.
        group (`int`): its row group.
        row (`int`): its row in the group.
    """

    def __init__(self, name: str, table: str, column: str, group: int, row: int) -> None:
        super().__init__(name)
        self.cell = (table, column, group, row)

    def read(self) -> bytes | None:
        """The encoded image; `None` where the cell holds a path alone."""
        table, column, group, row = self.cell
        try:
            value = _cells.value(table, column, group, row)
        except (pa.ArrowException, OSError, StopIteration, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else "rows are missing"
            raise self.refuse(f"the Parquet file {table!r} is damaged ({reason})") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None and not (isinstance(value, dict) and value.get("path")):
            raise self.refuse("the row holds no image")
        if content is not None and len(content) > MAX_IMAGE_BYTES:
            raise self.refuse(f"it has {len(content)} bytes, more than the limit of {MAX_IMAGE_BYTES}")
        return content

    def __reduce__(self) -> tuple:
        """Make it anew in another process."""
        return type(self), (self["path"], *self.cell)


class _Cells:
    """Reads cells of Parquet files, mostly one after the other: a few rows are held, of the file read last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.place: tuple[Any, ...] | None = None
        self.batches: Iterator[Any] = iter(())
        self.held: deque[tuple[int, Any]] = deque(maxlen=2)  # first row and values; threads read a little out of order

    def value(self, table: str, column: str, group: int, row: int) -> Any:
        """The value of a cell."""
        with self.lock:
            status = os.stat(table)
            place = (os.getpid(), table, column, group, status.st_size, status.st_mtime_ns)
            if place != self.place or (self.held and row < self.held[0][0]):
                self.place = None  # until the file is open
                file = pq.ParquetFile(table, page_checksum_verification=True)
                self.batches = file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[column])
                self.held.clear()
                self.place = place
            while not self.held or row >= self.held[-1][0] + len(self.held[-1][1]):
                start = self.held[-1][0] + len(self.held[-1][1]) if self.held else 0
                self.place = None  # whatever fails, the next one starts anew
                self.held.append((start, next(self.batches).column(0)))
                self.place = place
            start, values = next(batch for batch in reversed(self.held) if batch[0] <= row)
            return values[row - start].as_py()


_cells = _Cells()


class StrictTarInfo(tarfile.TarInfo):
    """A header of an archive; one that is damaged or missing is an error, where tarfile takes it for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> StrictTarInfo:
        """Read a header."""
        try:
            return super().fromtarfile(archive)  # type: ignore[return-value]
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the end mark
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"it has no end mark ({error})") from error


def is_regular(path: str | Path) -> bool:
    """Whether a path is a file with content, not a pipe, a socket or a device, which may give none for ever."""
    try:
        return os.path.isfile(path)
    except ValueError:  # no file can be called so
        return False


def is_empty(path: str | Path) -> bool:
    """Whether a file says that it has no bytes; the system's own logs do, and whoever reads them waits for more."""
    try:
        return os.path.getsize(path) == 0
    except (OSError, ValueError):  # there is none
        return False


__all__ = ["MAX_IMAGE_BYTES", "ArchivedImage", "StoredImage", "StrictTarInfo", "TableImage", "is_empty", "is_regular"]
