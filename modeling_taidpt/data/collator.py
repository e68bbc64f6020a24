"""Batches of labelled photographs, for measuring a model on images while it learns from captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..pipelines.image_reading import ImageEntry, read_image
from ..pipelines.pixels import image_pixels
from ..pipelines.processor_checks import check_processor


class ImageCollator:
    """Makes a batch of rows with `image` (an image, its bytes or path) or `pixel_values`, and `labels`.

    Args:
        processor: an image processor of transformers.
        transform (`Callable`, *optional*): changes each image before it is processed.
    """

    def __init__(self, processor: Any, transform: Callable[[Image.Image], Image.Image] | None = None) -> None:
        check_processor(processor, type(processor).__name__)
        self.processor, self.transform = processor, transform

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make the batch of rows of [`LabelledImages`].

        Returns:
            `dict[str, torch.Tensor]`: `pixel_values` `(batch, 3, height, width)` and `labels` `(batch, classes)`.
        """
        labels = torch.from_numpy(np.stack([row["labels"] for row in rows])).float()  # (batch, classes)
        if "pixel_values" in rows[0]:
            pixels = torch.stack([torch.as_tensor(row["pixel_values"]) for row in rows])  # (batch, 3, height, width)
        else:
            images = [open_image(row["image"]) for row in rows]
            if self.transform is not None:
                images = [self.transform(image) for image in images]
            views = [torch.as_tensor(image_pixels(self.processor, image)) for image in images]
            pixels = torch.cat(views)  # (batch, 3, height, width)
        return {"pixel_values": pixels, "labels": labels}


def open_image(image: Any) -> Image.Image:
    """Opens an image, its bytes, its path, or what `datasets` stores of it: RGB, turned as its EXIF data say.

    As the pipeline does; a `ValueError` says what cannot be read, and why.
    """
    return read_image(ImageEntry(image))


__all__ = ["ImageCollator", "open_image"]
