"""Written texts and templates to features in the joint space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .backbones import text_side
from .class_descriptions import fill_template, stored_descriptions
from .languages import default_template
from .scores import normalize

TEXT_BATCH = 256  # texts encoded at a time


def encode_texts(model: PreTrainedModel, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Encodes texts behind [`TaiDptModel.encode_texts`].

    Args:
        model ([`TaiDptModel`]): the model.
        texts (`Sequence[str]`): any texts.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of its CLIP.

    Returns:
        `torch.Tensor` of shape `(texts, dim)`, L2-normalised, fp32.

    Raises:
        ValueError: a text is longer than the text tower's positions; it is named.
    """
    max_length, features = text_side(model.clip).max_length, []
    for start in range(0, len(texts), TEXT_BATCH):
        batch = list(texts[start : start + TEXT_BATCH])
        # Padded here: a fast tokenizer that pads changes its own state, which threads share.
        ids = tokenizer(batch, padding=False, truncation=False, verbose=False)["input_ids"]
        longest = max(ids, key=len)
        if len(longest) > max_length:
            text = batch[ids.index(longest)]
            raise ValueError(f"The text {text[:60]!r} has {len(longest)} tokens, the text tower takes {max_length}.")
        features.append(model.encode_captions(*pad_tokens(ids, tokenizer.pad_token_id))[0])  # (batch, dim)
    return torch.cat(features)  # (texts, dim)


def pad_tokens(ids: Sequence[Sequence[int]], pad_token_id: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads token ids on the right.

    Args:
        ids (`Sequence[Sequence[int]]`): tokens of each text.
        pad_token_id (`int`, *optional*): 0 by default; the mask hides it.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: token ids and mask, 0 for padding, each `(batch, longest)`.
    """
    lengths = torch.tensor([len(tokens) for tokens in ids])  # (batch,)
    longest = max(int(lengths.max()), 1)  # an empty text of a tower without start and end is one token of padding
    rows = [[*tokens, *[pad_token_id or 0] * (longest - len(tokens))] for tokens in ids]
    return torch.tensor(rows), (torch.arange(longest) < lengths[:, None]).long()  # (batch, longest) each


def encode_templates(
    model: PreTrainedModel, templates: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase | str | None
) -> torch.Tensor:
    """Encodes class names, and what describes them, in templates behind [`TaiDptModel.encode_templates`].

    Args:
        model ([`TaiDptModel`]): the model, with its class names.
        templates (`Sequence[str]`, *optional*): texts with `{}` for the name; that of the labels' language by default.
        tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): as for [`TaiDptModel.get_tokenizer`].

    Returns:
        `torch.Tensor` of shape `(classes, dim)`, L2-normalised, fp32.

    Raises:
        ValueError: a template has no `{}`, or a text is too long.
    """
    templates = [default_template(model.config.language)] if templates is None else list(templates)
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise ValueError(f"Template {wrong or templates} has no {{}} for the class name: write 'a photo of a {{}}.'")
    descriptions = stored_descriptions(model.config)
    filled = [  # a name is written as it is given, also one that begins with an article
        [
            *(template.replace("{}", name.replace("_", " ")) for template in templates),
            *(fill_template(template, text) for text in descriptions.get(label, []) for template in templates),
        ]
        for label, name in zip(model.config.labels, model.config.class_names, strict=True)
    ]
    texts = [text for own in filled for text in own]
    features = model.encode_texts(texts, tokenizer)  # (phrases * templates, dim)
    parts = features.split([len(own) for own in filled])
    return normalize(torch.stack([part.mean(dim=0) for part in parts]))  # (classes, dim)


__all__ = ["encode_templates", "encode_texts", "pad_tokens"]
