"""What 8-bit weights cost: exported models measured on labelled images, in ONNX Runtime alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoImageProcessor

from .caption_labels import match_labels
from .export import ONNX_FILE, QUANTIZED_FILE
from .image_dataset import IMAGE, class_names_of, image_label_matrix
from .image_evaluation import open_image
from .metrics import mean_average_precision

BATCH = 16


def known_classes(data: Any, labels: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """Labels of images for those of their classes that a model has.

    Args:
        data (`Dataset`): labelled images, as of [`load_images`].
        labels (`Sequence[str]`): the labels of the model, in their order.

    Returns:
        `tuple[np.ndarray, list[int]]`: labels `(images, known classes)`, 0 or 1, and the place of each known class
        among the labels of the model.

    Raises:
        ValueError: no class of the images is a label of the model.
    """
    matches = match_labels(class_names_of(data) or [], labels)
    kept = [place for place, label in enumerate(matches) if label is not None]
    if not kept:
        raise ValueError(f"None of the classes of the images is a label of the model, as {labels[0]!r}.")
    return image_label_matrix(data)[:, kept], [list(labels).index(str(matches[place])) for place in kept]


def measure_quantization(folder: str | Path, data: Any, labels: Sequence[str]) -> dict[str, float]:
    """Measures `model.onnx` and `model_quantized.onnx` on the same images.

    Args:
        folder (`str` or `Path`): what [`export_onnx`] wrote with `quantize=True`.
        data (`Dataset`): labelled images, as of [`load_images`]; classes that are no label of the model are left out.
        labels (`Sequence[str]`): the labels of the model, in their order.

    Returns:
        `dict[str, float]`: `images`, `classes`, `map` and `map_int8` (mAP in percent before and after), and
        `largest_difference` of a probability.

    Raises:
        ValueError: no class of the images is a label of the model, none has a positive image, or an image cannot be
            read.
    """
    import onnxruntime

    truth, columns = known_classes(data, labels)
    processor = AutoImageProcessor.from_pretrained(folder)
    sessions = [
        onnxruntime.InferenceSession(Path(folder) / name, providers=["CPUExecutionProvider"])
        for name in (ONNX_FILE, QUANTIZED_FILE)
    ]
    parts: list[list[np.ndarray]] = [[], []]
    for start in range(0, len(data), BATCH):
        rows = range(start, min(start + BATCH, len(data)))
        pictures = [open_image(data[row][IMAGE]) for row in rows]
        pixels = processor(images=pictures, return_tensors="np")["pixel_values"]  # (batch, 3, height, width)
        for session, scores in zip(sessions, parts, strict=True):
            inputs = {"pixel_values": pixels.astype(np.float32)}
            scores.append(session.run(["probabilities"], inputs)[0])  # (batch, labels)
    full, small = (np.concatenate(scores)[:, columns] for scores in parts)  # (images, kept classes) each
    return {
        "images": len(data),
        "classes": len(columns),
        "map": mean_average_precision(full, truth)["map"],
        "map_int8": mean_average_precision(small, truth)["map"],
        "largest_difference": float(np.abs(full - small).max()),
    }


__all__ = ["known_classes", "measure_quantization"]
