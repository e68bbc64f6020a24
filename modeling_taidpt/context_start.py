"""What context vectors start from: words that all labels share, or words that describe each label.

Contexts start at random in the paper (section 3.3); CoOp (arXiv 2109.01134) also starts them from "a photo of a".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .class_descriptions import gather_descriptions
from .configuration_taidpt import check_labels, config_language
from .languages import context_words
from .prompt_learner import PromptLearner
from .tokenization_taidpt import tokenize_names

DESCRIPTION_TOKENS = 16  # of a description start a context: as many vectors as in the paper


def start_token_ids(
    tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], options: dict[str, Any], chosen: bool
) -> list[list[int]]:
    """Token ids that the context vectors start from; sets how many vectors there are.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the base's.
        labels (`Sequence[str]`): the labels.
        options (`dict`): of [`TaiDptModel.from_clip`]: `context_init` is taken out, `descriptions` are gathered, and
            `num_context_tokens` and `context_lengths` set.
        chosen (`bool`): whether the user chose `context_init` or `num_context_tokens`, and not a recipe: descriptions
            do not take its place then.

    Returns:
        `list[list[int]]`: one list for all labels, or one for each; empty where the vectors start at random.

    Raises:
        ValueError: there are other words than `num_context_tokens`, or labels or descriptions are wrong.
    """
    words = options.pop("context_init", None)
    ids = tokenize_names(tokenizer, [words])[0] if words is not None else []
    if ids and options.setdefault("num_context_tokens", len(ids)) != len(ids):
        raise ValueError(
            f"`context_init` {words!r} has {len(ids)} tokens and `num_context_tokens` is "
            f"{options['num_context_tokens']}: leave one of them out."
        )
    if options.get("descriptions") is not None:
        check_labels(labels)  # before a generator of texts is asked about them
        options["descriptions"] = gather_descriptions(options["descriptions"], labels)
    described: Mapping[str, list[str]] = options.get("descriptions") or {}
    own = options.get("class_specific_context") and not options.get("shared_context")
    if chosen or not described or not own:
        return [ids] if ids else []
    others = ids or template_word_ids(tokenizer, config_language(options))
    firsts = tokenize_names(tokenizer, [texts[0] for texts in described.values()])
    starts = {label: first[:DESCRIPTION_TOKENS] for label, first in zip(described, firsts, strict=True)}
    found = [starts.get(label, others) for label in labels]
    options["num_context_tokens"] = max(map(len, found))
    options["context_lengths"] = [len(start) for start in found]
    return found


def template_word_ids(tokenizer: PreTrainedTokenizerBase, language: str) -> list[int]:
    """Token ids of the words before a label in the template of a language; none of a language without."""
    words = context_words(language)
    return tokenize_names(tokenizer, [words])[0] if words else []


@torch.no_grad()
def start_contexts(learner: PromptLearner, words: torch.Tensor, starts: Sequence[Sequence[int]]) -> None:
    """Puts the embeddings of tokens where the context vectors are.

    Args:
        learner ([`PromptLearner`]): its vectors are overwritten; those that a label does not use become 0.
        words (`torch.Tensor` of shape `(vocabulary, width)`): token embeddings.
        starts (`Sequence[Sequence[int]]`): of [`start_token_ids`].
    """
    for context in learner.parameters():
        if len(starts) == 1:
            context.copy_(words[list(starts[0])].expand_as(context))  # (..., num_context_tokens, width)
            continue
        context.zero_()  # (classes, num_context_tokens, width)
        for row, ids in zip(context, starts, strict=True):  # (num_context_tokens, width)
            row[: len(ids)] = words[list(ids)]  # (tokens, width)


__all__ = ["start_contexts", "start_token_ids", "template_word_ids"]
