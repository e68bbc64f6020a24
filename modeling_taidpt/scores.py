"""The two scores of double-grained prompts, from normalised features (paper, sections 3.3 and 3.4)."""

from __future__ import annotations

import torch


def normalize(features: torch.Tensor) -> torch.Tensor:
    """L2-normalises the last dimension in fp32; any shape `(..., dim)` to the same shape."""
    return torch.nn.functional.normalize(features.float(), dim=-1, eps=1e-12)  # (..., dim)


def global_scores(features: torch.Tensor, class_embeddings: torch.Tensor, logit_scale: float) -> torch.Tensor:
    """Global score `P_c = logit_scale * <f, G_c>`.

    Args:
        features (`torch.Tensor` of shape `(batch, dim)`): normalised features of images or captions.
        class_embeddings (`torch.Tensor` of shape `(classes, dim)`): normalised global class embeddings G.
        logit_scale (`float`): fixed factor.

    Returns:
        `torch.Tensor` of shape `(batch, classes)`.
    """
    return logit_scale * features.to(class_embeddings.dtype) @ class_embeddings.T  # (batch, classes)


def cell_weights(
    similarity: torch.Tensor, sharpness: float | torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax over tokens or cells of `sharpness * similarity`, `(batch, length, classes)`; masked ones weigh 0."""
    weights = sharpness * similarity  # (batch, length, classes)
    if mask is not None:
        weights = weights.masked_fill(~mask.bool()[:, :, None], float("-inf"))  # (batch, length, classes)
    return weights.softmax(dim=1)  # (batch, length, classes)


def local_scores(
    similarity: torch.Tensor, spatial_scale: float, logit_scale: float, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Local score `P'_c = sum_l logit_scale * s_lc * softmax_l(spatial_scale * s_lc)`.

    Args:
        similarity (`torch.Tensor` of shape `(batch, length, classes)`): cosines s of tokens or cells with H.
        spatial_scale (`float`): sharpness of the softmax.
        logit_scale (`float`): fixed factor.
        mask (`torch.Tensor` of shape `(batch, length)`, *optional*): true where a token counts.

    Returns:
        `torch.Tensor` of shape `(batch, classes)`.
    """
    weights = cell_weights(similarity, spatial_scale, mask)  # (batch, length, classes)
    return logit_scale * (similarity * weights).sum(dim=1)  # (batch, classes)


def positive_negative_scores(
    positive: torch.Tensor, negative: torch.Tensor, log_scales: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Score of a pair of prompts, `S_c = e^T sum_j p_j (cos+_jc - cos-_jc)`, `p = softmax_j(e^sT cos+_jc)`.

    Source: Sun et al., "DualCoOp" (NeurIPS 2022, arXiv 2206.09541), equations 2 to 4; published TaI-DPT code,
    `trainers/Caption_dual.py`.

    Args:
        positive (`torch.Tensor` of shape `(batch, length, classes)`): cosines of cells with the positive embeddings.
        negative (`torch.Tensor` of shape `(batch, length, classes)`): cosines with the negative embeddings.
        log_scales (`torch.Tensor` of shape `(2,)`): logarithms T of the factor and sT of the sharpness.
        mask (`torch.Tensor` of shape `(batch, length)`, *optional*): true where a token counts.

    Returns:
        `torch.Tensor` of shape `(batch, classes)`.
    """
    weights = cell_weights(positive, log_scales[1].exp(), mask)  # (batch, length, classes)
    return log_scales[0].exp() * ((positive - negative) * weights).sum(dim=1)  # (batch, classes)


__all__ = ["cell_weights", "global_scores", "local_scores", "normalize", "positive_negative_scores"]
