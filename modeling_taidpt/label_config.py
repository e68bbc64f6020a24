"""Labels and options of a new model to its configuration."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from .backbones import DualEncoder
from .configuration_taidpt import TaiDptConfig
from .tokenization_taidpt import frame_token_ids, tokenize_names


def check_labels(labels: Sequence[str]) -> None:
    """Raises a `ValueError` that names the first label that is empty, no text, or repeated."""
    if isinstance(labels, str) or len(labels) == 0:
        raise ValueError(f"`labels` is {labels!r}: give a list with at least one label, as ['dog', 'cat'].")
    seen: set[str] = set()
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"Label {index} is {label!r}: a label is a text that is not empty.")
        if label in seen:
            raise ValueError(f"The label {label!r} stands twice in `labels` (again at {index}): remove one.")
        seen.add(label)


def context_token_ids(tokenizer: PreTrainedTokenizerBase, config: dict[str, Any]) -> list[int]:
    """Token ids of the words in `context_init`; sets `num_context_tokens` to their number."""
    words = config.get("context_init")
    if words is None:
        return []
    ids = tokenize_names(tokenizer, [words])[0]
    if config.setdefault("num_context_tokens", len(ids)) != len(ids):
        raise ValueError(
            f"`context_init` {words!r} has {len(ids)} tokens and `num_context_tokens` is "
            f"{config['num_context_tokens']}: leave one of them out."
        )
    return ids


def build_config(
    clip: DualEncoder,
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    options: dict[str, Any],
) -> TaiDptConfig:
    """Configuration of a new model.

    Args:
        clip (`CLIPModel` or another dual encoder): the base.
        labels (`Sequence[str]`): the labels, in the order of the logits.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of the base.
        options (`dict`): further fields of [`TaiDptConfig`].

    Returns:
        [`TaiDptConfig`]: with tokenised class names.

    Raises:
        ValueError: labels are empty or repeated.
    """
    check_labels(labels)
    names = list(options.pop("class_names", None) or labels)
    start, end = frame_token_ids(tokenizer)
    period = tokenizer(".", add_special_tokens=False)["input_ids"]  # none where the tokenizer strips punctuation
    return TaiDptConfig(
        clip_config=copy.deepcopy(clip.config),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        class_names=names,
        class_input_ids=tokenize_names(tokenizer, names),
        bos_token_id=start,
        eos_token_id=end,
        period_token_id=period[0] if period else None,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )


__all__ = ["build_config", "check_labels", "context_token_ids"]
