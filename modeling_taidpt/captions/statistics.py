"""Counts of captions per class, selection by the rarest class, and co-occurrence of classes.

Source: each caption given to its rarest class, at most so many per class (TaI-DPT, arXiv 2211.12739, section 4.1, for
NUS-WIDE).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def class_counts(labels: np.ndarray) -> np.ndarray:
    """Captions that mention each class.

    Args:
        labels (`np.ndarray` of shape `(captions, classes)`): multi-hot labels.

    Returns:
        `np.ndarray` of shape `(classes,)`: int64.
    """
    return np.count_nonzero(labels, axis=0).astype(np.int64)  # (classes,)


def describe_counts(labels: Sequence[str], counts: np.ndarray) -> str:
    """One line for the log: captions per class, the most and the least frequent ones."""
    order = np.argsort(-counts, kind="stable")  # (classes,)
    named = [f"{labels[column]} {counts[column]:,}" for column in order]
    shown = named if len(named) <= 8 else [*named[:4], "...", *named[-4:]]
    return f"Captions per class (median {int(np.median(counts)):,}): {', '.join(shown)}."


def select_by_rarest_class(labels: np.ndarray, max_per_class: int | None, seed: int | None = None) -> np.ndarray:
    """Gives each caption to the rarest class that it mentions, and keeps at most so many per class.

    Args:
        labels (`np.ndarray` of shape `(captions, classes)`): multi-hot labels.
        max_per_class (`int`, *optional*): most captions given to a class; `None` keeps all that name one.
        seed (`int`, *optional*): draws them; the first ones by default, as the paper does.

    Returns:
        `np.ndarray`: indices of the chosen captions, rising.
    """
    present = np.asarray(labels) != 0  # (captions, classes)
    counts = np.where(present, class_counts(present), np.iinfo(np.int64).max)  # (captions, classes)
    rarest = np.where(present.any(axis=1), counts.argmin(axis=1), -1)  # (captions,)
    order = np.arange(len(present)) if seed is None else np.random.default_rng(seed).permutation(len(present))
    kept = [order[rarest[order] == column][:max_per_class] for column in range(present.shape[1])]
    return np.sort(np.concatenate(kept))


def cooccurrence(labels: np.ndarray) -> np.ndarray:
    """How often each class is named where another is: `P(column | row)`, 1 on the diagonal.

    Args:
        labels (`np.ndarray` of shape `(captions, classes)`): multi-hot labels.

    Returns:
        `np.ndarray` of shape `(classes, classes)`: float64; the row of a class that no caption names is 0 but there.
    """
    present = (np.asarray(labels) != 0).astype(np.float64)  # (captions, classes)
    joint = present.T @ present  # (classes, classes)
    conditional = joint / np.maximum(np.diag(joint)[:, None], 1)  # (classes, classes)
    np.fill_diagonal(conditional, 1.0)
    return conditional


__all__ = [
    "class_counts",
    "cooccurrence",
    "describe_counts",
    "select_by_rarest_class",
]
