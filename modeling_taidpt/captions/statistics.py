"""Counts of captions per class, and what evens them out: rarest-class selection, weights, a filter of doubtful labels.

Sources: each caption given to its rarest class, at most so many per class (TaI-DPT, arXiv 2211.12739, section 4.1, for
NUS-WIDE); weights by the effective number of samples (Cui et al., CVPR 2019, arXiv 1901.05555, equation 2); labels
weighed by co-occurrence stand in the place of uniform label smoothing (Szegedy et al., CVPR 2016, arXiv 1512.00567).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def class_counts(labels: np.ndarray) -> np.ndarray:
    """Captions that name each class.

    Args:
        labels (`np.ndarray` of shape `(captions, classes)`): multi-hot labels.

    Returns:
        `np.ndarray` of shape `(classes,)`: int64.
    """
    return np.count_nonzero(labels, axis=0).astype(np.int64)  # (classes,)


def frequency_groups(counts: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Three groups of as many classes each, by falling count; of equal counts the earlier class comes first.

    Args:
        counts (`Sequence[int]` of length `classes`): captions that name each class.

    Returns:
        `dict[str, np.ndarray]`: columns of the `"head"`, `"middle"` and `"tail"` classes.
    """
    order = np.argsort(-np.asarray(counts), kind="stable")  # (classes,)
    return dict(zip(("head", "middle", "tail"), np.array_split(order, 3), strict=True))


def describe_counts(labels: Sequence[str], counts: np.ndarray) -> str:
    """One line for the log: captions per class, the most and the least frequent ones."""
    order = np.argsort(-counts, kind="stable")  # (classes,)
    named = [f"{labels[column]} {counts[column]:,}" for column in order]
    shown = named if len(named) <= 8 else [*named[:4], "...", *named[-4:]]
    return f"Captions per class (median {int(np.median(counts)):,}): {', '.join(shown)}."


def select_by_rarest_class(labels: np.ndarray, max_per_class: int | None, seed: int | None = None) -> np.ndarray:
    """Gives each caption to the rarest class that it names, and keeps at most so many per class.

    Args:
        labels (`np.ndarray` of shape `(captions, classes)`): multi-hot labels.
        max_per_class (`int`, *optional*): most captions given to a class; `None` keeps all that name one.
        seed (`int`, *optional*): draws them; the first ones by default, as the paper does.

    Returns:
        `np.ndarray`: places of the kept captions, rising.
    """
    present = np.asarray(labels) != 0  # (captions, classes)
    counts = np.where(present, class_counts(present), np.iinfo(np.int64).max)  # (captions, classes)
    rarest = np.where(present.any(axis=1), counts.argmin(axis=1), -1)  # (captions,)
    order = np.arange(len(present)) if seed is None else np.random.default_rng(seed).permutation(len(present))
    kept = [order[rarest[order] == column][:max_per_class] for column in range(present.shape[1])]
    return np.sort(np.concatenate(kept))


def long_tail_weights(counts: Sequence[int] | np.ndarray, beta: float) -> np.ndarray:
    """Weights of the classes, `(1 - beta) / (1 - beta^n)`, divided by their mean.

    Args:
        counts (`Sequence[int]` of length `classes`): captions that name each class; a class without any counts as 1.
        beta (`float`): from 0 (all equal) to below 1 (near 1: one over the count).

    Returns:
        `np.ndarray` of shape `(classes,)`: float64, mean 1.
    """
    counts = np.maximum(np.asarray(counts, dtype=np.float64), 1)  # (classes,)
    weights = (1 - beta) / (1 - beta**counts)  # (classes,)
    return weights / weights.mean()


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


def find_agreeing(labels: np.ndarray, zero_shot_scores: np.ndarray, share: float) -> np.ndarray:
    """Captions whose labels the zero-shot scores bear out.

    A label is doubtful when its score, less the mean over classes of the caption's scores, is among the given share
    of lowest ones of all captions that name its class. A caption with a doubtful label is left out.

    Args:
        labels (`np.ndarray` of shape `(captions, classes)`): multi-hot labels.
        zero_shot_scores (`np.ndarray` of shape `(captions, classes)`): scores of the template.
        share (`float`): share of the labels of each class that is doubted, rounded down.

    Returns:
        `np.ndarray`: places of the kept captions, rising.
    """
    present = np.asarray(labels) != 0  # (captions, classes)
    scores = zero_shot_scores - zero_shot_scores.mean(axis=1, keepdims=True)  # (captions, classes)
    doubtful = np.zeros(len(present), dtype=bool)  # (captions,)
    for column in range(present.shape[1]):
        members = np.flatnonzero(present[:, column])  # (captions of the class,)
        lowest = np.argsort(scores[members, column], kind="stable")[: int(share * len(members))]
        doubtful[members[lowest]] = True
    return np.flatnonzero(~doubtful)


__all__ = [
    "class_counts",
    "cooccurrence",
    "describe_counts",
    "find_agreeing",
    "frequency_groups",
    "long_tail_weights",
    "select_by_rarest_class",
]
