"""The dual encoders of transformers that prompts are learned on, behind one image side.

What differs between them stands here and nowhere else.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import CLIPModel

from .modeling_clip_resnet import CLIPResNetModel

DualEncoder: TypeAlias = CLIPModel | CLIPResNetModel
MODEL_CLASSES: dict[str, type] = {"clip": CLIPModel, "clip_resnet": CLIPResNetModel}


class ImageSide:
    """A ViT tower: patches in, features in the joint space out; its blocks are `tower.encoder.layers`.

    Attributes:
        tower (`nn.Module`): the vision tower.
        patch_size (`int`): pixels per cell side.
        prefix_tokens (`int`): tokens before the patches, 1 for a class token.
    """

    prefix_tokens = 1

    def __init__(self, clip: Any) -> None:
        self.clip, self.tower = clip, clip.vision_model
        self.patch_size = clip.config.vision_config.patch_size

    def embed(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool) -> torch.Tensor:
        """Images `(batch, 3, height, width)` to what the first block takes, `(batch, prefix + patches, width)`."""
        hidden = self.tower.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        return self.tower.pre_layrnorm(hidden)  # (batch, 1 + patches, width)

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """Output of the last block `(batch, prefix + patches, width)` to the image's feature `(batch, dim)`."""
        return self.clip.visual_projection(self.tower.post_layernorm(hidden[:, 0]))  # (batch, dim)

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches `(batch, patches, width)` to the joint space, `(batch, patches, dim)`."""
        projection: nn.Module = self.clip.visual_projection
        return projection(self.tower.post_layernorm(patches))  # (batch, patches, dim)


def image_side(clip: Any) -> ImageSide:
    """The image side of a dual encoder whose vision tower is a ViT."""
    return ImageSide(clip)


__all__ = ["MODEL_CLASSES", "DualEncoder", "ImageSide", "image_side"]
