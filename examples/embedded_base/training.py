"""Contrastive training of the text tower and the attention pool's projections on features of the frozen trunk.

Every step sees composed and labelled pairs in one batch, photographs with captions of their own in another (they share
much: false negatives are masked), single cells of the photographs of both against their captions, and paraphrases.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from modeling_taidpt import CLIPResNetModel
from modeling_taidpt.atomic import staged_file

from .image_features import expand_maps
from .pairs import PairSampler


@dataclass
class BaseTrainingOptions:
    """Lengths and weights of base training.

    Args:
        steps (`int`): optimiser steps.
        composed (`int`): composed pairs in a batch.
        real (`int`): labelled photographs with a caption in a batch.
        own (`int`): photographs with one of their own captions in a batch.
        own_weight (`float`): weight of their loss.
        near (`float`): own captions whose centred features have this cosine or more are no negatives of each other.
        local_weight (`float`): weight of the loss over the cells of real and own photographs.
        local_scale (`float`): inverse temperature at which the cells of a photograph are pooled for a caption.
        paraphrases (`int`): pairs of captions of one image in a batch.
        paraphrase_weight (`float`): weight of the caption-caption loss.
        learning_rate (`float`): highest rate of AdamW, with a cosine schedule.
        weight_decay (`float`): of matrices; vectors do not decay.
        max_grad_norm (`float`): gradients are clipped to this norm.
        warmup (`int`): steps over which the rate rises.
        max_tokens (`int`): longest caption, longer ones are cut.
        bf16 (`bool`): autocast trunk and text tower to bfloat16.
    """

    steps: int = 2000
    composed: int = 192
    real: int = 64
    own: int = 96
    own_weight: float = 0.3
    near: float = 0.85
    local_weight: float = 0.5
    local_scale: float = 10.0
    paraphrases: int = 32
    paraphrase_weight: float = 0.5
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    warmup: int = 50
    max_tokens: int = 32
    bf16: bool = False


def contrastive_loss(logits: torch.Tensor, excluded: torch.Tensor | None = None) -> torch.Tensor:
    """Symmetric InfoNCE.

    Args:
        logits (`torch.Tensor` of shape `(pairs, pairs)`): row i belongs to column i.
        excluded (`torch.Tensor` of shape `(pairs, pairs)`, *optional*): true where a pair is no negative.

    Returns:
        `torch.Tensor`: scalar.
    """
    if excluded is not None:
        own = torch.eye(len(logits), dtype=torch.bool)  # (pairs, pairs)
        logits = logits.masked_fill(excluded & ~own, -1e4)
    targets = torch.arange(len(logits))  # (pairs,)
    cross_entropy = nn.functional.cross_entropy
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


def equal_or_contained(shown: torch.Tensor) -> torch.Tensor:
    """Pairs `(pairs, pairs)` of multi-hot concepts `(pairs, concepts)` that are equal or contained."""
    shared, sizes = shown @ shown.T, shown.sum(dim=1)  # (pairs, pairs), (pairs,)
    return (shared == sizes[:, None]) | (shared == sizes[None, :])


def sharing(shown: torch.Tensor, texts: torch.Tensor, near: float) -> torch.Tensor:
    """Pairs of captions that may be true of each other's photographs.

    Args:
        shown (`torch.Tensor` of shape `(pairs, concepts)`): multi-hot concepts of the photographs.
        texts (`torch.Tensor` of shape `(pairs, dim)`): features of the captions.
        near (`float`): from this cosine of the centred features on, captions say the same.

    Returns:
        `torch.Tensor`: true `(pairs, pairs)` where a concept is shared or the captions are near.
    """
    centred = nn.functional.normalize(texts.detach() - texts.detach().mean(dim=0), dim=-1)  # (pairs, dim)
    return (shown @ shown.T > 0) | (centred @ centred.T > near)


def local_similarity(texts: torch.Tensor, cells: torch.Tensor, scale: float) -> torch.Tensor:
    """Cosines of captions with photographs, pooled over the cells by a softmax of themselves.

    Args:
        texts (`torch.Tensor` of shape `(texts, dim)`): normalised.
        cells (`torch.Tensor` of shape `(images, cells, dim)`): normalised.
        scale (`float`): inverse temperature; infinite takes the largest.

    Returns:
        `torch.Tensor` of shape `(texts, images)`.
    """
    cosines = torch.einsum("td,ncd->tnc", texts, cells)  # (texts, images, cells)
    return (cosines * (scale * cosines).softmax(dim=-1)).sum(dim=-1)  # (texts, images)


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


class Trainer:
    """Model, optimiser and schedule of a base training, which can be saved and gone on with.

    Args:
        model ([`CLIPResNetModel`]): with the pretrained trunk; trained in place.
        sampler ([`PairSampler`]): where pairs come from.
        encode ([`CaptionEncoder`]): holds the captions that the sampler numbers.
        options ([`BaseTrainingOptions`]): lengths and weights.
    """

    def __init__(
        self, model: CLIPResNetModel, sampler: PairSampler, encode: CaptionEncoder, options: BaseTrainingOptions
    ) -> None:
        self.model, self.sampler, self.encode, self.options = model, sampler, encode, options
        self.optimizer = torch.optim.AdamW(parameter_groups(model, options), lr=options.learning_rate)
        warmup = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.02, total_iters=options.warmup)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, options.steps - options.warmup))
        self.schedule = torch.optim.lr_scheduler.SequentialLR(
            self.optimizer, [warmup, cosine], milestones=[options.warmup]
        )
        self.losses: list[float] = []
        # fused attention is slow on CPUs for so short texts, backwards above all
        model.text_model.set_attn_implementation("eager")

    def save(self, path: str | Path, **more: Any) -> None:
        """Writes all that [`Trainer.load`] needs to go on as if nothing had happened, and `more` beside it."""
        state = {
            "options": asdict(self.options),
            "model": {name: value for name, value in self.model.state_dict().items() if "trunk" not in name},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "draws": self.sampler.generator.bit_generator.state,
            "torch": torch.get_rng_state(),
            "losses": self.losses,
        }
        with staged_file(path) as staged:
            torch.save(state | more, staged)

    def load(self, path: str | Path) -> dict[str, Any]:
        """Goes on from [`Trainer.save`].

        Args:
            path (`str` or `Path`): the file.

        Returns:
            `dict`: what was saved, with `more` of it.

        Raises:
            ValueError: it was saved under other options.
        """
        state = torch.load(path, weights_only=True)
        if state["options"] != asdict(self.options):
            raise ValueError(f"{path} is of a training with other options: remove it or pass the same options.")
        self.model.load_state_dict(state["model"], strict=False)  # the trunk is frozen, it was not saved
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.sampler.generator.bit_generator.state = state["draws"]
        torch.set_rng_state(state["torch"])
        self.losses = state["losses"]
        return state

    def train(self, on_step: Callable[[int, float], None] | None = None) -> list[float]:
        """Takes the steps that are left.

        Args:
            on_step (`Callable`, *optional*): called with the number of steps done and the loss.

        Returns:
            `list[float]`: loss of each step, from the first on.
        """
        options, done = self.options, len(self.losses)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        bar = tqdm(range(done, options.steps), desc="train", initial=done, total=options.steps, mininterval=10)
        for step in bar:
            loss = batch_loss(self.model, self.sampler, self.encode, options)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
            self.optimizer.step()
            self.schedule.step()
            self.model.logit_scale.data.clamp_(max=math.log(100))
            self.losses.append(loss.item())
            bar.set_postfix(loss=f"{self.losses[-1]:.3f}", refresh=False)
            if on_step is not None:
                on_step(step + 1, self.losses[-1])
        return self.losses


def batch_loss(
    model: CLIPResNetModel, sampler: PairSampler, encode: CaptionEncoder, options: BaseTrainingOptions
) -> torch.Tensor:
    """Draws one batch and gives its loss, the sum of what the options weigh."""
    composed, features, composed_shown = sampler.composed(options.composed)
    real, real_views, real_shown = sampler.real(options.real)
    own, own_views, own_shown = sampler.own(options.own)
    first, second = sampler.paraphrases(options.paraphrases)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
        encoded = encode(composed + real + own + first + second)  # (captions, dim)
    texts, own_texts, firsts, seconds = encoded.split([len(composed + real), len(own), len(first), len(second)])
    scale = model.logit_scale.exp()
    images = encode_pooled(model, torch.cat([features, sampler.features(real_views)]))  # (composed + real, dim)
    excluded = equal_or_contained(torch.cat([composed_shown, real_shown]))  # (composed + real, composed + real)
    loss = contrastive_loss(scale * texts @ images.T, excluded)
    if own:
        own_images = encode_pooled(model, sampler.features(own_views))  # (own, dim)
        excluded = sharing(own_shown, own_texts, options.near)  # (own, own)
        loss = loss + options.own_weight * contrastive_loss(scale * own_texts @ own_images.T, excluded)
    if options.local_weight:
        views, seen = real_views + own_views, torch.cat([texts[len(composed) :], own_texts])  # (real + own, dim)
        with torch.no_grad():
            cells = expand_maps(model.vision_model.trunk, sampler.cells(views))  # (real + own, cells, channels)
        cosines = local_similarity(seen, encode_pooled(model, cells), options.local_scale)  # (real + own, real + own)
        excluded = sharing(torch.cat([real_shown, own_shown]), seen, options.near)  # (real + own, real + own)
        loss = loss + options.local_weight * contrastive_loss(scale * cosines, excluded)
    if first:
        loss = loss + options.paraphrase_weight * contrastive_loss(scale * firsts @ seconds.T)
    return loss
