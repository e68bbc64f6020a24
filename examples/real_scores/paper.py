"""The paper's figure from the published scores, the ensemble with DualCoOp, and SPARC's standardization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from modeling_taidpt import ScoreEnsemble, mean_average_precision, paired_bootstrap
from modeling_taidpt.ensembles.scores import PARTIAL_LABEL_WEIGHT
from modeling_taidpt.standardization import center_over_classes, two_step_zscore, zscore_over_classes

from .published import Voc2007, read_voc2007

PAPER = 88.3  # TaI-DPT on VOC2007, RN50: table 1 of the paper


def score_rows(scores: Voc2007) -> dict[str, np.ndarray]:
    """Scores `(images, 20)` by the name of the row."""

    def standardized(step) -> np.ndarray:
        branches = [step(torch.from_numpy(branch)).numpy() for branch in (scores.text_global, scores.text_local)]
        return 0.5 * branches[0] + 0.5 * branches[1]

    text, images = scores.text, scores.images_local
    return {
        "TaI-DPT, merged": text,
        "TaI-DPT, global": scores.text_global,
        "TaI-DPT, local": scores.text_local,
        "DualCoOp, RN101": images,
        "ensemble, min-max, weight 0.9": ScoreEnsemble(text, images, PARTIAL_LABEL_WEIGHT, "min-max").scores(),
        "centered over classes": standardized(center_over_classes),
        "z-scored over classes": standardized(zscore_over_classes),
        "two-step z-score (SPARC)": standardized(two_step_zscore),
    }


def paper_table(shared: Path, resamples: int) -> list[dict]:
    """Rows of the table: mAP with difficult labels as absent and left out, and the gain over the merged score.

    DualCoOp's score is that of its local branch, which the published code ensembles (`ensemble_score.py`).
    """
    scores = read_voc2007(shared)
    rows = score_rows(scores)
    table = []
    for name, values in rows.items():
        gain = None
        if resamples and name != "TaI-DPT, merged":
            first = scores.ranked(rows["TaI-DPT, merged"])
            gain = paired_bootstrap(scores.ranked(values), first, scores.present, num_resamples=resamples, seed=0)
        table.append(
            {
                "row": name,
                "absent": mean_average_precision(values, scores.present)["map"],
                "left out": mean_average_precision(scores.ranked(values), scores.present)["map"],
                "gain": None if gain is None else [gain[key] for key in ("difference", "low", "high")],
                "paper": PAPER if name == "TaI-DPT, merged" else None,
            }
        )
    if resamples:
        ensemble, alone = (scores.ranked(rows[name]) for name in ("ensemble, min-max, weight 0.9", "DualCoOp, RN101"))
        gain = paired_bootstrap(ensemble, alone, scores.present, num_resamples=resamples, seed=0)
        table.append(
            {"row": "ensemble less DualCoOp alone", "gain": [gain[key] for key in ("difference", "low", "high")]}
        )
    return table


__all__ = ["PAPER", "paper_table", "score_rows"]
