"""Caption features changed while learning, so that prompts learned on texts serve images: noise and composition.

Sources: Gaussian noise on text features bridges the gap between the two modalities (CapDec, Nukrai et al., EMNLP 2022,
arXiv 2211.00575, equation 1; used for multi-label recognition by CoMC, Liu et al., ICML 2024). Two captions joined
are like a photograph that shows what both mention, as mixed inputs of mixup do (Zhang et al., ICLR 2018, arXiv
1710.09412), but with the labels united, for a photograph shows both things at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from modeling_taidpt.scores import normalize


@dataclass(frozen=True)
class FeatureAugmentation:
    """Changes a batch of caption features; the same generator state gives the same batch.

    Args:
        noise (`float`, *optional*, defaults to 0.0): standard deviation of the Gaussian noise on every coordinate of
            the normalised features, which are normalised again; 0.06 is as long as a feature of 256 dimensions.
        composition (`float`, *optional*, defaults to 0.0): share of captions that are joined with another caption.
    """

    noise: float = 0.0
    composition: float = 0.0

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return self.noise > 0 or self.composition > 0

    def __call__(self, inputs: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Changes a batch: composition first, then noise.

        Args:
            inputs (`dict[str, torch.Tensor]`): `caption_embeds` `(batch, dim)`, `token_embeds` `(batch, length, dim)`,
                `attention_mask` `(batch, length)`, `labels` `(batch, classes)`; not changed in place.
            generator (`torch.Generator`): on the CPU, whatever the device of the features.

        Returns:
            `dict[str, torch.Tensor]`: with another length where captions were joined.
        """
        inputs = dict(inputs)
        if self.composition > 0:
            inputs = compose_captions(inputs, self.composition, generator)
        if self.noise > 0:
            inputs["caption_embeds"] = add_noise(inputs["caption_embeds"], self.noise, generator)  # (batch, dim)
            tokens = add_noise(inputs["token_embeds"], self.noise, generator)  # (batch, length, dim)
            inputs["token_embeds"] = tokens * inputs["attention_mask"][:, :, None]  # (batch, length, dim)
        return inputs


def add_noise(features: torch.Tensor, deviation: float, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise on normalised features, which are normalised again.

    Args:
        features (`torch.Tensor` of shape `(..., dim)`): normalised features.
        deviation (`float`): standard deviation of the noise on every coordinate.
        generator (`torch.Generator`): on the CPU.

    Returns:
        `torch.Tensor` of shape `(..., dim)`, fp32.
    """
    noise = torch.randn(features.shape, generator=generator).to(features.device)  # (..., dim)
    return normalize(features.float() + deviation * noise)  # (..., dim)


def compose_captions(
    inputs: dict[str, torch.Tensor], share: float, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Joins some captions of a batch with another one: features added, tokens behind each other, labels united.

    Args:
        inputs (`dict[str, torch.Tensor]`): a batch as for [`FeatureAugmentation`].
        share (`float`): probability that a caption is joined with one drawn from the batch.
        generator (`torch.Generator`): on the CPU.

    Returns:
        `dict[str, torch.Tensor]`: `caption_embeds` `(batch, dim)` is the normalised sum, `token_embeds`
        `(batch, 2 * length, dim)` and `attention_mask` hold the tokens of both, `labels` what either names.
    """
    embeds, tokens = inputs["caption_embeds"], inputs["token_embeds"]  # (batch, dim), (batch, length, dim)
    mask, labels = inputs["attention_mask"], inputs["labels"]  # (batch, length), (batch, classes)
    partner = torch.randperm(len(embeds), generator=generator).to(embeds.device)  # (batch,)
    joined = (torch.rand(len(embeds), generator=generator) < share).to(embeds.device)[:, None]  # (batch, 1)
    second_mask = mask[partner] * joined.to(mask.dtype)  # (batch, length)
    second_tokens = tokens[partner] * second_mask[:, :, None]  # (batch, length, dim)
    return {
        **inputs,
        "caption_embeds": torch.where(joined, normalize(embeds + embeds[partner]), embeds),
        "token_embeds": torch.cat([tokens, second_tokens], dim=1),
        "attention_mask": torch.cat([mask, second_mask], dim=1),
        "labels": torch.where(joined, torch.maximum(labels, labels[partner]), labels),
    }


__all__ = ["FeatureAugmentation", "add_noise", "compose_captions"]
