"""Contrastive training of the text tower and the attention pool's projections on features of the frozen trunk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from modeling_taidpt import CLIPResNetModel

from .pairs import PairSampler


@dataclass
class BaseTrainingOptions:
    """Lengths and weights of base training.

    Args:
        steps (`int`): optimiser steps.
        composed (`int`): composed pairs in a batch.
        real (`int`): photographs with a caption in a batch.
        paraphrases (`int`): pairs of captions of one image in a batch.
        paraphrase_weight (`float`): weight of the caption-caption loss.
        learning_rate (`float`): highest rate of AdamW, with a cosine schedule.
        weight_decay (`float`): of matrices; vectors do not decay.
        max_grad_norm (`float`): gradients are clipped to this norm.
        warmup (`int`): steps over which the rate rises.
        max_tokens (`int`): longest caption, longer ones are cut.
        bf16 (`bool`): autocast the text tower to bfloat16.
    """

    steps: int = 800
    composed: int = 256
    real: int = 96
    paraphrases: int = 64
    paraphrase_weight: float = 0.5
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    warmup: int = 50
    max_tokens: int = 32
    bf16: bool = False


def contrastive_loss(
    first: torch.Tensor, second: torch.Tensor, scale: torch.Tensor, shown: torch.Tensor | None = None
) -> torch.Tensor:
    """Symmetric InfoNCE over normalised rows; pairs whose concepts are equal or contained are no negatives.

    Args:
        first (`torch.Tensor` of shape `(pairs, dim)`): normalised.
        second (`torch.Tensor` of shape `(pairs, dim)`): row i belongs to row i of `first`.
        scale (`torch.Tensor`): inverse temperature.
        shown (`torch.Tensor` of shape `(pairs, concepts)`, *optional*): multi-hot concepts of each pair.

    Returns:
        `torch.Tensor`: scalar.
    """
    logits = scale * first @ second.T  # (pairs, pairs)
    if shown is not None:
        shared, sizes = shown @ shown.T, shown.sum(dim=1)  # (pairs, pairs), (pairs,)
        same = (shared == sizes[:, None]) | (shared == sizes[None, :])  # (pairs, pairs)
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, -1e4)
    targets = torch.arange(len(logits))  # (pairs,)
    cross_entropy = nn.functional.cross_entropy
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


class CaptionEncoder:
    """Encodes captions by number, in chunks of like length so that little padding is computed.

    Args:
        model ([`CLIPResNetModel`]): its text tower is used.
        token_ids (`list[list[int]]`): tokens of every caption, start and end of text included.
        chunks (`int`, *optional*, defaults to 3): chunks of a batch.
        max_tokens (`int`, *optional*, defaults to 32): longer captions are cut, the end of text kept.
    """

    def __init__(
        self, model: CLIPResNetModel, token_ids: list[list[int]], chunks: int = 3, max_tokens: int = 32
    ) -> None:
        self.model, self.token_ids, self.chunks, self.max_tokens = model, token_ids, chunks, max_tokens
        self.end = model.config.text_config.eos_token_id

    def __call__(self, captions: list[int]) -> torch.Tensor:
        """Normalised features `(captions, dim)`."""
        texts = [self.token_ids[caption] for caption in captions]
        texts = [ids if len(ids) <= self.max_tokens else [*ids[: self.max_tokens - 1], self.end] for ids in texts]
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        features, size = [], -(-len(texts) // self.chunks)
        for start in range(0, len(order), size):
            part = [texts[index] for index in order[start : start + size]]
            ids = torch.full((len(part), len(part[-1])), self.end)  # (captions, length)
            for row, text in enumerate(part):
                ids[row, : len(text)] = torch.tensor(text)
            # attention is causal and the first end of text is pooled: padding after it needs no mask
            features.append(self.model.get_text_features(ids).pooler_output.float())  # (captions, dim)
        back = torch.empty(len(order), dtype=torch.long)  # (captions,)
        back[torch.tensor(order)] = torch.arange(len(order))
        return nn.functional.normalize(torch.cat(features)[back], dim=-1)  # (captions, dim)


def encode_pooled(model: CLIPResNetModel, features: torch.Tensor) -> torch.Tensor:
    """Projects pooled or single cells `(..., channels)` to normalised features `(..., dim)` of the joint space."""
    pool = model.vision_model.attention_pool
    return nn.functional.normalize(pool.c_proj(pool.v_proj(features)), dim=-1)


def parameter_groups(model: CLIPResNetModel, options: BaseTrainingOptions) -> list[dict]:
    """Everything but the trunk and the pool's unused query and key; norms, biases and the scale do not decay."""
    model.requires_grad_(False)
    pool = model.vision_model.attention_pool
    for part in (model.text_model, model.text_projection, pool.v_proj, pool.c_proj):
        part.requires_grad_(True)
    model.logit_scale.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]


def train(
    model: CLIPResNetModel,
    sampler: PairSampler,
    encode: CaptionEncoder,
    options: BaseTrainingOptions,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Trains in place.

    Args:
        model ([`CLIPResNetModel`]): with the pretrained trunk.
        sampler ([`PairSampler`]): where pairs come from.
        encode ([`CaptionEncoder`]): holds the captions that the sampler numbers.
        options ([`BaseTrainingOptions`]): lengths and weights.
        on_step (`Callable`, *optional*): called with the number of steps done and the loss.

    Returns:
        `list[float]`: loss of each step.
    """
    optimizer = torch.optim.AdamW(parameter_groups(model, options), lr=options.learning_rate)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.02, total_iters=options.warmup)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, options.steps - options.warmup))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[options.warmup])
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    losses, bar = [], tqdm(range(options.steps), desc="train")
    for step in bar:
        loss = batch_loss(model, sampler, encode, options)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(max=math.log(100))
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
        if on_step is not None:
            on_step(step + 1, losses[-1])
    return losses


def batch_loss(
    model: CLIPResNetModel, sampler: PairSampler, encode: CaptionEncoder, options: BaseTrainingOptions
) -> torch.Tensor:
    """Draws one batch and gives its loss: image-caption over composed and real pairs, caption-caption beside it."""
    drawn = [sampler.composed(options.composed), sampler.real(options.real)]
    captions = [caption for part in drawn for caption in part[0]]
    features = torch.cat([part[1] for part in drawn])  # (pairs, channels)
    shown = torch.cat([part[2] for part in drawn])  # (pairs, concepts)
    first, second = sampler.paraphrases(options.paraphrases)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
        texts = encode(captions + first + second)  # (pairs + 2 * paraphrases, dim)
    images = encode_pooled(model, features)  # (pairs, dim)
    scale, pairs = model.logit_scale.exp(), len(captions)
    loss = contrastive_loss(texts[:pairs], images, scale, shown)
    if first:
        paraphrased = contrastive_loss(texts[pairs : pairs + len(first)], texts[pairs + len(first) :], scale)
        loss = loss + options.paraphrase_weight * paraphrased
    return loss
