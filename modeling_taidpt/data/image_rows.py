"""Images of whatever people hand over, as rows of one form that know their labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from ..captions.label_columns import check_labels_matrix, label_matrix
from ..captions.labels import match_columns
from ..captions.rows import ColumnRows, class_names_of, iterate_rows, open_rows
from ..pipelines.pixels import image_pixels
from .collator import open_image
from .dataset import IMAGE, LABELS, UNKNOWN
from .loaders import is_labelled, load_images
from .sources import is_image, open_images

PIXELS = "pixel_values"
NO_LABELS = "The images have no labels: give `labels`, for each image the names of what it shows."


class ImageRows(Sequence):
    """Images in one form, each a dictionary with the image or its pixels, and maybe labels; see [`read_images`].

    Args:
        rows (`Sequence`): mappings, pairs of image and labels, or images.
        image_column (`str`, *optional*, defaults to `"image"`): column of the images.

    Raises:
        ValueError: If there are none, or there is no such column.
    """

    def __init__(self, rows: Any, image_column: str = IMAGE) -> None:
        if not len(rows):
            raise ValueError("There are no images: the data set is empty.")
        if isinstance(rows, datasets.Dataset) and isinstance(rows.features.get(image_column), datasets.Image):
            rows = rows.cast_column(image_column, datasets.Image(decode=False))
        self.rows, self.image_column = rows, image_column
        self.own_labels: tuple[Any, list[str] | None] | None = None
        self.columns = list(self[0])
        if PIXELS not in self.columns and image_column not in self.columns:
            raise ValueError(
                f"The images have no column {image_column!r} but {', '.join(map(str, self.columns))}: name that of "
                "the images."
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, index: Any) -> Mapping[str, Any]:
        """Return a row."""
        if not 0 <= index < len(self.rows):
            raise IndexError(index)
        row = self.rows[int(index)]
        if isinstance(row, Mapping) and not _is_stored_image(row):
            return row
        if _is_pair(row):
            return {self.image_column: row[0], LABELS: row[1]}
        return {self.image_column: row}

    def with_labels(self, labels: Any) -> ImageRows:
        """The same images with other labels, one entry per image; they are read by [`~ImageRows.labels`].

        Raises:
            ValueError: If their number is another.
        """
        answers = open_rows(labels, "labels")
        answers = answers if hasattr(answers, "__len__") else list(answers)
        if len(answers) != len(self):
            raise ValueError(f"There are {len(self)} images and labels for {len(answers)}: give labels for each.")
        rows = ImageRows(self.rows, self.image_column)
        rows.own_labels = answers, class_names_of(labels)
        return rows

    def has_labels(self, column: str = LABELS) -> bool:
        """Whether there are labels."""
        return self.own_labels is not None or column in self.columns

    def labels(self, names: Sequence[str], column: str | None = LABELS) -> np.ndarray:
        """The labels of all images for the labels of a model.

        Args:
            names (`Sequence[str]`): the labels of the model.
            column (`str`, *optional*, defaults to `"labels"`): column of the labels; `None` for no labels. Classes in
                a column `unknown` beside it are not known.

        Returns:
            `np.ndarray` of shape `(images, names)`: int8; 0 or 1, or partial labels -1, 0 and 1 (0 unknown).

        Raises:
            ValueError: If there is no such column, or an entry is not a label; the row is named.
        """
        if column is None:
            return np.zeros((len(self), len(names)), dtype=np.int8)
        if not self.has_labels(column):
            columns = ", ".join(map(str, self.columns))
            raise ValueError(f"The images have no column {column!r} but {columns}: name that of the labels.")
        values, classes = self._label_values(column)
        if isinstance(values, ColumnRows):  # a column per class
            order = match_columns(values.column_names, names, "the table of labels")
            return check_labels_matrix([[list(row.values())[place] for place in order] for row in values])
        labels = label_matrix(values, names, "the images", classes)  # (images, names)
        if self.own_labels is None and UNKNOWN in self.columns:
            unknown = label_matrix(*self._column(UNKNOWN, names)) == 1  # (images, names)
            labels = np.where(labels == 1, 1, -1 + unknown).astype(np.int8)  # (images, names)
        return labels

    def _label_values(self, column: str) -> tuple[Any, list[str] | None]:
        if self.own_labels is not None:
            return self.own_labels
        values, _, _, classes = self._column(column, ())
        return values, classes

    def _column(self, name: str, names: Sequence[str]) -> tuple[Any, Sequence[str], str, list[str] | None]:
        """The arguments of [`label_matrix`] that read a column."""
        if isinstance(self.rows, datasets.Dataset):
            return self.rows.select_columns([name])[name], names, "the images", class_names_of(self.rows, name)
        return [row.get(name) for row in self], names, "the images", None

    def content(self, index: int) -> bytes:
        """What an image is made of, for a fingerprint.

        Raises:
            ValueError: If it cannot be read; its row is named.
        """
        row = self[index]
        if PIXELS in row:
            return np.ascontiguousarray(np.asarray(row[PIXELS], dtype=np.float32)).tobytes()
        image = row.get(self.image_column)
        if _is_stored_image(image):
            image = image["bytes"] if image.get("bytes") is not None else image.get("path")
        if isinstance(image, bytes):
            return image
        if isinstance(image, (str, Path)) and os.path.isfile(image):
            try:
                return Path(image).read_bytes()
            except OSError as error:
                raise _unreadable(index, image, error) from error
        image = self.image(index)
        return f"{image.mode} {image.size} ".encode() + image.tobytes()

    def image(self, index: int) -> Image.Image:
        """An image, RGB, turned as its EXIF data say.

        Raises:
            ValueError: If it cannot be read; its row is named.
        """
        image = self[index].get(self.image_column)
        try:
            return open_image(image)
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises on broken files
            raise _unreadable(index, image, error) from error

    def pixels(self, index: int, processor: Any, settings: Mapping[str, Any] | None = None) -> torch.Tensor:
        """Pixels `(3, height, width)` of an image, normalized by an image processor with some settings replaced."""
        row = self[index]
        if PIXELS in row:
            return torch.as_tensor(row[PIXELS])
        return torch.as_tensor(image_pixels(processor, self.image(index), settings)[0])  # (3, height, width)


class LabelledImages(torch.utils.data.Dataset):
    """Some rows of images with labels that are read already.

    Args:
        images ([`ImageRows`]): the images.
        labels (`np.ndarray` of shape `(rows, classes)`): labels.
        rows (`np.ndarray` of shape `(rows,)`, *optional*): which of the images; all by default.
    """

    def __init__(self, images: ImageRows, labels: np.ndarray, rows: np.ndarray | None = None) -> None:
        self.images, self.labels = images, labels
        self.rows = np.arange(len(images)) if rows is None else rows

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the image, or its pixels, and its labels `(classes,)`."""
        row = self.images[int(self.rows[index])]
        name = PIXELS if PIXELS in row else self.images.image_column
        return {PIXELS if PIXELS in row else IMAGE: row[name], LABELS: self.labels[index]}


def read_images(data: Any, image_column: str = IMAGE) -> ImageRows:
    """Brings images of any kind into rows of one form; none is decoded.

    Args:
        data (`Any`): a data set of `datasets` or PyTorch, one of its columns, a frame of pandas, polars or Arrow, a
            dictionary of columns, a list, an array `(images, height, width, 3)` or an iterator: of rows with `image`
            (a PIL image, a path, a URL, bytes or an array) or `pixel_values`, of pairs of image and labels, or of
            images; a single image; or the path of a folder with labels as for [`load_images`], or of images as for
            [`open_images`].
        image_column (`str`, *optional*, defaults to `"image"`): column of the images.

    Returns:
        [`ImageRows`].

    Raises:
        FileNotFoundError: If there is no such file or folder.
        TypeError: If it is a dictionary of splits, a stream, or nothing that holds images.
        ValueError: If there are no images, or no such column.
    """
    if isinstance(data, ImageRows):
        return data
    if isinstance(data, (str, Path)):
        return _read_path(data)
    if is_image(data) or (isinstance(data, Mapping) and _is_stored_image(data)):
        return ImageRows([data], image_column)
    if isinstance(data, datasets.Column) and isinstance(data.source, datasets.Dataset):
        return ImageRows(data.source.select_columns([data.column_name]), data.column_name)
    rows = open_rows(data, "images")
    if not hasattr(rows, "__len__"):
        if not isinstance(rows, Iterator):
            raise TypeError(
                f"The images are a stream ({type(rows).__name__}): give a data set with a length, as of "
                "`Dataset.from_generator`."
            )
        rows = list(rows)
    return ImageRows(rows, image_column)


def _read_path(path: str | Path) -> ImageRows:
    if is_labelled(path):
        return ImageRows(load_images(path))
    if str(path).startswith(("http://", "https://")):
        return ImageRows([str(path)])
    items = list(open_images(path))
    for item in items:
        if item.error is not None:
            raise ValueError(f"{item.error[:1].upper()}{item.error[1:]}")
    if not items:
        raise ValueError(f"There are no images in {str(path)!r}: name a folder that holds some.")
    return ImageRows(
        [
            {IMAGE: {"path": item.name, "bytes": item.payload}}
            if isinstance(item.payload, bytes)
            else {IMAGE: item.payload}
            for item in items
        ]
    )


def holds_images(data: Any, image_column: str = IMAGE) -> bool:
    """Whether what somebody hands over to learn from holds images, not captions; no iterator is advanced."""
    if isinstance(data, (str, Path)):
        return is_labelled(data)
    if isinstance(data, ImageRows) or is_image(data) or isinstance(getattr(data, "features", None), datasets.Image):
        return True
    try:
        rows = open_rows(data, "data")
        columns = getattr(rows, "column_names", None)
        if columns is None and len(rows):
            first = next(iterate_rows(rows))
            columns = [image_column] if is_image(first[0] if _is_pair(first) else first) else first
    except (TypeError, ValueError):  # reading it will say what is wrong
        return False
    return isinstance(columns, (list, tuple, Mapping)) and (image_column in columns or PIXELS in columns)


def _is_pair(row: Any) -> bool:
    """Whether a row is an image and its labels, as data sets of torchvision give them."""
    is_two = isinstance(row, (list, tuple)) and len(row) == 2
    return is_two and (is_image(row[0]) or (isinstance(row[0], (str, Path)) and not isinstance(row[1], (str, Path))))


def _is_stored_image(value: Any) -> bool:
    """Whether a value is an image as `datasets` stores it."""
    return isinstance(value, Mapping) and set(value) == {"bytes", "path"}


def _unreadable(index: int, image: Any, error: Exception) -> ValueError:
    path = image.get("path") if isinstance(image, Mapping) else image
    name = f" ({path})" if isinstance(path, (str, Path)) else ""
    reason = str(error).rstrip(".") or type(error).__name__
    return ValueError(f"The image in row {index}{name} cannot be read: {reason}.")


__all__ = ["NO_LABELS", "ImageRows", "LabelledImages", "holds_images", "read_images"]
