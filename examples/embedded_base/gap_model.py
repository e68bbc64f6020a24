"""A model that brings image features to where caption features lie, or centers both, before it scores them.

CLIP's images and texts fill two separate regions of the joint space (Liang et al., "Mind the Gap", NeurIPS 2022, arXiv
2203.02053). Two ways to bridge the gap are studied here:

- a mapping of the image feature into the span of caption features: the mean of caption features of a memory, weighted
  by their similarity to the image (CoMC, Liu et al., "Language-Driven Cross-Modal Classifier for Zero-Shot Multi-Label
  Image Recognition", ICML 2024, cross-modal mapping; the projection of DeCap, Li et al., ICLR 2023, arXiv 2303.03032);
- centering: the mean of each modality is taken off its features (from unlabelled images and from captions).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modeling_taidpt import CaptionFeatures, ImageFeatures, TaiDptModel
from modeling_taidpt.scores import normalize
from modeling_taidpt.standardization import standardize_scores


class GapModel(TaiDptModel):
    """A [`TaiDptModel`] with a caption memory or feature means, which are set after loading and not saved.

    Attributes:
        caption_memory (`torch.Tensor` of shape `(captions, dim)`, *optional*): normalised caption features that pooled
            image features are mapped to; see [`map_to_captions`].
        memory_scale (`float`): inverse temperature of the softmax over these captions.
        memory_weight (`float`): share of the mapped feature; the image's own has the rest.
        feature_means (`dict[str, list[float]]`, *optional*): see [`feature_means`].
    """

    caption_memory: torch.Tensor | None = None
    memory_scale: float = 40.0
    memory_weight: float = 1.0
    feature_means: Mapping[str, Sequence[float]] | None = None

    def forward(self, pixel_values: torch.Tensor | None = None, standardize: bool | None = None, **inputs: Any) -> Any:
        """Scores as the model does, of features that are centered and mapped first; see [`TaiDptModel`]."""
        if pixel_values is not None:
            inputs["image_embeds"], inputs["dense_embeds"] = self.encode_images(pixel_values)
        elif "input_ids" in inputs:
            ids, mask = inputs.pop("input_ids"), inputs.get("attention_mask")  # (batch, length)
            inputs["caption_embeds"], inputs["token_embeds"] = self.encode_captions(ids, mask)
        is_image = "image_embeds" in inputs
        pooled_name, dense_name = ("image_embeds", "dense_embeds") if is_image else ("caption_embeds", "token_embeds")
        kinds = ("image", "cell") if is_image else ("caption", "token")
        raw = inputs[pooled_name]  # (batch, dim)
        pooled = center(raw, self.feature_means, kinds[0])  # (batch, dim)
        if is_image and self.caption_memory is not None:
            memory = self.caption_memory.to(pooled.device)  # (captions, dim)
            pooled = map_to_captions(pooled, memory, self.memory_scale, self.memory_weight)  # (batch, dim)
        inputs[pooled_name] = pooled
        inputs[dense_name] = center(inputs[dense_name], self.feature_means, kinds[1])  # (..., dim)
        outputs = super().forward(**inputs, standardize=False)
        if standardize or (standardize is None and is_image):  # by the bank's cosines with the image's own feature
            scores = (outputs.logits_global, outputs.logits_local)  # (batch, classes) each
            scores = standardize_scores(self.config, self.caption_bank, *scores, raw)
            outputs.logits_global, outputs.logits_local = scores
            weight = self.config.local_weight
            outputs.logits = (1 - weight) * scores[0] + weight * scores[1]  # (batch, classes)
        return outputs


def draw_memory(features: CaptionFeatures, size: int, seed: int = 0) -> torch.Tensor:
    """Caption features for [`GapModel.caption_memory`].

    Args:
        features ([`CaptionFeatures`]): captions.
        size (`int`): number of captions, drawn with the seed; all of them where there are fewer.
        seed (`int`, *optional*, defaults to 0): seed of the draw.

    Returns:
        `torch.Tensor` of shape `(at most size, dim)`: normalised, fp32.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(features))[:size])
    pooled = torch.stack([features.shards[int(row)][0] for row in features.rows[drawn]])  # (size, dim)
    return normalize(pooled.double())  # (size, dim)


def map_to_captions(features: torch.Tensor, memory: torch.Tensor, scale: float, weight: float) -> torch.Tensor:
    """Mean of caption features weighted by their similarity to each feature, mixed with the feature itself.

    `f' = weight * n(sum_m b_m softmax_m(scale <f, b_m>)) + (1 - weight) * f`, normalised; n normalises.

    Args:
        features (`torch.Tensor` of shape `(batch, dim)`): normalised image features.
        memory (`torch.Tensor` of shape `(captions, dim)`): normalised caption features b.
        scale (`float`): inverse temperature of the softmax over the captions.
        weight (`float`): share of the mapped feature, 0 to 1.

    Returns:
        `torch.Tensor` of shape `(batch, dim)`: fp32, L2-normalised.
    """
    features, memory = features.float(), memory.float()  # (batch, dim), (captions, dim)
    nearness = (scale * features @ memory.T).softmax(dim=1)  # (batch, captions)
    mapped = normalize(nearness @ memory)  # (batch, dim)
    return normalize(weight * mapped + (1 - weight) * features)  # (batch, dim)


def center(features: torch.Tensor, means: Mapping[str, Sequence[float]] | None, kind: str) -> torch.Tensor:
    """Takes the mean of its kind off normalised features and normalises them again.

    Args:
        features (`torch.Tensor` of shape `(..., dim)`): normalised features.
        means (`Mapping[str, Sequence[float]]`, *optional*): [`feature_means`]; nothing is done without the kind.
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


def feature_means(captions: CaptionFeatures, images: ImageFeatures | None = None) -> dict[str, list[float]]:
    """Means for [`GapModel.feature_means`], of caption features and, where given, of image features.

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


__all__ = ["GapModel", "center", "draw_memory", "feature_means", "map_to_captions", "mean_features"]
