"""Partial labels: -1 absent, 0 unknown, 1 present. Reading them, and hiding some of full labels.

Source: Sun et al., "DualCoOp" (NeurIPS 2022, arXiv 2206.09541), section 4.1; published TaI-DPT code,
`datasets/voc2007_partial.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..captions.label_columns import ABSENT, PRESENT, UNKNOWN, check_labels_matrix


def drop_labels(labels: Any, known: float, seed: int = 0) -> np.ndarray:
    """Hides labels at random, so that a share of them stays known.

    Args:
        labels (array or tensor of shape `(images, classes)`): full labels 0 or 1; or partial ones -1, 0 or 1, of which
            the unknown stay unknown.
        known (`float`): share of the known labels that stays known, above 0, at most 1.
        seed (`int`, *optional*, defaults to 0): seed of the draw.

    Returns:
        `np.ndarray` of shape `(images, classes)`: partial labels, int8.

    Raises:
        ValueError: If `known` is not a share, or a label is not -1, 0 or 1.
    """
    if not 0 < known <= 1:
        raise ValueError(f"The share of known labels is {known}: give one above 0 and at most 1, as 0.1.")
    partial = check_labels_matrix(labels)  # (images, classes)
    if not (partial == ABSENT).any():  # full labels: 0 says absent
        partial = np.where(partial == PRESENT, PRESENT, ABSENT).astype(np.int8)  # (images, classes)
    places = np.flatnonzero(partial)  # (known labels,)
    hidden = len(places) - max(1, round(known * len(places)))
    drawn = np.random.default_rng(seed).permutation(places)[:hidden]  # (hidden labels,)
    partial.ravel()[drawn] = UNKNOWN
    return partial


def read_partial_labels(path: str | Path, images: int | None = None, classes: int | None = None) -> np.ndarray:
    """Reads a file of partial labels, as the published `train_proportion_0.1.txt`.

    Args:
        path (`str` or `Path`): text with a line per image and -1, 0 or 1 per class between commas, or `.npy`.
        images (`int`, *optional*): rows that there must be.
        classes (`int`, *optional*): columns that there must be.

    Returns:
        `np.ndarray` of shape `(images, classes)`: int8.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another kind or shape, or holds another value.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of labels {path}: it needs a row of -1, 0 and 1 per image.")
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)  # (images, classes)
        else:
            values = np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8-sig")  # (images, classes)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"The file of labels {path} cannot be read: {' '.join(str(error).split())}") from error
    labels = check_labels_matrix(values, f"the labels in {path}")
    for count, expected, what in ((labels.shape[0], images, "rows"), (labels.shape[1], classes, "columns")):
        if expected is not None and count != expected:
            kind = "images" if what == "rows" else "classes"
            raise ValueError(f"The file of labels {path} has {count} {what} for {expected} {kind}: give one each.")
    return labels


__all__ = ["drop_labels", "read_partial_labels"]
