"""Rows of the table of score standardisation: what is done to a model, and how it scores photographs then."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from modeling_taidpt import CaptionFeatures, TaiDptModel
from modeling_taidpt.evaluation.predict import score_features
from modeling_taidpt.evaluation.score_fitting import fit_caption_bank, fit_score_statistics
from modeling_taidpt.features.images import ImageFeatures
from modeling_taidpt.standardization import two_step_zscore

SIZES = (10, 100, 1000)

Way = Callable[[TaiDptModel, ImageFeatures], torch.Tensor]


def plain(model: TaiDptModel, photographs: ImageFeatures) -> torch.Tensor:
    """Merged scores `(images, classes)` as the model is set."""
    return score_features(model, photographs).logits


def transductive(model: TaiDptModel, photographs: ImageFeatures) -> torch.Tensor:
    """The same, each class of each branch z-scored over the photographs that are scored."""
    outputs = score_features(model, photographs)
    model.set_score_statistics(outputs.logits_global, outputs.logits_local)
    return plain(model, photographs)


def sparc(model: TaiDptModel, photographs: ImageFeatures) -> torch.Tensor:
    """SPARC's two steps over the photographs that are scored, in each branch, then merged."""
    outputs = score_features(model, photographs)
    branches = [two_step_zscore(logits) for logits in (outputs.logits_global, outputs.logits_local)]
    return (1 - model.config.local_weight) * branches[0] + model.config.local_weight * branches[1]


def ways(
    scale: float, captions: CaptionFeatures, pool: ImageFeatures, seeds: int, complete: bool
) -> dict[str, list[tuple]]:
    """Rows of the table: name to what is done to the model and how it scores, once per seed."""

    def setting(step: str | None, statistics: object = None) -> Callable[[TaiDptModel], None]:
        def apply(model: TaiDptModel) -> None:
            model.config.image_spatial_scale = scale
            model.set_score_statistics(None)
            model.set_caption_bank(None)
            if step == "captions":
                fit_caption_bank(model, captions)
            else:
                model.config.image_standardization = step
            if isinstance(statistics, CaptionFeatures):
                fit_score_statistics(model, captions=statistics)
            elif statistics is not None:
                fit_score_statistics(model, images=statistics)

        return apply

    def drawn(size: int) -> list[ImageFeatures]:
        orders = [np.random.default_rng(seed).permutation(len(pool)) for seed in range(seeds)]
        return [pool.select(order[:size]) for order in orders]

    bank = {
        "none": [(setting(None), plain)],
        "image: caption bank": [(setting("captions"), plain)],
        "image: caption bank; class: captions": [(setting("captions", captions), plain)],
        "image: caption bank; class: 1000 images": [(setting("captions", part), plain) for part in drawn(1000)],
    }
    others = {
        "image: centre": [(setting("center"), plain)],
        "image: z-score": [(setting("zscore"), plain)],
        "class: captions": [(setting(None, captions), plain)],
        **{f"class: {size} images": [(setting(None, part), plain) for part in drawn(size)] for size in SIZES},
        "class: transductive": [(setting(None), transductive)],
        "two-step z-score, 1000 images": [(setting("zscore", part), plain) for part in drawn(1000)],
        "two-step z-score (SPARC), transductive": [(setting(None), sparc)],
    }
    rows = bank | others if complete else bank
    return {f"spatial scale {scale:g}; {name}": row for name, row in rows.items()}
