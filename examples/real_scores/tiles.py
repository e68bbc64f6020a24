"""Whole images and tiles of a large CLIP, RN50x64 on VOC2012."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from modeling_taidpt import mean_average_precision, paired_bootstrap
from modeling_taidpt.scores import join_tiles

from .published import halves, read_voc2012

WEIGHTS = (0.0, 0.3, 0.5, 0.7, 1.0)  # of the largest over tiles


def tiles_table(shared: Path, resamples: int) -> list[dict]:
    """Rows: weights of the tiles with mAP and gain, then the weight that is best on one half judged on the other."""
    scores = read_voc2012(shared)
    both = torch.from_numpy(np.stack([scores.whole, scores.tiles], axis=1))  # (images, 2, 20)
    joined = {weight: (1 - weight) * scores.whole + weight * scores.tiles for weight in WEIGHTS}
    joined[0.5] = join_tiles(both).numpy()  # the largest over one "tile" is the largest that is stored
    rows = []
    for weight, values in joined.items():
        row = {"row": f"tiles {weight:g}", "mAP": mean_average_precision(values, scores.present)["map"]}
        if resamples and weight:
            gain = paired_bootstrap(values, scores.whole, scores.present, num_resamples=resamples, seed=0)
            row["gain"] = [gain[key] for key in ("difference", "low", "high")]
        rows.append(row)
    first, second = halves(len(scores.present), 0)
    best = max(joined, key=lambda weight: mean_average_precision(joined[weight][first], scores.present[first])["map"])
    maps = [
        mean_average_precision(values[second], scores.present[second])["map"]
        for values in (joined[best], scores.whole)
    ]
    rows.append({"row": f"{best:g} chosen on one half, other half", "mAP": maps[0], "mean gain": maps[0] - maps[1]})
    return rows


__all__ = ["tiles_table"]
