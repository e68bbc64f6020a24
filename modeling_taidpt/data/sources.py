"""Images of any number as a stream of names and payloads, in an order that does not change between runs.

Nothing is decoded here and nothing is held: a folder is walked, a table or an archive is read row by row.
"""

from __future__ import annotations

import itertools
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from PIL import Image

# What Pillow reads, without the formats that are documents or that are decoded outside of Pillow.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".ppm"}
)
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
        source (`str`, `Path`, a list of them, `Dataset` or `IterableDataset`): a folder (walked, by name), an image, a
            .txt file with a path a line, .parquet files or .tar archives (as WebDataset makes them), several of these
            in a list, or a data set of `datasets`.
        image_column (`str`, *optional*, defaults to `"image"`): column of a data set or a Parquet file: encoded bytes,
            paths, or `{"bytes", "path"}` as `datasets` stores images.

    Returns:
        `Iterator[ImageItem]`: in constant memory.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the column is missing, or the kind of file is none of these.
    """
    if isinstance(source, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        raise ValueError(
            f"The images are a dictionary of splits ({', '.join(map(repr, source))}): pass one of them, as "
            f"dataset[{next(iter(source), 'train')!r}]."
        )
    if isinstance(source, (datasets.Dataset, datasets.IterableDataset)):
        return _open_dataset(source, image_column)
    sources = [source] if isinstance(source, (str, Path)) else source
    if not isinstance(sources, Sequence):
        raise ValueError(f"Images cannot be listed from a {type(source).__name__}: give {SOURCE_KINDS}.")
    for path in sources:  # before the first image is tagged, not after the millionth
        _reader(Path(path))
    return itertools.chain.from_iterable(_reader(Path(path))(Path(path), image_column) for path in sources)


def count_images(source: Any, image_column: str = "image") -> int | None:
    """Counts the images of a source without reading them, for the total of a progress bar.

    Args:
        source (`str`, `Path`, a list of them, `Dataset` or `IterableDataset`): as in [`open_images`].
        image_column (`str`, *optional*, defaults to `"image"`): as in [`open_images`].

    Returns:
        `int`: as many as [`open_images`] gives; `None` where only reading all of them would tell.
    """
    if isinstance(source, datasets.Dataset):
        return len(source)
    if isinstance(source, datasets.IterableDataset):
        return None
    paths = [Path(path) for path in ([source] if isinstance(source, (str, Path)) else source)]
    try:
        return sum(_count(path, image_column) for path in paths)
    except (OSError, ValueError, tarfile.TarError):  # what is wrong is said where it is read
        return None


def _count(path: Path, image_column: str) -> int:
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_metadata(path).num_rows
    if suffix == ".tar":
        with tarfile.open(path, "r:") as archive:  # from header to header
            return sum(_is_image(member) for member in archive)
    return sum(1 for _ in _reader(path)(path, image_column))


def _is_image(member: tarfile.TarInfo) -> bool:
    return member.isfile() and Path(member.name).suffix.lower() in IMAGE_SUFFIXES


def _reader(path: Path) -> Callable[[Path, str], Iterable[ImageItem]]:
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
        return lambda image, _: [ImageItem(str(image), str(image))]
    if suffix not in readers:
        raise ValueError(f"The image source {str(path)!r} is of no kind that is known: give {SOURCE_KINDS}.")
    return readers[suffix]


def _walk(folder: Path, image_column: str) -> Iterator[ImageItem]:
    """Images below a folder, names in sorted order, one folder's listing in memory at a time.

    A folder that holds a file `.nomedia` is passed over, as media scanners do: galleries of thumbnails have one.
    """
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    if any(entry.name == ".nomedia" for entry in entries):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), image_column)
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            yield ImageItem(entry.path, entry.path)


def _read_list(path: Path, image_column: str) -> Iterator[ImageItem]:
    """Paths of a text file; relative ones start at the file's folder if they are not found from here."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                name = line.rstrip("\r\n")
                if name.strip():
                    beside = path.parent / name
                    found = os.path.exists(name) or name.startswith(("http://", "https://"))
                    yield ImageItem(name, str(beside) if not found and beside.exists() else name)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The list {str(path)!r} is not UTF-8 text (byte {error.start}): convert it first."
        ) from error


def _read_parquet(path: Path, image_column: str) -> Iterator[ImageItem]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if image_column not in file.schema_arrow.names:
                raise ValueError(_no_column(image_column, file.schema_arrow.names, str(path)))
            rows = (
                value
                for batch in file.iter_batches(batch_size=256, columns=[image_column])
                for value in batch.column(0).to_pylist()
            )
            yield from (_from_value(value, f"{path}/row {number}") for number, value in enumerate(rows))
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"The image source {str(path)!r} is no Parquet file: {reason}.") from error


def _read_tar(path: Path, image_column: str) -> Iterator[ImageItem]:
    """Image members of an archive in their order; where it is cut off, an item says so."""
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if _is_image(member):
                    content = archive.extractfile(member)
                    yield ImageItem(f"{path}/{member.name}", content.read() if content else None)
    except (tarfile.TarError, EOFError, OSError) as error:
        yield ImageItem(str(path), None, f"cannot read archive {str(path)!r} to its end: {error}.")


def _open_dataset(dataset: Any, image_column: str) -> Iterator[ImageItem]:
    if dataset.column_names is not None:
        if image_column not in dataset.column_names:
            raise ValueError(_no_column(image_column, dataset.column_names, "the data set"))
        dataset = dataset.select_columns([image_column])
    features = dataset.features or {}
    if isinstance(features.get(image_column), datasets.Image):
        dataset = dataset.cast_column(image_column, datasets.Image(decode=False))
    return _dataset_items(dataset, image_column)


def _dataset_items(dataset: Iterable[Any], image_column: str) -> Iterator[ImageItem]:
    for number, row in enumerate(dataset):
        yield _from_value(row.get(image_column), f"row {number}")


def _from_value(value: Any, fallback: str) -> ImageItem:
    """An item of what a column holds."""
    if isinstance(value, str):
        return ImageItem(value, value)
    if isinstance(value, dict) and {"bytes", "path"} & set(value):
        content, path = value.get("bytes"), value.get("path")
        return ImageItem(path or fallback, path if content is None else content)
    if isinstance(value, (bytes, Image.Image)):
        return ImageItem(fallback, value)
    return ImageItem(fallback, None, f"cannot read image {fallback!r}: the row holds no image.")


def _no_column(column: str, columns: Sequence[str], source: str) -> str:
    return (
        f"There is no column {column!r} in {source}, it has {', '.join(map(repr, columns)) or 'none'}: name the right "
        "one in `image_column`."
    )


__all__ = ["IMAGE_SUFFIXES", "ImageItem", "count_images", "open_images"]
