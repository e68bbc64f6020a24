"""Score standardisation: takes off what an image scores for any text, and puts classes on one scale.

Scores of a CLIP carry a bias of the image (some images score high for every text) and one of the class. The image's
bias changes the order of images within a class, so average precision gains when it is taken off; a shift or scale of
a class changes nothing within the class, but decides how the two branches add up.

Three steps for the image: `"center"` takes off its mean over the classes, `"zscore"` divides by its deviation too,
and `"captions"` takes off the global score that it has for captions in general, whatever its labels: the log-partition
`1/T * log sum_k w_k exp(T <f, b_k>)` over a bank of caption features b at the CLIP's own temperature T. What remains
is the logarithm of the contrastive posterior of the class among the captions (InfoNCE's optimum), in units of cosine.

The two-step z-score is that of SPARC (Miller et al., CVPR 2025; `calibrate_data` in its published code): over the
classes of each image, then over the images of each class, deviations with n - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .caption_clusters import spherical_clusters
from .configuration_taidpt import TaiDptConfig

MIN_DEVIATION = 1e-6  # scores that are all equal are shifted, not blown up
BRANCH_STATISTICS = ("global_mean", "global_std", "local_mean", "local_std")


def center_over_classes(scores: torch.Tensor) -> torch.Tensor:
    """Takes off each image's mean over the classes; `(images, classes)` to the same shape."""
    return scores - scores.mean(dim=1, keepdim=True)


def zscore_over_classes(scores: torch.Tensor) -> torch.Tensor:
    """Z-scores each image over its classes, with n - 1; `(images, classes)` to the same shape."""
    deviation = scores.std(dim=1, keepdim=True) if scores.shape[1] > 1 else torch.ones_like(scores)  # (images, 1)
    return center_over_classes(scores) / _usable(deviation)


def _usable(deviation: torch.Tensor) -> torch.Tensor:
    """Deviations of any shape; 1 where the scores are equal but for rounding."""
    return torch.where(deviation > MIN_DEVIATION, deviation, torch.ones_like(deviation))


def class_statistics(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation (n - 1) of each class over images or captions.

    Args:
        scores (`torch.Tensor` of shape `(samples, classes)`): of one branch.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: `(classes,)` each; the deviation of a class whose scores are all equal is
        taken as 1.

    Raises:
        ValueError: there are fewer than two samples.
    """
    if scores.ndim != 2 or len(scores) < 2:
        raise ValueError(f"The scores have the shape {tuple(scores.shape)}: (samples, classes), two samples at least.")
    return scores.mean(dim=0), _usable(scores.std(dim=0))


def two_step_zscore(scores: torch.Tensor) -> torch.Tensor:
    """SPARC's standardisation of a whole test set: over the classes of each image, then over the images of each class.

    Args:
        scores (`torch.Tensor` of shape `(images, classes)`): of one branch, of all images together.

    Returns:
        `torch.Tensor` of shape `(images, classes)`.
    """
    scores = zscore_over_classes(scores)  # (images, classes)
    mean, deviation = class_statistics(scores)
    return (scores - mean) / deviation


def cluster_captions(
    features: torch.Tensor, size: int, seed: int = 0, steps: int = 15
) -> tuple[torch.Tensor, torch.Tensor]:
    """A small bank that stands for many captions; see [`spherical_clusters`].

    Args:
        features (`torch.Tensor` of shape `(captions, dim)`): L2-normalised global caption features.
        size (`int`): clusters; as many captions or fewer are kept as they are.
        seed (`int`, *optional*, defaults to 0): draws the captions that the clusters start from.
        steps (`int`, *optional*, defaults to 15): steps of Lloyd's algorithm.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: mean feature of each cluster `(clusters, dim)`, not normalised, and the
        logarithm of its share of the captions `(clusters,)`. Clusters that no caption chose are left out.
    """
    features = features.float()  # (captions, dim)
    if len(features) <= size:
        return features, torch.full((len(features),), 1 / len(features)).log()
    drawn = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:size]
    sums, counts = spherical_clusters(features, drawn, steps)  # (clusters, dim), (clusters,)
    return sums / counts[:, None], (counts / counts.sum()).log()


def caption_partition(
    features: torch.Tensor, bank: torch.Tensor, log_weights: torch.Tensor, temperature: float
) -> torch.Tensor:
    """What each image scores for captions in general: `1/T * log sum_k w_k exp(T <f, b_k>)`.

    Args:
        features (`torch.Tensor` of shape `(images, dim)`): L2-normalised pooled features.
        bank (`torch.Tensor` of shape `(clusters, dim)`): caption features.
        log_weights (`torch.Tensor` of shape `(clusters,)`): logarithms of their shares.
        temperature (`float`): T, the factor that the CLIP's contrastive loss has on cosines.

    Returns:
        `torch.Tensor` of shape `(images, 1)`, in units of cosine.
    """
    scores = temperature * features.float() @ bank.float().T + log_weights.float()  # (images, clusters)
    return scores.logsumexp(dim=1, keepdim=True) / temperature


class StandardizationMixin:
    """What [`TaiDptModel`] keeps for standardised scores, and how it applies it."""

    config: TaiDptConfig
    clip: Any
    caption_bank: torch.Tensor
    caption_bank_log_weights: torch.Tensor
    device: torch.device

    def set_caption_bank(self, bank: torch.Tensor | None, log_weights: torch.Tensor | None = None) -> None:
        """Keeps a bank of caption features with the model and standardises images by it (or drops it with `None`).

        The bank does not depend on the labels: it serves [`~TaiDptModel.with_labels`] too. It is kept with the model.

        Args:
            bank (`torch.Tensor` of shape `(clusters, dim)`, *optional*): see [`cluster_captions`].
            log_weights (`torch.Tensor` of shape `(clusters,)`, *optional*): equal shares by default.

        Raises:
            ValueError: the shapes do not fit.
        """
        if bank is None:
            self.config.caption_bank_size, self.config.image_standardization = 0, None
            self._register_caption_bank()
            return
        dim = self.config.embedding_dim
        if log_weights is None and bank.ndim == 2 and len(bank):
            log_weights = torch.full((len(bank),), 1 / len(bank)).log()  # (clusters,)
        if bank.ndim != 2 or bank.shape[1] != dim or not len(bank) or tuple(log_weights.shape) != bank.shape[:1]:
            raise ValueError(
                f"The caption bank has the shape {tuple(bank.shape)}: (clusters, {dim}) is needed, and a weight each."
            )
        self.config.caption_bank_size, self.config.image_standardization = len(bank), "captions"
        self.config.caption_bank_temperature = float(self.clip.logit_scale.detach().float().exp())
        self._register_caption_bank()
        self.caption_bank.copy_(bank)
        self.caption_bank_log_weights.copy_(log_weights)

    def set_score_statistics(
        self, logits_global: torch.Tensor | None, logits_local: torch.Tensor | None = None, source: str | None = None
    ) -> None:
        """Keeps mean and deviation of each class and branch, and z-scores classes by them (or stops with `None`).

        Args:
            logits_global (`torch.Tensor` of shape `(samples, classes)`, *optional*): global scores of unlabelled
                images (or captions), after the image step that the model is set to.
            logits_local (`torch.Tensor` of shape `(samples, classes)`, *optional*): local scores of the same.
            source (`str`, *optional*): what they were taken from, for the card.

        Raises:
            ValueError: there are fewer than two samples, or one branch alone is given.
        """
        if (logits_global is None) != (logits_local is None):
            raise ValueError("Give the scores of both branches, `logits_global` and `logits_local`, or none.")
        if logits_global is None or logits_local is None:
            self.config.score_statistics = None
            return
        values = [*class_statistics(logits_global.float()), *class_statistics(logits_local.float())]  # (classes,) each
        rounded = [[round(value, 6) for value in statistic.tolist()] for statistic in values]
        self.config.score_statistics = dict(zip(BRANCH_STATISTICS, rounded, strict=True)) | {"source": source}

    def _register_caption_bank(self) -> None:
        """Buffers of the size that the configuration says; none where there is no bank."""
        size, dim = self.config.caption_bank_size, self.config.embedding_dim
        for name in ("caption_bank", "caption_bank_log_weights"):
            if hasattr(self, name):
                delattr(self, name)
        if size:
            device = self.clip.logit_scale.device
            self.register_buffer("caption_bank", torch.zeros(size, dim, device=device))  # type: ignore[attr-defined]
            weights = torch.zeros(size, device=device)  # (clusters,)
            self.register_buffer("caption_bank_log_weights", weights)  # type: ignore[attr-defined]

    def _copy_caption_bank(self, other: StandardizationMixin) -> None:
        if self.config.caption_bank_size:
            self.caption_bank.copy_(other.caption_bank)
            self.caption_bank_log_weights.copy_(other.caption_bank_log_weights)

    def _standardize(
        self, logits_global: torch.Tensor, logits_local: torch.Tensor, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both steps: logits `(batch, classes)` of the two branches, global features `(batch, dim)`."""
        return self._standardize_classes(*self._standardize_image(logits_global, logits_local, features))

    def _standardize_image(
        self, logits_global: torch.Tensor, logits_local: torch.Tensor, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The step over one image: logits `(batch, classes)` of both branches and global features `(batch, dim)`."""
        step = self.config.image_standardization
        if step == "center":
            return center_over_classes(logits_global), center_over_classes(logits_local)
        if step == "zscore":
            return zscore_over_classes(logits_global), zscore_over_classes(logits_local)
        if step == "captions":
            bank, weights = self.caption_bank, self.caption_bank_log_weights
            partition = caption_partition(features, bank, weights, self.config.caption_bank_temperature)  # (batch, 1)
            return logits_global - self.config.logit_scale * partition, logits_local
        return logits_global, logits_local

    def _standardize_classes(
        self, logits_global: torch.Tensor, logits_local: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The step over stored statistics of the classes: logits `(batch, classes)` of both branches."""
        statistics: Mapping[str, Any] | None = self.config.score_statistics
        if statistics is None:
            return logits_global, logits_local
        values = [logits_global.new_tensor(statistics[name]) for name in BRANCH_STATISTICS]  # (classes,) each
        return (logits_global - values[0]) / values[1], (logits_local - values[2]) / values[3]


__all__ = [
    "StandardizationMixin",
    "caption_partition",
    "center_over_classes",
    "class_statistics",
    "cluster_captions",
    "two_step_zscore",
    "zscore_over_classes",
]
