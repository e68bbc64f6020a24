"""Table of probabilities and thresholds: calibration error and F1 by what they were fitted on, and a reliability plot.

    python examples/study_probabilities.py --captions held_out.jsonl --photographs coco_train voc2012 --plot plot.png

On the selection photographs, rows fitted on labelled ones are cross-validated (five folds): what is scored was not
fitted on. With `--test` they are fitted on all of them and score the other folder. A folder knows its own categories
only; other labels are left out of fits and figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from embedded_base.labelled import encode_labelled
from transformers import HfArgumentParser

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel, default_labeler, read_captions
from modeling_taidpt.adaptation import (
    calibrate,
    calibrate_on_captions,
    calibrate_without_labels,
    fit_score_thresholds,
    overall_f1,
    probabilities,
    score_features,
)
from modeling_taidpt.image_features import ImageFeatures
from modeling_taidpt.reliability import expected_calibration_error, plot_reliability, reliability

FOLDS = 5


@dataclass
class Arguments:
    """What is measured, and on what."""

    captions: str = field(metadata={"help": "Held-out captions."})
    photographs: list[str] = field(metadata={"help": "Folders with labels.json and images/; all labels known first."})
    test: str | None = field(default=None, metadata={"help": "Folder that nothing is fitted or chosen on."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint."})
    unlabelled: int = field(default=1000, metadata={"help": "Unlabelled photographs, from the rest of the folders."})
    cache: str | None = field(default=None, metadata={"help": "Folder for image features."})
    plot: str | None = field(default=None, metadata={"help": "File for the reliability plot (of --test, if given)."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


Fit = Callable[[TaiDptModel, list[ImageFeatures]], None]


def joined(parts: list[ImageFeatures]) -> ImageFeatures:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.join(part)
    return whole


def ways(captions: list[str], pool: ImageFeatures, prevalence: np.ndarray) -> dict[str, tuple[bool, Fit]]:
    """Rows of the table: whether labelled photographs are used, and how the model is fitted."""

    def on_captions(per_class: bool) -> Fit:
        return lambda model, parts: calibrate_on_captions(model, captions, per_class)

    def without_labels(shares: torch.Tensor | float) -> Fit:
        def fit(model: TaiDptModel, parts: list[ImageFeatures]) -> None:
            calibrate_on_captions(model, captions)
            calibrate_without_labels(model, pool, shares)

        return fit

    def labelled(per_class: bool, per_class_thresholds: bool, all_parts: bool, all_thresholds: bool = True) -> Fit:
        def fit(model: TaiDptModel, parts: list[ImageFeatures]) -> None:
            whole = joined(parts)
            calibrate(model, whole if all_parts else parts[0], per_class=per_class)
            fit_score_thresholds(model, whole if all_thresholds else parts[0], per_class=per_class_thresholds)

        return fit

    return {
        "captions, model": (False, on_captions(False)),
        "captions, per class": (False, on_captions(True)),
        "unlabelled images, model's share of captions": (False, without_labels(float(prevalence.mean()))),
        "unlabelled images, classes' shares of captions": (False, without_labels(torch.from_numpy(prevalence))),
        "first folder, model": (True, labelled(False, False, False, False)),
        "first folder, model; thresholds per class": (True, labelled(False, True, False, False)),
        "all folders, model; thresholds per class": (True, labelled(False, True, True)),
        "all folders, per class": (True, labelled(True, True, True)),
        "first folder, model; thresholds per class, all folders": (True, labelled(False, True, False)),
    }


def predict(model: TaiDptModel, photographs: ImageFeatures) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and what the thresholds keep, each `(images, classes)`."""
    scores = probabilities(model.config, score_features(model, photographs).logits)
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


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    model = TaiDptModel.from_pretrained(arguments.model)
    folders = arguments.photographs
    parts = [encode_labelled(model, folder, True, arguments.cache) for folder in folders]
    pool = joined([encode_labelled(model, folder, False, arguments.cache) for folder in folders])
    pool = pool.select(np.random.default_rng(0).permutation(len(pool))[: arguments.unlabelled])
    captions = read_captions(arguments.captions).captions
    labels = default_labeler(model.config.labels, model.config.class_names)(captions)  # (captions, classes)
    prevalence = (labels.sum(axis=0) + 0.5) / (len(labels) + 1)  # (classes,)
    test = encode_labelled(model, arguments.test, None, arguments.cache) if arguments.test else None
    names = [Path(folder).name for folder in folders] + (["test"] if test is not None else [])
    figures: dict[str, dict] = {}
    curves = {}
    for name, (is_labelled, fit) in ways(captions, pool, prevalence).items():
        if is_labelled:
            results = cross_validate(model, parts, fit)
            fit(model, parts)
        else:
            fit(model, parts)
            results = [predict(model, part) for part in parts]
        if test is not None:
            results.append(predict(model, test))
        measured = [*parts, test] if test is not None else parts
        pairs = zip(names, results, measured, strict=True)
        figures[name] = {part: measure(*result, photographs) for part, result, photographs in pairs}
        shown, where = results[-1 if test is not None else 0][0], measured[-1 if test is not None else 0]
        known = torch.from_numpy(where.labels != 0)
        curves[name] = reliability(shown, torch.from_numpy(where.labels > 0), known=known)
        cells = "  ".join(
            f"{part} " + " ".join(f"{v:5.1f}" for v in row.values()) for part, row in figures[name].items()
        )
        print(f"{name:56s} {cells}", flush=True)
    if arguments.plot:
        chosen = ("captions, model", "unlabelled images, model's share of captions", list(curves)[-1])
        plot_reliability({name: curves[name] for name in chosen}, arguments.plot)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
