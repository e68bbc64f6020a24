"""Image features brought to where caption features lie, and both centred: what is done at the time of scoring.

CLIP's images and texts fill two separate regions of the joint space (Liang et al., "Mind the Gap", NeurIPS 2022, arXiv
2203.02053). Prompts that were learned on texts fit images better after

- a mapping of the image feature into the span of caption features: the mean of kept caption features, weighted by
  their similarity to the image (CoMC, Liu et al., "Language-Driven Cross-Modal Classifier for Zero-Shot Multi-Label
  Image Recognition", ICML 2024, cross-modal mapping; the projection of DeCap, Li et al., ICLR 2023, arXiv 2303.03032);
- centring: the mean of each modality is taken off its features (from unlabelled images and from captions).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from .scores import normalize


def map_to_captions(features: torch.Tensor, memory: torch.Tensor, sharpness: float, weight: float) -> torch.Tensor:
    """Mean of caption features weighted by their similarity to each feature, mixed with the feature itself.

    `f' = weight * n(sum_m b_m softmax_m(sharpness <f, b_m>)) + (1 - weight) * f`, normalised; n normalises.

    Args:
        features (`torch.Tensor` of shape `(batch, dim)`): normalised image features.
        memory (`torch.Tensor` of shape `(captions, dim)`): normalised caption features b.
        sharpness (`float`): of the softmax over the captions.
        weight (`float`): share of the mapped feature, 0 to 1.

    Returns:
        `torch.Tensor` of shape `(batch, dim)`: fp32, L2-normalised.
    """
    features, memory = features.float(), memory.float()  # (batch, dim), (captions, dim)
    nearness = (sharpness * features @ memory.T).softmax(dim=1)  # (batch, captions)
    mapped = normalize(nearness @ memory)  # (batch, dim)
    return normalize(weight * mapped + (1 - weight) * features)  # (batch, dim)


def center(features: torch.Tensor, means: Mapping[str, Sequence[float]] | None, kind: str) -> torch.Tensor:
    """Takes the mean of its kind off normalised features and normalises them again.

    Args:
        features (`torch.Tensor` of shape `(..., dim)`): normalised features.
        means (`Mapping[str, Sequence[float]]`, *optional*): `config.feature_means`; nothing is done without the kind.
        kind (`str`): `"caption"`, `"token"`, `"image"` or `"cell"`.

    Returns:
        `torch.Tensor` of shape `(..., dim)`.
    """
    if not means or kind not in means:
        return features
    mean = torch.tensor(means[kind], dtype=torch.float32, device=features.device)  # (dim,)
    return normalize(features.float() - mean)  # (..., dim)


def mean_features(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> tuple[list[float], list[float]]:
    """Means of pooled and of dense features, every caption or image counting alike.

    Args:
        pairs (`Iterable[tuple]`): pooled `(dim,)` and dense `(length, dim)` features of each caption or image.

    Returns:
        `tuple[list[float], list[float]]`: both means, `dim` numbers each.
    """
    pooled = dense = torch.zeros(1, dtype=torch.float64)  # (dim,) after the first
    count = 0
    for feature, parts in pairs:
        pooled = pooled + feature.double()  # (dim,)
        dense = dense + parts.double().mean(dim=0)  # (dim,)
        count += 1
    return (pooled / max(count, 1)).tolist(), (dense / max(count, 1)).tolist()


__all__ = ["center", "map_to_captions", "mean_features"]
