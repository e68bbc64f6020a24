"""What learning from captions does so that the prompts serve images: set up once, then asked in every step.

The parts stand in `feature_augmentation.py`, `prototypes.py`, `modality_gap.py` and `class_balance.py`; each is an
option of [`TaiDptTrainingArguments`], off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..captions.statistics import class_counts, cooccurrence, long_tail_weights
from ..features.captions import CaptionFeatures
from ..features.prototypes import caption_memory, prototype_term
from ..modality_gap import mean_features
from .arguments import TaiDptTrainingArguments
from .feature_augmentation import FeatureAugmentation


class GapTraining:
    """The options of a run that cross the gap between texts and images, or even out the classes.

    Args:
        args ([`TaiDptTrainingArguments`]): the options.
    """

    def __init__(self, args: TaiDptTrainingArguments) -> None:
        """Keep the options; [`~GapTraining.prepare`] computes what the captions give."""
        self.args = args
        self.augmentation = FeatureAugmentation(args.feature_noise, args.caption_composition)
        self.prototypes: tuple[torch.Tensor, torch.Tensor] | None = None  # (2, present classes, dim), (classes,)
        self.class_weights: torch.Tensor | None = None  # (classes,)
        self.cooccurrence: torch.Tensor | None = None  # (classes, classes)
        self._step, self._batch = -1, 0

    def prepare(self, model: Any, captions: CaptionFeatures, images: Any = None) -> None:
        """Computes prototypes, weights, the caption memory and the means.

        Args:
            model ([`TaiDptModel`]): gets the memory and the means; they are part of its checkpoint.
            captions ([`CaptionFeatures`]): the training captions without templates.
            images ([`ImageFeatures`], *optional*): unlabelled images, for their means.
        """
        args, device = self.args, self.args.device
        seed = args.seed if args.data_seed is None else args.data_seed
        if args.caption_prototype_weight:
            options = {"label_power": args.prototype_label_power, "clusters": args.prototypes_per_class}
            both = [
                captions.class_prototypes(args.prototype_max_captions, seed, centering, **options)
                for centering in args.caption_prototype_centering
            ]
            present = both[0][1]  # (classes,)
            prototypes = torch.stack([part[present] for part, _ in both])  # (2, present classes, dim)
            self.prototypes = prototypes.to(device), present.to(device)
        if args.class_balance_beta:
            weights = long_tail_weights(class_counts(captions.labels), args.class_balance_beta)  # (classes,)
            self.class_weights = torch.from_numpy(weights).float().to(device)
        if args.cooccurrence_smoothing:
            self.cooccurrence = torch.from_numpy(cooccurrence(captions.labels)).float().to(device)
        if args.caption_memory_size:
            model.set_caption_memory(caption_memory(captions, args.caption_memory_size, seed))
        if args.center_features:
            model.config.feature_means = feature_means(captions, images)

    def augment(self, inputs: dict[str, Any], step: int, process: int = 0) -> dict[str, Any]:
        """Changes a batch of features; the same step of a run always draws the same.

        Args:
            inputs (`dict`): a batch of caption features; of anything else nothing is changed.
            step (`int`): optimiser steps so far.
            process (`int`, *optional*, defaults to 0): rank of the process.

        Returns:
            `dict`: the batch.
        """
        if not self.augmentation or "token_embeds" not in inputs:
            return inputs
        self._batch = self._batch + 1 if step == self._step else 0  # several batches may make one step
        self._step = step
        seeds = np.random.SeedSequence([self.args.seed, step, self._batch, process]).generate_state(1, np.uint64)
        return self.augmentation(inputs, torch.Generator().manual_seed(int(seeds[0] >> np.uint64(1))))

    def loss(self, loss_function: nn.Module, scores: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """The sum of the loss on the scores, smoothed and weighed.

        Args:
            loss_function (`nn.Module`): called with scores and labels `(batch, classes)`; ranking takes weights too.
            scores (`Sequence[torch.Tensor]`): scores `(batch, classes)` of the branches.
            labels (`torch.Tensor` of shape `(batch, classes)`): multi-hot.

        Returns:
            `torch.Tensor`: a scalar.
        """
        options: dict[str, torch.Tensor] = {}
        if self.args.loss == "ranking" and (self.cooccurrence is not None or self.class_weights is not None):
            options["weights"] = self._pair_weights(labels)  # (batch, classes)
        elif self.cooccurrence is not None:
            labels = torch.maximum(labels, self._likely(labels))  # (batch, classes)
        return sum(loss_function(logits.float(), labels, **options) for logits in scores)  # ()

    def term(self, class_embeddings: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The caption-prototype term of global and local class embeddings `(classes, dim)`: a scalar."""
        assert self.prototypes is not None
        return prototype_term(*class_embeddings, *self.prototypes)

    def _likely(self, labels: torch.Tensor) -> torch.Tensor:
        """How likely each class is beside those named, times the smoothing, `(batch, classes)`."""
        beside = labels[:, :, None] * self.cooccurrence  # (batch, classes, classes)
        return self.args.cooccurrence_smoothing * beside.amax(dim=1)  # (batch, classes)

    def _pair_weights(self, labels: torch.Tensor) -> torch.Tensor:
        """Weights `(batch, classes)` of the ranking pairs: rare classes count more, likely negatives less."""
        positive = torch.ones_like(labels) if self.class_weights is None else self.class_weights.expand_as(labels)
        negative = torch.ones_like(labels) if self.cooccurrence is None else 1 - self._likely(labels)
        return torch.where(labels == 1, positive, negative)  # (batch, classes)


def feature_means(captions: CaptionFeatures, images: Any = None) -> dict[str, list[float]]:
    """Means for `config.feature_means`, of caption features and, where given, of image features.

    Args:
        captions ([`CaptionFeatures`]): captions.
        images ([`ImageFeatures`], *optional*): images; their labels are not looked at.

    Returns:
        `dict[str, list[float]]`: `"caption"` and `"token"`, and with images `"image"` and `"cell"`.
    """
    means = dict(zip(("caption", "token"), mean_features(captions.shards[row] for row in captions.rows), strict=True))
    if images is not None:
        means.update(zip(("image", "cell"), mean_features(images.shards[row] for row in images.rows), strict=True))
    return means


__all__ = ["GapTraining", "feature_means"]
