"""Class embeddings of text towers whose prompts share nothing: every prompt goes through the tower whole."""

from __future__ import annotations

import torch

from .backbones import TextSide
from .configuration_taidpt import TaiDptConfig
from .prompt_learner import BRANCHES, PromptLearner, prompt_tails


def lay_out_prompts(config: TaiDptConfig, classes: range, side: TextSide) -> tuple[torch.Tensor, ...]:
    """Tokens and context vectors of some classes' prompts, padded on the right.

    Args:
        config ([`TaiDptConfig`]): class names as token ids, number and place of the context vectors.
        classes (`range`): the classes.
        side ([`TextSide`]): how long prompts may be and whether they are padded to that length.

    Returns:
        `tuple[torch.Tensor, ...]`: token ids, 0 where a context vector stands, number of the context vector, -1 where
        a token stands, and mask, 0 for padding; each `(classes, length)`.

    Raises:
        ValueError: a prompt is longer than the text tower's positions; the class is named.
    """
    start = [] if config.bos_token_id is None else [(config.bos_token_id, -1)]
    prompts = [start + tail for tail in prompt_tails(config, classes, 0, side.max_length - 1)]
    length = side.max_length if side.pads_prompts else max(map(len, prompts))
    padding = (config.pad_token_id or 0, -1)
    padded = torch.tensor([prompt + [padding] * (length - len(prompt)) for prompt in prompts])  # (classes, length, 2)
    mask = torch.arange(length) < torch.tensor([len(prompt) for prompt in prompts])[:, None]  # (classes, length)
    return padded[..., 0], padded[..., 1], mask.long()


def encode_full_prompts(learner: PromptLearner, side: TextSide, classes: range) -> torch.Tensor:
    """Class embeddings of both branches, as [`PromptLearner.forward`] gives them for causal towers.

    Args:
        learner ([`PromptLearner`]): the context vectors.
        side ([`TextSide`]): the frozen text tower.
        classes (`range`): the classes to encode.

    Returns:
        `torch.Tensor` of shape `(2, classes, dim)`: global and local embeddings, not normalised.
    """
    config, embedding = learner.config, side.token_embedding
    device = embedding.weight.device
    key = (classes, str(device))
    if key not in learner.whole_prompts:
        parts = (*lay_out_prompts(config, classes, side), torch.tensor(list(classes)))
        learner.whole_prompts[key] = tuple(part.to(device) for part in parts)
    ids, numbers, mask, rows = learner.whole_prompts[key]  # (classes, length) thrice, (classes,)
    context = torch.stack(learner.contexts).to(embedding.weight.dtype)
    number = numbers.clamp(min=0)  # (classes, length)
    own = (rows[:, None], number) if config.class_specific_context else (number,)
    vectors = context[(slice(None), *own)]  # (2, classes, length, width)
    embeds = torch.where((numbers >= 0)[..., None], vectors, embedding(ids))  # (2, classes, length, width)
    pooled = side.encode_prompts(embeds.flatten(0, 1), mask.repeat(BRANCHES, 1))  # (2 * classes, dim)
    return pooled.unflatten(0, (BRANCHES, -1))  # (2, classes, dim)


__all__ = ["encode_full_prompts", "lay_out_prompts"]
