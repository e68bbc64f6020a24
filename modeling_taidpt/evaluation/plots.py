"""Plots of an evaluation, drawn without a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLORS = ("#1f5fa8", "#d98324", "#3a8f5c", "#8a4f9e", "#7a7a7a", "#b23a48")
LONGEST_NAME = 30  # characters of a class name or model in a plot


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _short(name: str) -> str:
    """The end of a path, where runs differ; text as it is, for matplotlib would read `$` as mathematics."""
    name = name.replace("$", r"\$")
    return name if len(name) <= LONGEST_NAME else "…" + name[-LONGEST_NAME:]


def plot_class_bars(per_class: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Figure:
    """Average precision of each class, of one model or of two side by side, best class of the first on top.

    Args:
        per_class (`Mapping`): percent `(classes,)` by model, NaN for a class without positives.
        class_names (`Sequence[str]`): the classes.

    Returns:
        `Figure`: of matplotlib.
    """
    names = list(per_class)
    order = np.argsort(np.nan_to_num(per_class[names[0]], nan=-1.0), kind="stable")  # (classes,)
    places = np.arange(len(order))
    figure = _figure(8, max(2.5, 1.2 + 0.2 * len(order)))
    axes = figure.add_subplot()
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        values = per_class[name][order]
        mean = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
        offset = (len(names) - 1) / 2 - index
        axes.barh(
            places + offset * height,
            np.nan_to_num(values),
            height,
            color=COLORS[index],
            label=f"{_short(name)}, mAP {mean:.1f}",
        )
    axes.set_yticks(places, [_short(class_names[index]) for index in order], fontsize=8)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlim(0, 100)
    axes.set_xlabel("average precision, %")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def precision_recall(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of all image-label pairs together, at every score.

    Args:
        scores (`np.ndarray`): higher is more likely, any shape; pairs of minus infinity, unknown ones, do not count.
        labels (`np.ndarray`): 0 or 1, of the same shape.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: precision and recall in percent at each different score, falling.
    """
    known = np.isfinite(scores)
    scores, labels = scores[known], labels[known] != 0  # (known pairs,) each
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # last pair of each tied group
    hits = np.cumsum(labels[order])[ends]  # (different scores,)
    return 100 * hits / (ends + 1), 100 * hits / max(1, labels.sum())


def class_mean_precision(scores: np.ndarray, labels: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Mean over classes of the interpolated precision (the best one at that recall or a higher one).

    Args:
        scores (`np.ndarray` of shape `(images, classes)`): higher is more likely.
        labels (`np.ndarray` of shape `(images, classes)`): 0 or 1; classes without a positive do not count.
        recalls (`np.ndarray` of shape `(points,)`): percent, rising.

    Returns:
        `np.ndarray` of shape `(points,)`: percent.
    """
    rows = []
    for column in np.flatnonzero(labels.any(axis=0)):
        precision, recall = precision_recall(scores[:, column], labels[:, column])
        best = np.maximum.accumulate(precision[::-1])[::-1]  # (different scores,)
        rows.append(best[np.searchsorted(recall, recalls - 1e-9)])
    return np.mean(rows, axis=0)


def plot_precision_recall(scores: Mapping[str, np.ndarray], labels: np.ndarray) -> Figure:
    """Precision over recall of every model: all image-label pairs together, and dashed the mean over classes.

    Args:
        scores (`Mapping`): merged scores `(images, classes)` by model.
        labels (`np.ndarray` of shape `(images, classes)`): 0 or 1.

    Returns:
        `Figure`: of matplotlib.
    """
    figure = _figure(7, 5.5)
    axes = figure.add_subplot()
    recalls = np.linspace(0, 100, 101)
    for index, (name, values) in enumerate(scores.items()):
        color = COLORS[index % len(COLORS)]
        precision, recall = precision_recall(values, labels)
        axes.plot(recall, precision, color=color, linewidth=2, label=_short(name))
        axes.plot(recalls, class_mean_precision(values, labels, recalls), color=color, linestyle="--")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 101)
    axes.set_xlabel("recall, %")
    axes.set_ylabel("precision, %")
    axes.set_title("All image-label pairs together; dashed: mean over classes", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure


def plot_score_histograms(scores: np.ndarray, labels: np.ndarray, name: str) -> Figure:
    """How the merged scores of labels that an image shows differ from those that it does not.

    Args:
        scores (`np.ndarray` of shape `(images, classes)`): logits.
        labels (`np.ndarray` of shape `(images, classes)`): 0 or 1.
        name (`str`): the model.

    Returns:
        `Figure`: of matplotlib.
    """
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    known = np.isfinite(scores)
    edges = np.histogram_bin_edges(scores[known], bins=60)
    for is_present, color, text in ((0, "0.6", "absent"), (1, COLORS[0], "present")):
        values = scores[known & ((labels != 0) == bool(is_present))]
        if len(values):
            weights = np.full(len(values), 100 / len(values))
            axes.hist(values, edges, weights=weights, color=color, alpha=0.65, label=f"{text}, {len(values)} labels")
    axes.set_xlabel("merged score (logit)")
    axes.set_ylabel("share of labels, %")
    axes.set_title(_short(name), fontsize=10)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


__all__ = [
    "class_mean_precision",
    "plot_class_bars",
    "plot_precision_recall",
    "plot_score_histograms",
    "precision_recall",
]
