"""A trainer with the options of the study of training: they did not help, so the package goes without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from modeling_taidpt import ImageFeatures, TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments
from modeling_taidpt.captions.statistics import class_counts

from .feature_augmentation import FeatureAugmentation
from .gap_model import GapModel, feature_means


@dataclass
class StudyArguments(TaiDptTrainingArguments):
    """[`TaiDptTrainingArguments`] and what did not earn a place there.

    Args:
        feature_noise (`float`, *optional*, defaults to 0.0):
            Standard deviation of the Gaussian noise on each coordinate of the caption features of a batch (CoMC, ICML
            2024; see [`FeatureAugmentation`]).
        caption_composition (`float`, *optional*, defaults to 0.0):
            Share of the captions of a batch that are joined with another: features added, labels united.
        center_features (`bool`, *optional*, defaults to `False`):
            Whether the means of the captions, and of the trainer's `unlabeled_images`, are taken off all features.
        class_balance_beta (`float`, *optional*, defaults to 0.0):
            Weights of the positive classes in the ranking loss by the effective number of captions (Cui et al., CVPR
            2019), from 0 (all equal) to near 1 (one over the count).
    """

    feature_noise: float = field(default=0.0, metadata={"help": "Standard deviation of noise on caption features."})
    caption_composition: float = field(default=0.0, metadata={"help": "Share of captions joined with another."})
    center_features: bool = field(default=False, metadata={"help": "Take the means off all features."})
    class_balance_beta: float = field(default=0.0, metadata={"help": "Weights of rare classes, 0 to below 1."})

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: If an option has a value that it cannot have.
        """
        super().__post_init__()
        if self.feature_noise < 0:
            raise ValueError(f"`feature_noise` is {self.feature_noise}: it cannot be negative.")
        if not 0 <= self.caption_composition <= 1:
            raise ValueError(f"`caption_composition` is {self.caption_composition}: give a number from 0 to 1.")
        if not 0 <= self.class_balance_beta < 1:
            raise ValueError(f"`class_balance_beta` is {self.class_balance_beta}: give a number from 0 to below 1.")
        if self.class_balance_beta and self.loss != "ranking":
            raise ValueError(f"`class_balance_beta` does not go with loss={self.loss!r}: choose 'ranking'.")


class StudyTrainer(TaiDptTrainer):
    """Learns prompts with the options of [`StudyArguments`].

    Args:
        model ([`TaiDptModel`], *optional*): a [`GapModel`] for `center_features`.
        args ([`StudyArguments`], *optional*): the options.
        unlabeled_images ([`ImageFeatures`], *optional*): images whose means `center_features` takes off; their labels
            are not looked at.
        **kwargs: as for [`TaiDptTrainer`].
    """

    args: StudyArguments

    def __init__(
        self,
        model: TaiDptModel | None = None,
        args: StudyArguments | None = None,
        unlabeled_images: ImageFeatures | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, **{"max_captions_per_class": None} | kwargs)  # a study sees its whole corpus
        self.unlabeled_images = unlabeled_images
        self.augmentation = FeatureAugmentation(self.args.feature_noise, self.args.caption_composition)
        self._step, self._batch = -1, 0
        if self.args.class_balance_beta:
            counts = class_counts(self._data.train_captions.labels)  # (classes,)
            weights = long_tail_weights(counts, self.args.class_balance_beta)  # (classes,)
            self.loss_function = WeightedLoss(self.loss_function, torch.from_numpy(weights).float())

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Learns as [`TaiDptTrainer.train`], after the means are known."""
        if self.args.center_features:
            if not isinstance(self.model, GapModel):
                raise TypeError("`center_features` needs a GapModel: make one with `GapModel.from_clip`.")
            self.model.feature_means = feature_means(self._data.train_captions, self.unlabeled_images)
        return super().train(*args, **kwargs)

    def augment_features(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds noise and joins captions; the same step of a run always draws the same."""
        if not self.augmentation or "token_embeds" not in batch:
            return batch
        step = self.state.global_step
        self._batch = self._batch + 1 if step == self._step else 0  # several batches may make one step
        self._step = step
        entropy = [self.args.seed, step, self._batch, self.args.process_index]
        seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1)
        return self.augmentation(batch, torch.Generator().manual_seed(int(seed)))


class WeightedLoss(torch.nn.Module):
    """The ranking loss with weights of the positive classes.

    Args:
        ranking ([`RankingLoss`]): the loss.
        class_weights (`torch.Tensor` of shape `(classes,)`): weights of the classes where they are present.
    """

    def __init__(self, ranking: torch.nn.Module, class_weights: torch.Tensor) -> None:
        super().__init__()
        self.ranking, self.class_weights = ranking, class_weights

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of logits and labels `(batch, classes)`: a scalar."""
        weights = self.class_weights.to(labels.device).expand_as(labels)  # (batch, classes)
        return self.ranking(logits, labels, torch.where(labels == 1, weights, torch.ones_like(weights)))


def long_tail_weights(counts: Sequence[int] | np.ndarray, beta: float) -> np.ndarray:
    """Weights of the classes, `(1 - beta) / (1 - beta^n)`, divided by their mean (Cui et al., CVPR 2019, equation 2).

    Args:
        counts (`Sequence[int]` of length `classes`): captions of each class; a class without any counts as 1.
        beta (`float`): from 0 (all equal) to below 1 (near 1: one over the count).

    Returns:
        `np.ndarray` of shape `(classes,)`: float64, mean 1.
    """
    counts = np.maximum(np.asarray(counts, dtype=np.float64), 1)  # (classes,)
    weights = (1 - beta) / (1 - beta**counts)  # (classes,)
    return weights / weights.mean()


__all__ = ["StudyArguments", "StudyTrainer", "long_tail_weights"]
