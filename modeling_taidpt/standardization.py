"""Score standardisation: takes off what an image scores for any text, and puts classes on one scale.

Scores of a CLIP carry a bias of the image (some images score high for every text) and one of the class. The image's
bias changes the order of images within a class, so average precision gains when it is taken off; a shift or scale of
a class changes nothing within the class, but decides how the two branches add up.

Three steps for the image: `"center"` takes off its mean over the classes, `"zscore"` also divides by their standard
deviation, and `"captions"` takes off the global score that it has for captions in general, whatever its labels: the
log-partition `1/T * log sum_k w_k exp(T <f, b_k>)` over a bank of caption features b. At the CLIP's own temperature T
what remains is the logarithm of the contrastive posterior of the class among the captions (InfoNCE's optimum), in
units of cosine. The local score is left as it is: taking off the same gained 0.06 more on VOC2007 (docs/studies.md).

The two-step z-score is that of SPARC (Miller et al., CVPR 2025; `calibrate_data` in its published code): over the
classes of each image, then over the images of each class, standard deviations with n - 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .configuration_taidpt import TaiDptConfig

MIN_STD = 1e-6  # scores that are all equal are shifted, not blown up
HIGHEST_OWN_TEMPERATURE, BANK_TEMPERATURE = 32.0, 16.0
BRANCH_STATISTICS = ("global_mean", "global_std", "local_mean", "local_std")


def center_over_classes(scores: torch.Tensor) -> torch.Tensor:
    """Takes off each image's mean over the classes; `(images, classes)` to the same shape."""
    return scores - scores.mean(dim=1, keepdim=True)


def zscore_over_classes(scores: torch.Tensor) -> torch.Tensor:
    """Z-scores each image over its classes, with n - 1; `(images, classes)` to the same shape."""
    std = scores.std(dim=1, keepdim=True) if scores.shape[1] > 1 else torch.ones_like(scores)  # (images, 1)
    return center_over_classes(scores) / _usable(std)


def _usable(std: torch.Tensor) -> torch.Tensor:
    """Standard deviations of any shape; 1 where the scores are equal but for rounding."""
    return torch.where(std > MIN_STD, std, torch.ones_like(std))


def class_statistics(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (n - 1) of each class over images or captions.

    Args:
        scores (`torch.Tensor` of shape `(samples, classes)`): of one branch.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: `(classes,)` each; the standard deviation of a class whose scores are
        all equal is taken as 1.

    Raises:
        ValueError: there are fewer than two samples.
    """
    if scores.ndim != 2 or len(scores) < 2:
        raise ValueError(f"The scores have the shape {tuple(scores.shape)}: (samples, classes), two samples at least.")
    return scores.mean(dim=0), _usable(scores.std(dim=0))


def two_step_zscore(scores: torch.Tensor) -> torch.Tensor:
    """SPARC's standardization of a whole test set: over the classes of each image, then over the images of each class.

    Made for zero-shot prompts. On learned prompts it loses: TaI-DPT's on RN50, VOC2007, 88.99 to 88.02 mAP, -0.96
    [-1.29, -0.63] (paired bootstrap; docs/reproduction.md).

    Args:
        scores (`torch.Tensor` of shape `(images, classes)`): of one branch, of all images together.

    Returns:
        `torch.Tensor` of shape `(images, classes)`.
    """
    scores = zscore_over_classes(scores)  # (images, classes)
    mean, std = class_statistics(scores)  # (classes,) each
    return (scores - mean) / std


def default_bank_temperature(own: float) -> float:
    """The temperature of a caption bank: the CLIP's own up to 32, else 16.

    OpenAI's CLIPs end at 100, where their training clips it, and a bank at 100 costs RN50 1.1 mAP on VOC2007: the few
    captions that are nearest decide alone. At 12 to 16 it gains 0.8; the embedded base gains at its own 22.6. On half
    of the images each value was chosen, on the other half judged, see docs/studies.md.

    Args:
        own (`float`): factor that the CLIP's contrastive loss has on cosines.

    Returns:
        `float`: for `config.caption_bank_temperature`.
    """
    return own if own <= HIGHEST_OWN_TEMPERATURE else BANK_TEMPERATURE


class CaptionBank(nn.Module):
    """Caption features that stand for captions in general: `"captions"` takes off what an image scores for them.

    Args:
        size (`int`): clusters of captions.
        dim (`int`): width of the joint space.

    Attributes:
        features (`torch.Tensor` of shape `(clusters, dim)`): mean feature of each cluster, see [`cluster_captions`].
        log_weights (`torch.Tensor` of shape `(clusters,)`): logarithms of their shares of the captions.
    """

    features: torch.Tensor
    log_weights: torch.Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, dim))
        self.register_buffer("log_weights", torch.zeros(size))

    @classmethod
    def from_features(cls, features: torch.Tensor, log_weights: torch.Tensor | None, dim: int) -> CaptionBank:
        """A bank of given features.

        Args:
            features (`torch.Tensor` of shape `(clusters, dim)`): caption features.
            log_weights (`torch.Tensor` of shape `(clusters,)`, *optional*): equal shares by default.
            dim (`int`): width of the joint space.

        Returns:
            [`CaptionBank`]: holds copies in fp32.

        Raises:
            ValueError: the shapes do not fit.
        """
        if log_weights is None and features.ndim == 2 and len(features):
            log_weights = torch.full((len(features),), 1 / len(features)).log()  # (clusters,)
        fits = features.ndim == 2 and features.shape[1] == dim and len(features)
        if not fits or tuple(log_weights.shape) != features.shape[:1]:
            raise ValueError(
                f"The caption bank has the shape {tuple(features.shape)}: (clusters, {dim}) is needed, and a weight "
                "each."
            )
        with torch.inference_mode(False):  # buffers made in inference mode could not be trained with later
            bank = cls(len(features), dim)
            bank.features.copy_(features)
            bank.log_weights.copy_(log_weights)
        return bank

    def forward(self, features: torch.Tensor, temperature: float) -> torch.Tensor:
        """What each image scores for captions in general: `1/T * log sum_k w_k exp(T <f, b_k>)`.

        Args:
            features (`torch.Tensor` of shape `(images, dim)`): L2-normalised pooled features f.
            temperature (`float`): T, the factor on cosines; see [`default_bank_temperature`].

        Returns:
            `torch.Tensor` of shape `(images, 1)`, in units of cosine.
        """
        cosines = features.float() @ self.features.float().T  # (images, clusters)
        scores = temperature * cosines + self.log_weights.float()  # (images, clusters)
        return scores.logsumexp(dim=1, keepdim=True) / temperature  # (images, 1)


def score_statistics(
    logits_global: torch.Tensor, logits_local: torch.Tensor, source: str | None = None
) -> dict[str, Any]:
    """Mean and standard deviation of each class and branch, as `config.score_statistics` holds them.

    Args:
        logits_global (`torch.Tensor` of shape `(samples, classes)`): global scores.
        logits_local (`torch.Tensor` of shape `(samples, classes)`): local scores of the same.
        source (`str`, *optional*): what they were taken from, for the card.

    Returns:
        `dict`: lists of one number per class, and the source.

    Raises:
        ValueError: there are fewer than two samples.
    """
    values = [*class_statistics(logits_global.float()), *class_statistics(logits_local.float())]  # (classes,) each
    rounded = [[round(value, 6) for value in statistic.tolist()] for statistic in values]
    return dict(zip(BRANCH_STATISTICS, rounded, strict=True)) | {"source": source}


def standardize_scores(
    config: TaiDptConfig,
    bank: CaptionBank | None,
    logits_global: torch.Tensor,
    logits_local: torch.Tensor,
    features: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardises scores as a configuration says: the step over each image, then that over each class.

    Args:
        config ([`TaiDptConfig`]): `image_standardization` and `score_statistics`.
        bank ([`CaptionBank`], *optional*): for `"captions"`.
        logits_global (`torch.Tensor` of shape `(batch, classes)`): global scores.
        logits_local (`torch.Tensor` of shape `(batch, classes)`): local scores.
        features (`torch.Tensor` of shape `(batch, dim)`): L2-normalised pooled features.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: both scores `(batch, classes)`.
    """
    step = config.image_standardization
    if step == "center":
        logits_global, logits_local = center_over_classes(logits_global), center_over_classes(logits_local)
    elif step == "zscore":
        logits_global, logits_local = zscore_over_classes(logits_global), zscore_over_classes(logits_local)
    elif step == "captions" and bank is not None:
        partition = bank(features, config.caption_bank_temperature)  # (batch, 1)
        logits_global = logits_global - config.logit_scale * partition  # (batch, classes)
    if BRANCH_STATISTICS[0] not in (config.score_statistics or {}):
        return logits_global, logits_local
    values = [logits_global.new_tensor(config.score_statistics[name]) for name in BRANCH_STATISTICS]  # (classes,) each
    return (logits_global - values[0]) / values[1], (logits_local - values[2]) / values[3]


__all__ = [
    "CaptionBank",
    "center_over_classes",
    "class_statistics",
    "default_bank_temperature",
    "score_statistics",
    "standardize_scores",
    "two_step_zscore",
    "zscore_over_classes",
]
