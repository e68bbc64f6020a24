"""How scores of prompts from text and from images are brought to one scale before they are summed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from modeling_taidpt import ScoreEnsemble, mean_average_precision
from modeling_taidpt.evaluation.calibration import fit_score_calibration

from .published import Voc2007, halves, read_voc2007

WEIGHTS = tuple(round(0.1 * step, 1) for step in range(1, 10))
CALIBRATED_ON = 100  # labelled images


def calibrated(scores: Voc2007, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Log odds `(images, 20)` by scale and bias per class fitted on some labelled rows."""
    scale, bias = fit_score_calibration(
        torch.from_numpy(values[rows]),
        torch.from_numpy(scores.present[rows]),
        per_class=True,
        known=torch.from_numpy(scores.known[rows]),
    )
    return np.asarray(scale) * values + np.asarray(bias)


def ensembles_table(shared: Path, resamples: int) -> list[dict]:
    """MAP on the other half of the images, by weight of the image prompts; the calibrated sum fits on the first."""
    scores = read_voc2007(shared)
    first, second = halves(len(scores.present), 0)
    fitted = [calibrated(scores, values, first[:CALIBRATED_ON]) for values in (scores.text, scores.images_local)]

    def judge(values: np.ndarray) -> float:
        return mean_average_precision(scores.ranked(values)[second], scores.present[second])["map"]

    rows: list[dict] = [{"row": "text alone", "0.5": judge(scores.text)}]
    rows.append({"row": "images alone", "0.5": judge(scores.images_local)})
    for name in ("min-max", "z-score"):
        merged = {w: ScoreEnsemble(scores.text, scores.images_local, w, name).scores() for w in WEIGHTS}
        rows.append({"row": name, **{f"{w:g}": judge(values) for w, values in merged.items()}})
    sums = {w: (1 - w) * fitted[0] + w * fitted[1] for w in WEIGHTS}
    rows.append({"row": "sum of log odds", **{f"{w:g}": judge(values) for w, values in sums.items()}})
    odds = [1 / (1 + np.exp(-values)) for values in fitted]
    sums = {w: (1 - w) * odds[0] + w * odds[1] for w in WEIGHTS}
    rows.append({"row": "sum of probabilities", **{f"{w:g}": judge(values) for w, values in sums.items()}})
    return rows


__all__ = ["ensembles_table"]
