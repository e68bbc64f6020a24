"""What people hand to the pipeline, as images that know their index: one image, many in memory, or a stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from .image_reading import IMAGE_KINDS, ImageEntry

ONE_IMAGE = (str, Path, bytes, bytearray, memoryview, Image.Image)


class ImageEntries(Dataset):
    """A map-style data set whose images know their index, also those that the data set fails to decode."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> ImageEntry:
        try:
            return ImageEntry(self.dataset[index], index)
        except Exception as error:
            return ImageEntry(None, index, error)


def read_inputs(inputs: Any) -> Any:
    """Sorts what the pipeline was called with.

    Args:
        inputs (`Any`): one image, or a list, tuple, array of frames, series, column, data set, generator of them.

    Returns:
        `Any`: one image as it came, a list of [`ImageEntry`], [`ImageEntries`], or a generator of [`ImageEntry`].

    Raises:
        ValueError: it is none of these, or a table whose column of images must be named; one sentence.
    """
    if inputs is None:
        raise ValueError(f"There is no image: give {IMAGE_KINDS}, or several of them in a list.")
    if isinstance(inputs, Mapping) and {"bytes", "path"} & set(inputs):
        return inputs
    if isinstance(inputs, Mapping) or hasattr(inputs, "column_names") or hasattr(inputs, "columns"):
        raise ValueError(
            f"A `{type(inputs).__name__}` has columns: pass the one with images, as `dataset['image']`, or as "
            "`KeyDataset(dataset, 'image')` of transformers.pipelines.pt_utils."
        )
    if isinstance(inputs, (np.ndarray, torch.Tensor)):
        listed = inputs.ndim == 4 or (isinstance(inputs, np.ndarray) and inputs.dtype == object)
        return _entries(inputs) if listed else inputs
    if isinstance(inputs, ONE_IMAGE) or hasattr(inputs, "read"):
        return inputs
    if isinstance(inputs, (list, tuple)):
        return _entries(inputs)
    if isinstance(inputs, IterableDataset):
        return (ImageEntry(source, index) for index, source in enumerate(inputs))
    if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
        is_series = hasattr(inputs, "iloc")  # of pandas: its items are found by label, not by index
        return _entries(inputs) if is_series else ImageEntries(_undecoded(inputs))
    if isinstance(inputs, Iterable):
        return (ImageEntry(source, index) for index, source in enumerate(inputs))
    return inputs  # the reader says what it is and why it cannot be read


def _entries(images: Iterable[Any]) -> list[ImageEntry]:
    return [ImageEntry(source, index) for index, source in enumerate(images)]


def _undecoded(column: Any) -> Any:
    """A column of a data set of `datasets` as it is stored, which leaves decoding to us; anything else as it is.

    `datasets` decodes with every decoder that Pillow knows, Ghostscript among them.

    Args:
        column (`Any`): a `KeyDataset` of transformers, a `datasets.arrow_dataset.Column`, or another sequence.
    """
    dataset = getattr(column, "dataset", getattr(column, "source", None))
    name = getattr(column, "key", getattr(column, "column_name", None))
    features = getattr(dataset, "features", None)
    feature = features.get(name) if isinstance(features, Mapping) and isinstance(name, str) else None
    if not getattr(feature, "decode", False) or not hasattr(dataset, "cast_column"):
        return column
    dataset = dataset.select_columns([name])
    return dataset.cast_column(name, dataclasses.replace(feature, decode=False))[name]


__all__ = ["ImageEntries", "read_inputs"]
