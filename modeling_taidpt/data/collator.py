"""Batches of labelled photographs, for measuring a model on images while it learns from captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..hub import clip_image_processor, find_image_processor
from ..pipelines.image_reading import ImageEntry, read_image
from .partial_labels import label_matrix


class ImageCollator:
    """Makes a batch of rows with `image` (a picture, bytes or path) or `pixel_values`, and `labels`.

    Args:
        processor: an image processor of transformers.
        labels (`Sequence[str]`): the labels of the model.
        transform (`Callable`, *optional*): changes each picture before it is processed.
    """

    def __init__(
        self, processor: Any, labels: Sequence[str], transform: Callable[[Image.Image], Image.Image] | None = None
    ) -> None:
        """Keep the three."""
        self.processor, self.labels, self.transform = processor, list(labels), transform

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make the batch.

        Returns:
            `dict[str, torch.Tensor]`: `pixel_values` `(batch, 3, height, width)` and `labels` `(batch, classes)`.

        Raises:
            ValueError: If a row has no picture or no labels.
        """
        for row in rows:
            if "labels" not in row or not ("image" in row or "pixel_values" in row):
                raise ValueError(
                    f"A row of the evaluation images has {', '.join(map(repr, row))}: it needs 'labels', and "
                    "'image' or 'pixel_values'."
                )
        # Row by row: whether a row is multi-hot must not depend on its batch.
        source = "the evaluation images"
        labels = [label_matrix([row["labels"]], self.labels, source) for row in rows]  # (1, classes) each
        if "pixel_values" in rows[0]:
            pixels = torch.stack([torch.as_tensor(row["pixel_values"]) for row in rows])  # (batch, 3, height, width)
        else:
            pictures = [open_image(row["image"]) for row in rows]
            if self.transform is not None:
                pictures = [self.transform(picture) for picture in pictures]
            pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.from_numpy(np.concatenate(labels)).float()}


def open_image(picture: Any) -> Image.Image:
    """Opens a picture, its bytes, its path, or what `datasets` stores of it: RGB, turned as its EXIF data say.

    As the pipeline does; a `ValueError` says what cannot be read, and why.
    """
    return read_image(ImageEntry(picture))


__all__ = ["ImageCollator", "clip_image_processor", "find_image_processor", "open_image"]
