"""Rows of the table of probabilities: how a model is fitted, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from modeling_taidpt import TaiDptModel
from modeling_taidpt.evaluation.predict import score_features
from modeling_taidpt.evaluation.reliability_diagram import expected_calibration_error
from modeling_taidpt.evaluation.score_fitting import (
    calibrate,
    calibrate_without_labels,
    fit_score_thresholds,
    overall_f1,
)
from modeling_taidpt.features.images import ImageFeatures

from .labelled import joined

FOLDS = 5

Fit = Callable[[TaiDptModel, list[ImageFeatures]], None]


def ways(captions: list[str], pool: ImageFeatures) -> dict[str, tuple[bool, Fit]]:
    """Rows of the table: whether labelled photographs are used, and how the model is fitted."""

    def without_labels(labels_per_image: float | None) -> Fit:
        return lambda model, parts: calibrate_without_labels(
            model, pool, captions=captions, labels_per_image=labels_per_image
        )

    def labelled(per_class: bool, per_class_thresholds: bool, all_parts: bool, all_thresholds: bool = True) -> Fit:
        def fit(model: TaiDptModel, parts: list[ImageFeatures]) -> None:
            whole = joined(parts)
            calibrate(model, whole if all_parts else parts[0], per_class=per_class)
            fit_score_thresholds(model, whole if all_thresholds else parts[0], per_class=per_class_thresholds)

        return fit

    return {
        "unlabelled images, shares of captions": (False, without_labels(None)),
        "unlabelled images, shares of captions, 3.4 labels": (False, without_labels(3.4)),
        "first folder, model": (True, labelled(False, False, False, False)),
        "first folder, model; thresholds per class": (True, labelled(False, True, False, False)),
        "all folders, model; thresholds per class": (True, labelled(False, True, True)),
        "all folders, per class": (True, labelled(True, True, True)),
        "first folder, model; thresholds per class, all folders": (True, labelled(False, True, False)),
    }


def predict(model: TaiDptModel, photographs: ImageFeatures) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and what the thresholds keep, each `(images, classes)`."""
    scores = model.probabilities(score_features(model, photographs).logits.double())
    return scores, scores >= torch.as_tensor(model.config.score_thresholds, dtype=scores.dtype)


def cross_validate(
    model: TaiDptModel, parts: list[ImageFeatures], fit: Fit
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """[`predict`] of each part, every photograph by a fit that did not see it."""
    folds = [np.random.default_rng(0).permutation(len(part)) % FOLDS for part in parts]
    results = [(torch.zeros(part.labels.shape).double(), torch.zeros(part.labels.shape).bool()) for part in parts]
    for fold in range(FOLDS):
        fit(model, [part.select(np.flatnonzero(of != fold)) for part, of in zip(parts, folds, strict=True)])
        for part, of, (scores, kept) in zip(parts, folds, results, strict=True):
            rows = np.flatnonzero(of == fold)
            scores[rows], kept[rows] = predict(model, part.select(rows))
    return results


def measure(scores: torch.Tensor, kept: torch.Tensor, photographs: ImageFeatures) -> dict[str, float]:
    """Calibration error, F1 at 0.5 and at the thresholds over all pairs, and the mean F1 of the classes there."""
    present = torch.from_numpy(photographs.labels > 0)  # (images, classes)
    known = torch.from_numpy(photographs.labels != 0)  # (images, classes)
    hits = (kept & present).sum(dim=0)  # (classes,)
    f1 = 200 * hits / (kept & known).sum(dim=0).add(present.sum(dim=0)).clamp(min=1)  # (classes,)
    return {
        "ece": expected_calibration_error(scores, present, known=known),
        "f1_half": overall_f1(scores, present, 0.5, known),
        "f1": overall_f1(kept.double(), present, 0.5, known),
        "class_f1": float(f1[present.any(dim=0)].mean()),
    }
