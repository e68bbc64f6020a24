"""How far probabilities can be trusted: expected calibration error, and the plot behind it.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2, over (image, class) pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def reliability(
    probabilities: torch.Tensor, labels: torch.Tensor, bins: int = 15, known: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Mean probability and share of positives in bins of equal width.

    Args:
        probabilities (`torch.Tensor` of shape `(images, classes)`): in [0, 1].
        labels (`torch.Tensor` of shape `(images, classes)`): 1 where a class is present, else 0.
        bins (`int`, *optional*, defaults to 15): their number.
        known (`torch.Tensor` of shape `(images, classes)`, *optional*): true where the label is known.

    Returns:
        `dict[str, torch.Tensor]`: `count`, `probability` and `positives` `(bins,)`, the last two 0 in empty bins.

    Raises:
        ValueError: the shapes differ, or a value is not a probability.
    """
    probabilities, labels = torch.as_tensor(probabilities).double(), torch.as_tensor(labels).double()
    if probabilities.shape != labels.shape:
        raise ValueError(
            f"Probabilities have the shape {tuple(probabilities.shape)} and labels {tuple(labels.shape)}: give equal "
            "ones."
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("Probabilities must lie between 0 and 1: logits go through scale, bias and sigmoid first.")
    if known is None:
        known = torch.ones_like(labels)  # (images, classes)
    seen = torch.as_tensor(known).bool()  # (images, classes)
    probabilities, labels = probabilities[seen], labels[seen]  # (pairs,)
    places = (probabilities * bins).long().clamp(max=bins - 1)  # (pairs,)
    count = torch.bincount(places, minlength=bins).double()  # (bins,)
    sums = [torch.bincount(places, weights=values, minlength=bins) for values in (probabilities, labels)]
    probability, positives = (total / count.clamp(min=1) for total in sums)  # (bins,) each
    return {"count": count, "probability": probability, "positives": positives}


def expected_calibration_error(
    probabilities: torch.Tensor, labels: torch.Tensor, bins: int = 15, known: torch.Tensor | None = None
) -> float:
    """Mean distance of probability and share of positives over the bins of [`reliability`], weighed by their counts.

    Most pairs of a multi-label problem are absent, so a model that says 0 to everything has the share of positives as
    its error: read it beside F1.

    Args:
        probabilities (`torch.Tensor` of shape `(images, classes)`): in [0, 1].
        labels (`torch.Tensor` of shape `(images, classes)`): 1 where a class is present, else 0.
        bins (`int`, *optional*, defaults to 15): bins of equal width.
        known (`torch.Tensor` of shape `(images, classes)`, *optional*): true where the label is known.

    Returns:
        `float`: in percent.

    Raises:
        ValueError: as [`reliability`].
    """
    found = reliability(probabilities, labels, bins, known)
    distance = (found["probability"] - found["positives"]).abs()  # (bins,)
    return 100 * float((distance * found["count"]).sum() / found["count"].sum().clamp(min=1))


def plot_reliability(curves: dict[str, dict[str, torch.Tensor]], path: str | Path) -> None:
    """Draws reliability curves and, below them, how many pairs each bin holds (needs matplotlib).

    Args:
        curves (`dict[str, dict[str, torch.Tensor]]`): what [`reliability`] returned, by name.
        path (`str`): image file to write; its ending says the format.
    """
    from matplotlib.figure import Figure  # draws without a display

    figure = Figure(figsize=(5, 6), layout="constrained")
    axes: Any = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes[0].plot([0, 1], [0, 1], color="0.7", linestyle="--")
    for name, curve in curves.items():
        filled = curve["count"] > 0  # (bins,)
        axes[0].plot(curve["probability"][filled], curve["positives"][filled], marker="o", markersize=4, label=name)
        edges = (torch.arange(len(filled)) + 0.5) / len(filled)  # (bins,)
        axes[1].plot(edges, curve["count"].clamp(min=0.5), drawstyle="steps-mid")
    axes[0].set(ylabel="share of pairs that are present", xlim=(0, 1), ylim=(0, 1))
    axes[0].legend(loc="lower right", fontsize="small")
    axes[1].set(xlabel="probability", ylabel="pairs", yscale="log")
    figure.savefig(path, dpi=120, metadata={"Software": None} if str(path).endswith(".png") else None)


__all__ = ["expected_calibration_error", "plot_reliability", "reliability"]
