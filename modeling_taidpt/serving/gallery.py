"""A gallery of tagging results: one folder of static files that opens from a disk, without a server or a network.

The rows are scripts of 1,000 images each, as browsers load scripts from a disk and no JSON. A new gallery replaces an
earlier one at once, when its `index.html` does; thumbnails that are there already are used again.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader
from tqdm.auto import tqdm

from ..atomic import plain_disk_errors, remove_leftovers, staged_file
from ..data.sources import ImageItem, open_images
from ..data.stored_images import is_regular
from .formats import TaggedImage, read_results, read_tables, result_files
from .shown_text import visible_text
from .summary import LEAST_SCORE
from .thumbnails import write_thumbnails

TEMPLATES = Path(__file__).parents[1] / "assets" / "gallery"
CHUNK_ROWS = 1000  # images in a script
MOST_LABELS = 100  # of an image, those of the highest scores
MOST_CHARACTERS = 200  # of a label
STEPS = 65_500  # of a score, in two bytes: each of the slider, 0.01, is a whole number of them
MARK = 'content="taidpt gallery"'  # in the index of every gallery
_DATA = re.compile(r"data-[0-9a-f]{8}")
_THUMBNAIL = re.compile(r"[0-9a-f]{2}/[0-9a-f]{22}\.jpg")


@dataclass
class GalleryReport:
    """What a gallery shows.

    Attributes:
        images (`int`): images in it.
        errors (`int`): images among them that could not be read, now or when they were tagged.
        index (`str`): the page to open.
    """

    images: int
    errors: int
    index: str


def write_gallery(
    results: str | Path,
    output_dir: str | Path | None = None,
    images: Any = None,
    *,
    threshold: float = LEAST_SCORE,
    title: str | None = None,
    image_column: str = "image",
    progress: bool = True,
) -> GalleryReport:
    """Writes a gallery of the results of [`tag_images`].

    Args:
        results (`str` or `Path`): folder or file that [`tag_images`] wrote.
        output_dir (`str` or `Path`, *optional*): folder of the gallery; `RESULTS_gallery` beside the results by
            default.
        images (`str`, `Path`, a list of them, `Dataset` or `IterableDataset`, *optional*): what was tagged, where the
            rows do not name files, as with archives and data sets. By default the files that the rows name, looked
            for from the current folder.
        threshold (`float`, *optional*, defaults to 0.5): where the slider is at first; 0 for results that hold only
            labels that were found.
        title (`str`, *optional*): heading of the page; by default the name of the results.
        image_column (`str`, *optional*, defaults to `"image"`): column of a data set or Parquet file.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Returns:
        [`GalleryReport`].

    Raises:
        FileNotFoundError: there are no results, or none of their images.
        ValueError: the folder holds a page that is not a gallery, or the threshold is not from 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` is {threshold}: give a score from 0 to 1.")
    files, results = result_files(results), Path(results)
    results = results if results.name.strip(".") else Path(os.path.abspath(results))  # "." has no name
    folder = Path(output_dir) if output_dir is not None else results.with_name(f"{results.stem}_gallery")
    rows = (row for path in files for row in read_results(path))
    items = _items(rows, None if images is None else open_images(images, image_column))
    is_new = not folder.exists()
    _open_folder(folder)
    total = sum(table.num_rows for path in files for table in read_tables(path, ["path"])) if progress else None
    data = folder / f"data-{uuid.uuid4().hex[:8]}"
    data.mkdir()
    writer = _ChunkWriter(data, folder)
    try:
        with plain_disk_errors(folder):
            bar = tqdm(items, desc="Gallery", unit="image", total=total, disable=not progress)
            for chunk in _chunks(bar, folder / "thumbs"):
                writer.write(chunk)
        if writer.images and not writer.thumbnails and writer.missing:
            if is_new:
                shutil.rmtree(folder)
            raise FileNotFoundError(
                f"None of the images in {str(results)!r} is there, as {writer.missing!r}: go to the folder where "
                "`tag` was run, or name what was tagged as `images`."
            )
        with plain_disk_errors(folder):
            _write_page(folder, writer, threshold, title or f"Tags of {results.resolve().stem}")
        if len(list(data.glob("*.js"))) != writer.chunks:
            raise FileNotFoundError(
                f"The folder {str(folder)!r} was deleted while the gallery was written: make it again."
            )
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise
    _sweep(folder, data.name, writer.thumbnails)
    return GalleryReport(writer.images, writer.errors, str(folder / "index.html"))


def _open_folder(folder: Path) -> None:
    """Makes the folder, or checks that what is there is a gallery."""
    if folder.is_file():
        raise ValueError(f"The gallery's folder {str(folder)!r} is a file: name another folder.")
    index = folder / "index.html"
    if index.exists() and not (is_regular(index) and MARK in index.read_text("utf-8", "replace")[:2000]):
        raise ValueError(f"{str(index)!r} is not the page of a gallery: name another folder.")
    thumbnails = folder / "thumbs"
    thumbnails.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    remove_leftovers(thumbnails)
    (thumbnails / ".nomedia").touch()  # they are not tagged when a folder around them is; photographs beside them are


def _items(rows: Iterable[TaggedImage], images: Iterator[ImageItem] | None) -> Iterator[tuple[TaggedImage, ImageItem]]:
    """Each row with its image; images are in the order of the rows, and may be more."""
    for row in rows:
        if row.error is not None:
            yield row, ImageItem(row.path, None, row.error)
        elif images is None:
            there = os.path.isfile(row.path)
            yield row, ImageItem(row.path, row.path if there else None, None if there else _missing(row.path))
        else:
            found = next((item for item in images if item.name == row.path), None)
            yield row, found or ImageItem(row.path, None, _missing(row.path))


def _missing(path: str) -> str:
    return f"cannot read image {path!r}: it is not there any more."


def _chunks(
    items: Iterable[tuple[TaggedImage, ImageItem]], thumbnails: Path
) -> Iterator[list[tuple[TaggedImage, ImageItem, str, str | None]]]:
    """Rows with their images and thumbnails, or why there is none, as many as go into a script."""
    pairs = iter(items)
    # Images may be held as bytes: a chunk keeps their names alone.
    while True:
        kept: list[tuple[TaggedImage, ImageItem]] = []

        def taken() -> Iterator[ImageItem]:
            for row, item in itertools.islice(pairs, CHUNK_ROWS):
                on_disk = isinstance(item.payload, str) and os.path.isfile(item.payload)
                kept.append((row, item._replace(payload=item.payload if on_disk else None)))  # noqa: B023
                yield item

        made = list(write_thumbnails(taken(), thumbnails))
        if not made:
            return
        yield [(row, item, *thumbnail) for (row, item), thumbnail in zip(kept, made, strict=True)]


class _ChunkWriter:
    """Writes scripts, and counts what is in them."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder = data, folder
        self.labels: dict[str, int] = {}
        self.images = self.errors = self.chunks = 0
        self.thumbnails: set[str] = set()
        self.missing = ""

    def write(self, chunk: list[tuple[TaggedImage, ImageItem, str, str | None]]) -> None:
        """Writes the script of some images."""
        sizes, labels, scores = [], [], []
        errors: dict[int, str] = {}
        for index, (row, _, thumbnail, error) in enumerate(chunk):
            pairs = sorted(zip(row.labels, row.scores, strict=True), key=lambda pair: -pair[1])[:MOST_LABELS]
            sizes.append(len(pairs))
            labels += [self.labels.setdefault(label, len(self.labels)) for label, _ in pairs]
            scores += [score for _, score in pairs]
            if error is not None:
                errors[index] = visible_text(error)
                self.missing = self.missing or (row.path if error == _missing(row.path) else "")
            self.thumbnails |= {thumbnail} if thumbnail else set()
        if len(self.labels) > np.iinfo(np.uint16).max:
            raise ValueError(
                f"The results hold {len(self.labels):,} labels, a gallery takes 65,535: use fewer labels."
            )
        values = {
            "paths": [visible_text(row.path) for row, *_ in chunk],
            "thumbs": [f"thumbs/{thumbnail}" if thumbnail else "" for *_, thumbnail, _ in chunk],
            "full": [_address(item.payload, self.folder) for _, item, *_ in chunk],
            "errors": errors,
            "sizes": _packed(np.array(sizes)),
            "labels": _packed(np.array(labels)),
            "scores": _packed(np.rint(np.clip(np.nan_to_num(np.array(scores, dtype=float)), 0, 1) * STEPS)),
        }
        path = self.data / f"chunk-{self.chunks:05d}.js"
        path.write_text(f"addRows({json.dumps(values)});\n", encoding="utf-8")
        self.images, self.errors, self.chunks = self.images + len(chunk), self.errors + len(errors), self.chunks + 1


def _packed(values: np.ndarray) -> str:
    """Whole numbers below 65,536 as base64 text, two bytes each, the lower first."""
    return base64.b64encode(values.astype("<u2").tobytes()).decode("ascii")


def _address(path: str | None, folder: Path) -> str:
    """A file's address from the page: relative, so that both may move together."""
    if path is None:
        return ""
    try:
        relative = os.path.relpath(os.path.abspath(path), os.path.abspath(folder))
    except ValueError:  # on another drive
        return Path(path).absolute().as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _write_page(folder: Path, writer: _ChunkWriter, threshold: float, title: str) -> None:
    meta = {
        "total": writer.images,
        "chunks": writer.chunks,
        "folder": writer.data.name,
        "labels": [visible_text(label, MOST_CHARACTERS) for label in writer.labels],
        "threshold": threshold,
    }
    page = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template("index.html")
    with staged_file(folder / "index.html") as staged:
        staged.write_text(page.render(meta=meta, title=visible_text(title)), encoding="utf-8")


def _sweep(folder: Path, data: str, thumbnails: set[str]) -> None:
    """Deletes what an earlier gallery left that the new one does not use."""
    for path in folder.glob("data-*"):
        if _DATA.fullmatch(path.name) and path.name != data:
            shutil.rmtree(path, ignore_errors=True)
    for path in (folder / "thumbs").glob("*/*.jpg"):
        name = f"{path.parent.name}/{path.name}"
        if _THUMBNAIL.fullmatch(name) and name not in thumbnails:
            path.unlink(missing_ok=True)


__all__ = ["GalleryReport", "write_gallery"]
