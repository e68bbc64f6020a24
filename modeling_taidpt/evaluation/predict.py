"""Scores of cached features: the one loop over batches that evaluation, calibration and ensembles use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..features.captions import CaptionFeatures, collate_features
from ..features.images import ImageFeatures, collate_images
from ..modeling_taidpt import TaiDptModel, TaiDptOutput

BATCH_SIZE = 64
INPUTS = ("image_embeds", "dense_embeds", "caption_embeds", "token_embeds", "attention_mask")


@torch.no_grad()
def score_features(
    model: TaiDptModel,
    features: ImageFeatures | CaptionFeatures,
    standardize: bool | None = None,
    batch_size: int = BATCH_SIZE,
) -> TaiDptOutput:
    """Scores cached features batch by batch, in eval mode; the model's mode is restored.

    Args:
        model ([`TaiDptModel`]): the model.
        features ([`ImageFeatures`] or [`CaptionFeatures`]): of images or captions.
        standardize (`bool`, *optional*): as in the model's `forward`.
        batch_size (`int`, *optional*, defaults to 64): samples scored at a time.

    Returns:
        [`TaiDptOutput`]: the three logits `(samples, classes)`, fp32, on the CPU.
    """
    parts = list(score_batches(model, features, standardize, batch_size))
    merged, whole, local = (torch.cat(branch) for branch in zip(*parts, strict=True))  # (samples, classes) each
    return TaiDptOutput(logits=merged, logits_global=whole, logits_local=local)


@torch.no_grad()
def score_batches(
    model: TaiDptModel,
    features: ImageFeatures | CaptionFeatures,
    standardize: bool | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Scores cached features batch by batch, as [`score_features`] does, and holds one batch at a time.

    Args:
        model ([`TaiDptModel`]): the model.
        features ([`ImageFeatures`] or [`CaptionFeatures`]): of images or captions.
        standardize (`bool`, *optional*): as in the model's `forward`.
        batch_size (`int`, *optional*, defaults to 64): samples scored at a time.

    Returns:
        `Iterator`: merged, global and local logits `(batch, classes)` of each batch, fp32, on the CPU.
    """
    collate: Any = collate_images if isinstance(features, ImageFeatures) else collate_features
    was_training = model.training
    model.eval()
    try:
        with model.cached_class_embeddings():
            for start in range(0, len(features), batch_size):
                batch = collate([features[index] for index in range(start, min(start + batch_size, len(features)))])
                inputs = {name: batch[name].to(model.device) for name in INPUTS if name in batch}
                outputs = model(**inputs, standardize=standardize, return_dict=True)
                branches = (outputs.logits, outputs.logits_global, outputs.logits_local)  # (batch, classes) each
                merged, whole, local = (logits.float().cpu() for logits in branches)
                yield merged, whole, local
    finally:
        model.train(was_training)


__all__ = ["BATCH_SIZE", "score_batches", "score_features"]
