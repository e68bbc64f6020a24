"""Pooled and dense image features of a CLIP, whatever its vision tower.

Dense features of a ViT come from the value path of its last block: every patch goes through `v_proj`, `out_proj`, the
final norm and the projection, without attention, residual and MLP. The plain last hidden states are badly aligned with
the text side. Convolutional towers send every cell through the value path of their attention pool.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import CLIPModel

from .modeling_clip_resnet import CLIPResNetModel


def image_features(
    clip: CLIPModel | CLIPResNetModel,
    pixel_values: torch.Tensor,
    interpolate_pos_encoding: bool = False,
    with_positions: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodes images once into both of their features.

    Args:
        clip (`CLIPModel` or [`CLIPResNetModel`]): the frozen CLIP.
        pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): normalised pixels.
        interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): lets the image have another size than the
            positional embedding was made for.
        with_positions (`bool`, *optional*, defaults to `False`): whether the attention pool of a convolutional tower
            adds its positional embedding.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: pooled `(batch, dim)` and dense `(batch, height, width, dim)` features in
        the joint space, not normalised.
    """
    if isinstance(clip, CLIPResNetModel):
        tower = clip.vision_model
        cells = tower.encode_cells(pixel_values)  # (batch, channels, height / 32, width / 32)
        pooled = tower.attention_pool(cells, with_positions, interpolate_pos_encoding)  # (batch, dim)
        return pooled, tower.attention_pool.dense(cells)
    return _vit_features(clip, pixel_values, interpolate_pos_encoding)


def _vit_features(
    clip: CLIPModel, pixel_values: torch.Tensor, interpolate_pos_encoding: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    tower = clip.vision_model
    hidden = tower.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
    hidden = tower.pre_layrnorm(hidden)  # (batch, 1 + patches, width)
    *first, last = tower.encoder.layers
    for layer in first:
        hidden = layer(hidden, None)  # (batch, 1 + patches, width)
    pooled = clip.visual_projection(tower.post_layernorm(last(hidden, None)[:, 0]))  # (batch, dim)
    dense = clip.visual_projection(tower.post_layernorm(_value_path(last, hidden[:, 1:])))  # (batch, patches, dim)
    rows = pixel_values.shape[-2] // tower.embeddings.patch_size
    return pooled, dense.unflatten(1, (rows, -1))  # (batch, dim), (batch, height, width, dim)


def _value_path(layer: nn.Module, patches: torch.Tensor) -> torch.Tensor:
    """`out_proj(v_proj(layer_norm1(x)))` of a block: `(batch, patches, width)` to the same shape."""
    return layer.self_attn.out_proj(layer.self_attn.v_proj(layer.layer_norm1(patches)))  # (batch, patches, width)


__all__ = ["image_features"]
