"""Which labels of an image are given: those above a threshold, the best first. Without PyTorch."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

BEST_LABELS = 5  # shown of an image where nothing says which labels are present


def check_top_k(top_k: Any) -> int | None:
    """A number of labels, `None` for all.

    Raises:
        ValueError: it is not a whole number of at least 1.
    """
    if top_k is None:
        return None
    if isinstance(top_k, bool) or not isinstance(top_k, numbers.Integral) or top_k < 1:
        raise ValueError(f"`top_k` is {top_k!r}: give a whole number of at least 1, or None for all labels.")
    return int(top_k)


def check_threshold(threshold: Any, has_thresholds: bool) -> float | str | None:
    """A least score, `"auto"` for the checkpoint's own, `None` for none.

    Args:
        threshold (`float` or `str`, *optional*): as it was given.
        has_thresholds (`bool`): whether the checkpoint has its own.

    Raises:
        ValueError: it is neither, or the checkpoint has none.
    """
    if threshold is None:
        return None
    if isinstance(threshold, str) and threshold == "auto":
        if not has_thresholds:
            raise ValueError(
                "`threshold='auto'` needs `score_thresholds` in the configuration, and this checkpoint has none: "
                "give a number from 0 to 1, or fit thresholds on a few labelled images with "
                "`modeling_taidpt.calibrate` and save the model."
            )
        return "auto"
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real) or not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` is {threshold!r}: give a number from 0 to 1, 'auto', or None.")
    return float(threshold)


def default_selection(config: Any, own_labels: bool = True) -> dict[str, Any]:
    """Which labels of an image are kept where neither `top_k` nor `threshold` says it; here and in all that tags.

    Args:
        config (`PreTrainedConfig`): of the model.
        own_labels (`bool`, *optional*, defaults to `True`): whether the model scores its own labels.

    Returns:
        `dict`: `top_k` and `threshold`. Of its own labels those that reach the thresholds of the checkpoint; where it
        has none the five best; of `candidate_labels` all.
    """
    if not own_labels:
        return {"top_k": None, "threshold": None}
    if getattr(config, "score_thresholds", None) is not None:
        return {"top_k": None, "threshold": "auto"}
    return {"top_k": BEST_LABELS, "threshold": None}


def best_labels(
    scores: np.ndarray,
    threshold: float | str | None,
    own_thresholds: float | Sequence[float] | None,
    top_k: int | None,
) -> list[int]:
    """The labels of an image by falling score, those of equal score in the order of the model.

    Args:
        scores (`np.ndarray` of shape `(classes,)`): one for each label.
        threshold (`float` or `str`, *optional*): least score, or `"auto"`.
        own_thresholds (`float` or `Sequence[float]`, *optional*): what `"auto"` means.
        top_k (`int`, *optional*): labels at most.

    Returns:
        `list[int]`: their indices.
    """
    order = np.argsort(-scores, kind="stable")  # (classes,)
    if threshold is not None:
        least: Any = own_thresholds if threshold == "auto" else threshold
        order = order[scores[order] >= np.broadcast_to(least, scores.shape)[order]]  # (kept,)
    return order[:top_k].tolist()


__all__ = ["BEST_LABELS", "best_labels", "check_threshold", "check_top_k", "default_selection"]
