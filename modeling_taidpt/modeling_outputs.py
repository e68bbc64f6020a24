"""What a TaI-DPT model returns: scores of images or captions, and what they were made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class TaiDptOutput(ModelOutput):
    """Scores of images or captions.

    Args:
        loss (`torch.Tensor`, *optional*): ranking loss of the global plus that of the local scores (paper, eq. 6).
        logits (`torch.Tensor` of shape `(batch, classes)`): merged scores, the local ones weigh `local_weight`; of a
            model with a linear head, what that makes of them.
        logits_global (`torch.Tensor` of shape `(batch, classes)`): scores of the pooled feature.
        logits_local (`torch.Tensor` of shape `(batch, classes)`): scores of the dense features.
        similarity_map (`torch.Tensor` of shape `(batch, classes, height, width)`, *optional*): for images, cosine of
            the dense features with the local (or positive) class embeddings, joined with the visual classifier if the
            model has one.
        class_embeddings (`tuple[torch.Tensor, torch.Tensor]`, *optional*): global and local class embeddings
            `(classes, dim)`, with `return_class_embeddings=True`.
        hidden_states (`tuple[torch.Tensor]`, *optional*): of the vision tower for images, of the text tower for
            captions: what enters the first layer and what each layer gives, `(batch, length, width)` each; of a
            convolutional tower the maps of its stages `(batch, channels, height, width)`. Where an image is seen in
            several views, those of the first.
        attentions (`tuple[torch.Tensor]`, *optional*): attention weights of the same tower's layers, `(batch, heads,
            length, length)` each.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    logits_global: torch.Tensor | None = None
    logits_local: torch.Tensor | None = None
    similarity_map: torch.Tensor | None = None
    class_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


__all__ = ["TaiDptOutput"]
