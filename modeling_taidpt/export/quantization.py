"""What 8-bit weights cost: exported models measured on labelled images, in ONNX Runtime alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoImageProcessor

from ..captions.labels import match_labels
from ..data.collator import open_image
from ..data.dataset import IMAGE, class_names_of, image_label_matrix
from ..evaluation.metrics import mean_average_precision
from .programs import ONNX_FILE, QUANTIZED_FILE

BATCH = 16


def known_classes(data: Any, labels: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """Labels of images for those of their classes that a model has.

    Args:
        data (`Dataset`): labelled images, as of [`load_images`].
        labels (`Sequence[str]`): the labels of the model, in their order.

    Returns:
        `tuple[np.ndarray, list[int]]`: labels `(images, known classes)`, 0 or 1, and the index of each known class
        among the labels of the model.

    Raises:
        ValueError: no class of the images is a label of the model.
    """
    matches = match_labels(class_names_of(data) or [], labels)
    kept = [row for row, label in enumerate(matches) if label is not None]
    if not kept:
        raise ValueError(f"None of the classes of the images is a label of the model, as {labels[0]!r}.")
    return image_label_matrix(data)[:, kept], [list(labels).index(str(matches[row])) for row in kept]


def onnx_scorer(session: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Pixels `(batch, 3, height, width)` to probabilities `(batch, labels)` by a session of ONNX Runtime."""
    return lambda pixels: session.run(["probabilities"], {"pixel_values": pixels})[0]


def run_scorers(
    scorers: Mapping[str, Callable[[np.ndarray], np.ndarray]], processor: Any, images: Iterable[Any]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Shows the same images to several forms of a model, in batches of 16.

    Args:
        scorers (`Mapping`): by name, functions of pixels `(batch, 3, height, width)` to probabilities
            `(batch, labels)`.
        processor: the image processor.
        images (`Iterable`): decoded images, one at a time.

    Returns:
        `tuple[dict, dict]`: by name, the probabilities `(images, labels)` and the seconds that they took, without the
        processor.
    """
    images = iter(images)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in scorers}  # (batch, labels) each
    seconds = dict.fromkeys(scorers, 0.0)
    while batch := list(itertools.islice(images, BATCH)):
        pixels = processor(images=batch, return_tensors="np")["pixel_values"]  # (batch, 3, height, width)
        for name, score in scorers.items():
            begin = time.perf_counter()
            scores[name].append(score(pixels.astype(np.float32)))
            seconds[name] += time.perf_counter() - begin
    return {name: np.concatenate(parts) for name, parts in scores.items()}, seconds


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
    scorers = {
        name: onnx_scorer(onnxruntime.InferenceSession(Path(folder) / name, providers=["CPUExecutionProvider"]))
        for name in (ONNX_FILE, QUANTIZED_FILE)
    }
    images = (open_image(data[row][IMAGE]) for row in range(len(data)))
    scores, _ = run_scorers(scorers, AutoImageProcessor.from_pretrained(folder), images)
    full, small = (scores[name][:, columns] for name in scorers)  # (images, kept classes) each
    return {
        "images": len(data),
        "classes": len(columns),
        "map": mean_average_precision(full, truth)["map"],
        "map_int8": mean_average_precision(small, truth)["map"],
        "largest_difference": float(np.abs(full - small).max()),
    }


__all__ = ["BATCH", "known_classes", "measure_quantization", "onnx_scorer", "run_scorers"]
