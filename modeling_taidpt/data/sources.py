"""Images of any number as a stream of names and payloads, in an order that does not change between runs.

Nothing is decoded here and nothing is held: a folder is walked, a table or an archive is read row by row.
"""

from __future__ import annotations

import io
import itertools
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from ..captions.rows import iterate_rows, open_rows
from .stored_images import MAX_IMAGE_BYTES, ArchivedImage, StoredImage, StrictTarInfo, TableImage, is_empty, is_regular

# What Pillow reads, without the formats that are documents or that are decoded outside of Pillow.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".ppm"}
)
LONGEST_LINE = 2**16  # bytes, of a list of paths
MOST_SHOWN = 1000  # characters of a line that is no name
SOURCE_KINDS = "a folder, a .txt list of paths, .parquet files, .tar archives, or a data set with an image column"


class ImageItem(NamedTuple):
    """One image that is not read yet.

    Attributes:
        name (`str`): its path; inside an archive `archive/member`, in a data set without paths `row N`.
        payload (`Any`): what the pipeline reads: a path, encoded bytes or a PIL image; `None` with an `error`.
        error (`str`, *optional*): why the source could not give it.
    """

    name: str
    payload: Any
    error: str | None = None


def open_images(source: Any, image_column: str = "image") -> Iterator[ImageItem]:
    """Streams the images of a source.

    Args:
        source (`Any`): a folder (walked, by name), an image, a .txt file with a path a line, .parquet files or .tar
            archives (as WebDataset makes them), several of these in a list; or a data set of `datasets` or PyTorch,
            one of its columns, a frame, a dictionary of columns, or images in a list, an array or an iterator.
        image_column (`str`, *optional*, defaults to `"image"`): column of a data set or a Parquet file: encoded bytes,
            paths, or `{"bytes", "path"}` as `datasets` stores images.

    Returns:
        `Iterator[ImageItem]`: in constant memory; what cannot be read has an `error`.

    Raises:
        FileNotFoundError: there is no such file or folder.
        TypeError: it is a dictionary of splits, or nothing that holds images.
        ValueError: the column is missing, the kind of file is none of these, or there is no image.
    """
    if isinstance(source, (str, Path)):
        items = _open_paths([source], image_column)
    elif _are_paths(source):
        items = _open_paths(source, image_column)
    elif is_image(source):
        items = iter([_from_value(source, "row 0")])
    else:
        items = _open_rows(source, image_column)
    first = next(items, None)
    if first is None:
        where = repr(str(source)) if isinstance(source, (str, Path)) else "the source"
        raise ValueError(f"There are no images in {where}: give {SOURCE_KINDS}.")
    return itertools.chain([first], items)


def count_images(source: Any, image_column: str = "image") -> int | None:
    """Counts the images of a source without reading them, for the total of a progress bar.

    Args:
        source (`Any`): as in [`open_images`].
        image_column (`str`, *optional*, defaults to `"image"`): as in [`open_images`].

    Returns:
        `int`: as many as [`open_images`] gives; `None` where only reading all of them would tell.
    """
    if is_image(source):
        return 1
    paths = [source] if isinstance(source, (str, Path)) else source
    if not _are_paths(paths):
        rows = open_rows(source, "images")
        return len(rows) if hasattr(rows, "__len__") else None
    try:
        counts = [_count(path, image_column) for path in paths]
    except (OSError, ValueError):  # what is wrong is said where it is read
        return None
    return None if None in counts else sum(filter(None, counts))


def _count(source: str | Path, image_column: str) -> int | None:
    path = Path(source)
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix == ".parquet":
        return pq.read_metadata(path).num_rows
    if suffix == ".tar" and _is_compressed(path):
        return None
    return sum(1 for _ in _reader(source)(path, image_column))


def _are_paths(source: Any) -> bool:
    is_list = isinstance(source, (list, tuple)) and len(source) > 0
    return is_list and all(isinstance(path, (str, Path)) for path in source)


def is_image(value: Any) -> bool:
    """Whether a value is an image by itself: of PIL, encoded, or an array `(height, width)` or with channels."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim in (2, 3) and str(value.dtype).removeprefix("torch.") in ("uint8", "uint16")
    return isinstance(value, (Image.Image, bytes, bytearray, io.BytesIO, StoredImage))


def _open_paths(paths: Sequence[str | Path], image_column: str) -> Iterator[ImageItem]:
    readers = [_reader(path) for path in paths]  # before the first image is tagged, not after the millionth
    return itertools.chain.from_iterable(
        reader(Path(path), image_column) for reader, path in zip(readers, paths, strict=True)
    )


def _reader(source: str | Path) -> Callable[[Path, str], Iterable[ImageItem]]:
    path = Path(source)
    if not str(source).strip():  # the path of an empty text is the folder we are in
        raise ValueError(f"The image source {str(source)!r} is empty: give {SOURCE_KINDS}.")
    if str(source).startswith(("http://", "https://")):
        return lambda _, column: [ImageItem(str(source), str(source))]
    if path.is_dir():
        return _walk
    if not path.exists():
        raise FileNotFoundError(f"The image source {str(path)!r} does not exist: give {SOURCE_KINDS}.")
    readers: dict[str, Callable[[Path, str], Iterable[ImageItem]]] = {
        ".txt": _read_list,
        ".parquet": _read_parquet,
        ".tar": _read_tar,
    }
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return lambda image, _: [_from_path(str(image))]
    if suffix not in readers:
        raise ValueError(f"The image source {str(path)!r} is of an unknown kind: give {SOURCE_KINDS}.")
    if not is_regular(path):
        raise ValueError(f"The image source {str(path)!r} is not a regular file: give {SOURCE_KINDS}.")
    return readers[suffix]


def _from_path(path: str) -> ImageItem:
    """An item of a path; a pipe or a device would never come to an end."""
    if os.path.lexists(path) and not is_regular(path):
        return _unreadable(path, "it is not a regular file" if os.path.exists(path) else "there is no such file")
    return _unreadable(path, "it is empty") if is_empty(path) else _named(path, path)


def _named(name: str, payload: Any) -> ImageItem:
    """An item, or an error where its name cannot be written down."""
    try:
        name.encode()
    except UnicodeEncodeError:  # what is not UTF-8 in a name, Python keeps as lone surrogates
        return _unreadable(name, "its name is not UTF-8 text; rename it")
    return ImageItem(name, payload)


def _unreadable(name: str, reason: str) -> ImageItem:
    written = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return ImageItem(written, None, f"cannot read image {written!r}: {reason}.")


def _walk(folder: Path, image_column: str) -> Iterator[ImageItem]:
    """Images below a folder, names in sorted order, at any depth; a folder that cannot be listed is an error."""
    levels = [iter(_list_folder(folder))]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
        elif entry.is_dir(follow_symlinks=False):
            try:
                levels.append(iter(_list_folder(entry.path)))
            except OSError as error:
                yield _unreadable(entry.path, f"the folder cannot be read ({error.strerror})")
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            yield _from_path(entry.path)


def _list_folder(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing where it holds a file `.nomedia`, as media scanners do.

    The thumbnails of a gallery have one.
    """
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    return [] if any(entry.name == ".nomedia" for entry in entries) else entries


def _read_list(path: Path, image_column: str) -> Iterator[ImageItem]:
    """Paths of a text file; relative ones start at the file's folder if they are not found from here."""
    with path.open("rb") as file:
        for number, line in enumerate(_short_lines(file)):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            name = os.fsdecode(text.rstrip(b"\r\n"))
            if not name.strip():
                continue
            if "\0" in name or len(line) > LONGEST_LINE or not _is_utf8(name):
                yield _unreadable(
                    name.replace("\0", "\\x00")[:MOST_SHOWN], f"line {number + 1} of {str(path)!r} is not a file name"
                )
                continue
            beside = str(path.parent / name)
            is_url = name.startswith(("http://", "https://"))
            found = name if is_url or os.path.lexists(name) or not os.path.lexists(beside) else beside
            yield ImageItem(name, found) if is_url else _from_path(found)._replace(name=name)


def _short_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of a file; of one that is longer than any name or address its beginning, so that memory stays constant."""
    while line := file.readline(LONGEST_LINE + 1):
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE + 1)
        yield line


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _read_parquet(path: Path, image_column: str) -> Iterator[ImageItem]:
    """The cells of a column, without what they hold."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if image_column not in file.schema_arrow.names:
                raise ValueError(_no_column(image_column, file.schema_arrow.names, str(path)))
            if file.schema_arrow.names.count(image_column) > 1:
                raise ValueError(f"The image source {str(path)!r} has two columns {image_column!r}: rename one.")
            kind = file.schema_arrow.field(image_column).type
            if not _holds_images(kind):
                raise ValueError(
                    f"The column {image_column!r} of {str(path)!r} holds {str(kind)[:80]}: images are encoded bytes, "
                    "paths, or both, as `datasets` stores them."
                )
            fields = [kind.field(place).name for place in range(kind.num_fields)] if pa.types.is_struct(kind) else []
            are_texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            column = f"{image_column}.path" if "path" in fields else image_column if are_texts else None
            row = 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                names = _cells_of(file, group, column) if column else itertools.repeat(None, count)
                for place, name in enumerate(names):
                    fallback = f"{path}/row {row}"
                    if are_texts:
                        yield _from_value(name, fallback)
                    else:
                        yield _named(
                            name or fallback, TableImage(name or fallback, str(path), image_column, group, place)
                        )
                    row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"The image source {str(path)!r} is not a Parquet file, or is damaged: {reason}.") from error


def _holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold images: encoded bytes, paths, or both in a record."""
    if pa.types.is_struct(kind):
        parts = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
        known = {name: part for name, part in parts.items() if name in ("bytes", "path")}
        return bool(known) and not any(pa.types.is_nested(part) or not _holds_images(part) for part in known.values())
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return str(kind).removeprefix("large_").removesuffix("_view") in ("string", "binary", "null")


def _cells_of(file: pq.ParquetFile, group: int, column: str) -> Iterator[str | None]:
    for batch in file.iter_batches(row_groups=[group], columns=[column]):
        values = batch.column(0)
        yield from (values.field(0) if pa.types.is_struct(values.type) else values).to_pylist()


def _read_tar(path: Path, image_column: str) -> Iterator[ImageItem]:
    """Image members of an archive in their order; where it is damaged or cut off, an item says so."""
    try:
        with tarfile.open(path, "r|*" if _is_compressed(path) else "r:", tarinfo=StrictTarInfo) as archive:
            for member in archive:
                if not member.isdir() and Path(member.name).suffix.lower() in IMAGE_SUFFIXES:
                    yield _from_member(archive, member, str(path))
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all headers
            _require_end(archive)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        yield ImageItem(str(path), None, f"cannot read archive {str(path)!r} to its end: {error}.")


def _from_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> ImageItem:
    name = f"{path}/{member.name}"
    if not (member.isreg() or member.islnk() or member.issym()):
        return _unreadable(name, "it is not a regular file")
    if member.isreg() and not member.issparse() and not _is_compressed(Path(path)):
        return _named(name, ArchivedImage(name, path, member.offset_data, member.size))
    if member.size > MAX_IMAGE_BYTES:
        return _unreadable(name, f"it has {member.size} bytes, more than the limit of {MAX_IMAGE_BYTES}")
    try:
        if member.isreg():
            content = archive.extractfile(member).read()  # type: ignore[union-attr]
        else:  # a link: its target is looked up in the whole archive
            with tarfile.open(path) as whole, whole.extractfile(member.name) as target:  # type: ignore[union-attr]
                content = target.read(MAX_IMAGE_BYTES)
    except (KeyError, TypeError, AttributeError, RecursionError):  # a link to itself among them
        return _unreadable(name, "it is a link whose target is not there")
    return _named(name, content)


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))


def _require_end(archive: tarfile.TarFile) -> None:
    """Raises an error where anything comes after the end mark: what tarfile passes over would be lost."""
    file: Any = archive.fileobj
    if isinstance(archive.fileobj, io.BufferedReader):
        file.seek(archive.offset)  # type: ignore[attr-defined]
    while chunk := file.read(2**20):
        if chunk.strip(b"\0"):
            raise tarfile.ReadError("more data come after its end mark")


def _open_rows(source: Any, image_column: str) -> Iterator[ImageItem]:
    if isinstance(source, datasets.Column) and isinstance(source.source, datasets.Dataset):
        source, image_column = source.source, source.column_name
    rows = open_rows(source, "images")
    names = getattr(rows, "column_names", None)
    if names is not None:
        if image_column not in names:
            raise ValueError(_no_column(image_column, names, "the data set"))
        if hasattr(rows, "select_columns"):
            rows = rows.select_columns([image_column])
    if isinstance((getattr(rows, "features", None) or {}).get(image_column), datasets.Image):
        rows = rows.cast_column(image_column, datasets.Image(decode=False))
    return (_from_row(row, image_column, f"row {number}") for number, row in enumerate(iterate_rows(rows)))


def _from_row(row: Any, image_column: str, fallback: str) -> ImageItem:
    if isinstance(row, (list, tuple)) and len(row) == 2:  # an image and its labels
        row = row[0]
    is_row = isinstance(row, Mapping) and not {"bytes", "path"} & set(row)
    return _from_value(row.get(image_column) if is_row else row, fallback)


def _from_value(value: Any, fallback: str) -> ImageItem:
    """An item of what a column holds."""
    if isinstance(value, (str, Path)):
        is_url = str(value).startswith(("http://", "https://"))
        return ImageItem(str(value), str(value)) if is_url else _from_path(str(value))
    if isinstance(value, dict) and {"bytes", "path"} & set(value):
        content, path = value.get("bytes"), value.get("path")
        return _from_path(path) if content is None and path else _named(path or fallback, content)
    if isinstance(value, io.BytesIO):
        value = value.getvalue()
    if is_image(value):
        return ImageItem(fallback, value)
    return _unreadable(fallback, "the row holds no image")


def _no_column(column: str, columns: Sequence[str], source: str) -> str:
    return (
        f"There is no column {column!r} in {source}, it has {', '.join(map(repr, columns)) or 'none'}: name the right "
        "one in `image_column`."
    )


__all__ = ["IMAGE_SUFFIXES", "ImageItem", "count_images", "is_image", "open_images"]
