"""The tables of what needs no label: the share of the visual classifier, and a row for each way to score."""

from __future__ import annotations

from typing import Any

import torch

from modeling_taidpt import ImageFeatures, TaiDptModel, mean_average_precision
from modeling_taidpt.evaluation import fit_visual_classifier
from modeling_taidpt.evaluation.predict import score_features
from modeling_taidpt.visual_classifier import SHARE, VisualClassifier, attach_classifier

from .photographs import Labelled
from .rows import Row


def mean_ap(logits: torch.Tensor, data: Labelled) -> float:
    """Mean average precision in percent over the classes that the folder knows and shows."""
    shown = data.present.any(dim=0)  # (classes,)
    return mean_average_precision(logits[:, shown], data.present[:, shown].int())["map"]


def fit_classifiers(model: TaiDptModel, unlabelled: ImageFeatures, counts: list[int]) -> dict[int, VisualClassifier]:
    """A visual classifier from the first photographs, for each number of them; the model is left without one."""
    fitted = {}
    calibration = {name: getattr(model.config, name) for name in ("score_scale", "score_bias", "score_calibration")}
    for count in counts:
        fit_visual_classifier(model, unlabelled.select(list(range(count))))
        fitted[count] = model.visual_classifier
        attach_classifier(model, None)
        for name, value in calibration.items():
            setattr(model.config, name, value)
    return fitted


def share_table(
    models: dict[str, TaiDptModel],
    fitted: dict[str, dict[int, VisualClassifier]],
    counts: list[int],
    shares: list[float],
    data: Any,
) -> list[dict[str, Any]]:
    """Mean AP on the selection photographs for each share of the visual classifier of the most photographs."""
    rows = []
    for name, model in models.items():
        classifier = fitted[name][max(counts)]
        for share in (0.0, *shares):
            classifier.share.fill_(share)
            attach_classifier(model, classifier, max(counts))
            maps = {part.name: mean_ap(score_features(model, part.features(False)).logits, part) for part in data}
            rows.append({"model": name, "share": share, **maps})
            print(
                f"| {name} | {share:g} | " + " | ".join(f"{value:.1f}" for value in maps.values()) + " |", flush=True
            )
        classifier.share.fill_(SHARE)
    return rows


def print_row(name: str, row: Row, figures: dict[str, Any]) -> None:
    """One line of the table."""
    gain = figures.get("gain")
    interval = f"{gain[0]:+.1f} [{gain[1]:+.1f}, {gain[2]:+.1f}]" if gain else ""
    cells = [name, row.name, f"{figures['selection']:.1f}", f"{figures['judged']:.1f}", interval]
    cells += [f"{figures['f1']:.1f}", f"{figures['passes']:.1f}", f"{figures['images_per_second']:.1f}"]
    print(f"| {' | '.join(cells)} |", flush=True)
