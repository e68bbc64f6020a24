"""Partial labels: -1 absent, 0 unknown, 1 present. Reading them, and hiding some of full labels.

Source: Sun et al., "DualCoOp" (NeurIPS 2022, arXiv 2206.09541), section 4.1; published TaI-DPT code,
`datasets/voc2007_partial.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..captions.labels import as_list, multi_hot

ABSENT, UNKNOWN, PRESENT = -1, 0, 1


def check_labels_matrix(labels: Any, source: str = "the labels") -> np.ndarray:
    """Reads a matrix of labels.

    Args:
        labels (array or tensor of shape `(images, classes)`): -1, 0 or 1.
        source (`str`, *optional*, defaults to `"the labels"`): what to call it in errors.

    Returns:
        `np.ndarray` of shape `(images, classes)`: int8.

    Raises:
        ValueError: If it is no matrix, is empty, or holds another value; the first one is named.
    """
    matrix = labels.cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)  # (images, classes)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"The shape of {source} is {matrix.shape}: give (images, classes), neither of them 0.")
    wrong = ~np.isin(matrix, (ABSENT, UNKNOWN, PRESENT))  # (images, classes)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"The value of {source} in row {row}, column {column} is {matrix[row, column]}: give -1, 0 or 1."
        )
    return matrix.astype(np.int8)


def label_matrix(values: Sequence[Any], labels: Sequence[str], source: str = "the images") -> np.ndarray:
    """Reads a column of labels that may be partial.

    Args:
        values (`Sequence`): one entry per row, as for `multi_hot`; or rows of -1, 0 and 1 as long as there are labels.
            Where any row holds a -1, 0 means unknown.
        labels (`Sequence[str]`): the labels of the model.
        source (`str`, *optional*, defaults to `"the images"`): what to call it in errors.

    Returns:
        `np.ndarray` of shape `(rows, classes)`: int8.

    Raises:
        ValueError: If an entry is no label of the model, or partial labels have another length; the row is named.
    """
    rows = [as_list(value) for value in values]
    if not any(_is_absent(entry) for row in rows for entry in row):
        return multi_hot(values, labels, source).astype(np.int8)  # (rows, classes)
    for number, row in enumerate(rows):
        if len(row) != len(labels):
            raise ValueError(
                f"Row {number} of {source} has {len(row)} labels for {len(labels)} classes: with -1 for absent "
                "classes, every row needs -1, 0 or 1 for every class."
            )
    return check_labels_matrix(rows, f"the labels of {source}")


def _is_absent(entry: Any) -> bool:
    return not isinstance(entry, str) and entry == ABSENT


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
        ValueError: If `known` is no share, or a label is not -1, 0 or 1.
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
            values = np.loadtxt(path, delimiter=",", ndmin=2)  # (images, classes)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"The file of labels {path} cannot be read: {' '.join(str(error).split())}") from error
    labels = check_labels_matrix(values, f"the labels in {path}")
    for count, expected, what in ((labels.shape[0], images, "rows"), (labels.shape[1], classes, "columns")):
        if expected is not None and count != expected:
            kind = "images" if what == "rows" else "classes"
            raise ValueError(f"The file of labels {path} has {count} {what} for {expected} {kind}: give one each.")
    return labels


__all__ = ["check_labels_matrix", "drop_labels", "label_matrix", "read_partial_labels"]
