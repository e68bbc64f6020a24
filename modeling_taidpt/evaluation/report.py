"""What an evaluation leaves behind: metrics.json, a CSV of the classes, and plots."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import staged_folder
from .csv_cells import harmless_cell
from .evaluate import Scores, rank_unknown_last

METRICS_FILE, CLASSES_FILE = "metrics.json", "per_class.csv"
PLOT_FILES = ("per_class_ap.png", "precision_recall.png", "score_histograms.png")


def write_report(
    folder: str | Path,
    figures: Mapping[str, Any],
    scores: Mapping[str, Scores],
    labels: np.ndarray,
    unknown: np.ndarray | None = None,
) -> Path:
    """Writes the report of an evaluation, whole or not at all.

    Args:
        folder (`str` or `Path`): where; made if it does not exist, files of an earlier report are replaced.
        figures (`Mapping`): what [`evaluate_scores`] gave, and more if wanted.
        scores (`Mapping`): the scores of the same models by name, the first run first.
        labels (`np.ndarray` of shape `(images, classes)`): 0 or 1.
        unknown (`np.ndarray` of shape `(images, classes)`, *optional*): as in [`evaluate_scores`]; left out of plots.

    Returns:
        `Path`: the folder, with `metrics.json`, `per_class.csv`, `per_class_ap.png`, `precision_recall.png` and
        `score_histograms.png`.
    """
    from .plots import plot_class_bars, plot_precision_recall, plot_score_histograms

    folder = Path(folder)
    models = figures["models"]
    names = list(models)
    classes = list(models[names[0]]["per_class"])
    with staged_folder(folder) as staged:
        text = json.dumps(json_value(figures), ensure_ascii=False, indent=2, allow_nan=False)
        (staged / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
        _write_classes(staged / CLASSES_FILE, classes, labels.sum(axis=0).tolist(), models)
        merged = {name: rank_unknown_last(values, unknown)["merged"] for name, values in scores.items()}
        bars = {name: np.array([models[name]["per_class"][label] for label in classes]) for name in names[:2]}
        for name, figure in zip(
            PLOT_FILES,
            (
                plot_class_bars(bars, classes),
                plot_precision_recall(merged, labels),
                plot_score_histograms(merged[names[0]], labels, names[0]),
            ),
            strict=True,
        ):
            figure.savefig(staged / name, dpi=120)
    return folder


def _write_classes(path: Path, classes: Sequence[str], positives: Sequence[int], models: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "positives", *map(harmless_cell, models)])
        for label, count in zip(classes, positives, strict=True):
            values = [model["per_class"][label] for model in models.values()]
            writer.writerow(
                [harmless_cell(label), count, *("" if math.isnan(value) else f"{value:.2f}" for value in values)]
            )


def json_value(value: Any) -> Any:
    """The same value for `json.dumps`: arrays and tuples as lists, NaN and infinities, which JSON lacks, as null."""
    if isinstance(value, Mapping):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(entry) for entry in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return json_value(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["CLASSES_FILE", "METRICS_FILE", "PLOT_FILES", "json_value", "write_report"]
