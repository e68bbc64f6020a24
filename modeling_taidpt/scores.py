"""The two scores of double-grained prompts, from normalised features (paper, sections 3.3 and 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

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
    similarity: torch.Tensor, inverse_temperature: float | torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax over tokens or cells, `(batch, length, classes)` to the same shape; masked ones weigh 0."""
    weights = inverse_temperature * similarity  # (batch, length, classes)
    if mask is not None:
        weights = weights.masked_fill(~mask.bool()[:, :, None], float("-inf"))  # (batch, length, classes)
    return weights.softmax(dim=1)  # (batch, length, classes)


def local_scores(
    similarity: torch.Tensor, spatial_scale: float, logit_scale: float, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Local score `P'_c = sum_l logit_scale * s_lc * softmax_l(spatial_scale * s_lc)`.

    Args:
        similarity (`torch.Tensor` of shape `(batch, length, classes)`): cosines s of tokens or cells with H.
        spatial_scale (`float`): inverse temperature of the softmax.
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
        log_scales (`torch.Tensor` of shape `(2,)`): logarithms T of the factor and sT of the inverse temperature.
        mask (`torch.Tensor` of shape `(batch, length)`, *optional*): true where a token counts.

    Returns:
        `torch.Tensor` of shape `(batch, classes)`.
    """
    weights = cell_weights(positive, log_scales[1].exp(), mask)  # (batch, length, classes)
    return log_scales[0].exp() * ((positive - negative) * weights).sum(dim=1)  # (batch, classes)


def branch_scores(
    pooled: torch.Tensor,
    dense: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    logit_scale: float,
    spatial_scale: float,
    log_scales: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    offset: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Global and local scores of two prompts per class.

    Args:
        pooled (`torch.Tensor` of shape `(batch, dim)`): normalised pooled features.
        dense (`torch.Tensor` of shape `(batch, length, dim)`): normalised features of tokens or cells.
        first (`torch.Tensor` of shape `(classes, dim)`): global, or positive, class embeddings.
        second (`torch.Tensor` of shape `(classes, dim)`): local, or negative, class embeddings.
        logit_scale (`float`): fixed factor.
        spatial_scale (`float`): inverse temperature of the softmax over tokens or cells.
        log_scales (`torch.Tensor` of shape `(2,)`, *optional*): of a positive and a negative prompt; see
            [`positive_negative_scores`].
        mask (`torch.Tensor` of shape `(batch, length)`, *optional*): true where a token counts.
        offset (`torch.Tensor` of shape `(classes,)`, *optional*): added to the cosines with the local class
            embeddings; see [`VisualClassifier`].

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: global and local scores `(batch, classes)`, and cosines of
        tokens or cells with the local (or positive) class embeddings `(batch, length, classes)`.
    """
    dense = dense.to(second.dtype)  # (batch, length, dim)
    if log_scales is None:
        similarity = dense @ second.T  # (batch, length, classes)
        similarity = similarity if offset is None else similarity + offset
        logits_local = local_scores(similarity, spatial_scale, logit_scale, mask)  # (batch, classes)
        return global_scores(pooled, first, logit_scale), logits_local, similarity
    similarity = dense @ first.T  # (batch, length, classes)
    logits_global = log_scales[0].exp() * (pooled.to(first.dtype) @ (first - second).T)  # (batch, classes)
    logits_local = positive_negative_scores(similarity, dense @ second.T, log_scales, mask)  # (batch, classes)
    return logits_global, logits_local, similarity


def join_tiles(scores: torch.Tensor) -> torch.Tensor:
    """Half of the score of a whole image plus half of the largest over its tiles.

    Source: the local scores of CDUL (Abdelfattah et al., ICCV 2023, "CDUL: CLIP-Driven Unsupervised Learning for
    Multi-Label Image Classification", section 3.1), which takes the largest score over the snippets of an image.

    Args:
        scores (`torch.Tensor` of shape `(batch, views, classes)`): the first view is the whole image.

    Returns:
        `torch.Tensor` of shape `(batch, classes)`.
    """
    return 0.5 * scores[:, 0] + 0.5 * scores[:, 1:].amax(dim=1)  # (batch, classes)


def probabilities(logits: torch.Tensor, scale: float | Sequence[float], bias: float | Sequence[float]) -> torch.Tensor:
    """`sigmoid(scale * logit + bias)`, with one scale and bias or one per class.

    Args:
        logits (`torch.Tensor` of shape `(..., classes)`): merged scores.
        scale (`float` or `Sequence[float]`): `config.score_scale`.
        bias (`float` or `Sequence[float]`): `config.score_bias`.

    Returns:
        `torch.Tensor` of shape `(..., classes)`: in the dtype of the logits, at least fp32.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()  # (..., classes)
    factor, shift = (torch.tensor(value, dtype=logits.dtype, device=logits.device) for value in (scale, bias))
    return torch.sigmoid(factor * logits + shift)  # (..., classes)


__all__ = [
    "branch_scores",
    "cell_weights",
    "global_scores",
    "join_tiles",
    "local_scores",
    "normalize",
    "positive_negative_scores",
    "probabilities",
]
