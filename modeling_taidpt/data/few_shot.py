"""Draws k labelled images per class, and says what was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.utils import logging

from ..captions.label_columns import PRESENT, check_labels_matrix

logger = logging.get_logger(__name__)


@dataclass
class FewShotSample:
    """What [`sample_few_shot`] drew.

    Attributes:
        indices (`np.ndarray` of shape `(drawn,)`): the images, in rising order.
        drawn (`np.ndarray` of shape `(classes,)`): images that were drawn for each class, at most `shots`.
        shown (`np.ndarray` of shape `(classes,)`): images of the sample that show each class, whatever drawn for.
        shots (`int`): images per class that were asked for.
        seed (`int`): seed of the draw.
    """

    indices: np.ndarray
    drawn: np.ndarray
    shown: np.ndarray
    shots: int
    seed: int

    def report(self, labels: Sequence[str]) -> str:
        """One line: how many images, and which classes have fewer than was asked for.

        Args:
            labels (`Sequence[str]`): the labels of the classes.
        """
        text = f"{len(self.indices)} images drawn with seed {self.seed}, up to {self.shots} for each of {len(labels)} "
        short = [f"{label} {count}" for label, count in zip(labels, self.drawn, strict=True) if count < self.shots]
        return text + "classes" + (f"; fewer for {', '.join(short)}." if short else ".")


def sample_few_shot(labels: Any, shots: int, seed: int = 0, class_names: Sequence[str] | None = None) -> FewShotSample:
    """Draws images so that every class has `shots` of its own, as far as there are that many.

    The rarest class draws first. An image is drawn for one class only and keeps all of its labels, so that a class may
    be shown by more than `shots` images (`shown`).

    Args:
        labels (array or tensor of shape `(images, classes)`): 1 where a class is present; 0 or -1 else.
        shots (`int`): images per class, as 1, 2, 4, 8 or 16.
        seed (`int`, *optional*, defaults to 0): seed of the draw.
        class_names (`Sequence[str]`, *optional*): the labels, for the warning.

    Returns:
        [`FewShotSample`].

    Raises:
        ValueError: If `shots` is below 1, a label is not -1, 0 or 1, or no class has an image.
    """
    if shots < 1:
        raise ValueError(f"`shots` is {shots}: give a number of images per class, at least 1.")
    present = check_labels_matrix(labels) == PRESENT  # (images, classes)
    counts = present.sum(axis=0)  # (classes,)
    if not counts.any():
        raise ValueError("No image shows any class: there is nothing to draw.")
    names = [f"class {column}" for column in range(present.shape[1])] if class_names is None else list(class_names)
    empty = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if empty:
        logger.warning(f"No image shows {len(empty)} of the {len(names)} classes: {', '.join(empty)}.")
    generator = np.random.default_rng(seed)
    free = np.ones(len(present), dtype=bool)  # (images,)
    drawn = np.zeros(present.shape[1], dtype=np.int64)  # (classes,)
    for column in np.argsort(counts, kind="stable"):
        members = np.flatnonzero(present[:, column] & free)  # (candidates,)
        chosen = generator.permutation(members)[:shots]  # (drawn for the class,)
        free[chosen], drawn[column] = False, len(chosen)
    indices = np.flatnonzero(~free)  # (drawn,)
    return FewShotSample(indices, drawn, present[indices].sum(axis=0), shots, seed)


__all__ = ["FewShotSample", "sample_few_shot"]
