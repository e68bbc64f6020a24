"""A model for other labels on the same CLIP and the same learned contexts."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .backbones import text_side
from .configuration_taidpt import TaiDptConfig
from .tokenization_taidpt import tokenize_names

TEMPLATE_WORDS = "a photo of a"


def relabel(
    model: PreTrainedModel, labels: list[str], tokenizer: PreTrainedTokenizerBase, strict: bool = False
) -> Any:
    """Builds the model behind [`TaiDptModel.with_labels`].

    Args:
        model ([`TaiDptModel`]): the model to start from; it is not changed.
        labels (`list[str]`): the new labels, checked.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of its CLIP.
        strict (`bool`, *optional*, defaults to `False`): raises where a label would get the template.

    Returns:
        [`TaiDptModel`]: shares the CLIP of `model`, in eval mode.

    Raises:
        ValueError: with `strict`, a label that is not known and for which no learned context serves; a long name; or
            a label that the model would have to be fitted for.
    """
    old = model.config
    _check_trained_labels(old, labels)
    places = [old.label2id.get(label) for label in labels]  # (new classes,)
    config = _relabelled_config(old, labels, places, tokenizer)
    templates = [label for label in labels if config.label_origin[label] == "template"]
    unknown = [label for label in templates if label not in old.label2id]
    if strict and unknown:
        raise ValueError(
            f"No learned context serves the label {unknown[0]!r} ({len(unknown)} such): train it, or leave "
            "strict=True out for the template 'a photo of a {}.'."
        )
    if config.class_specific_context and unknown and not old.shared_context:
        _make_room_for_words(config, old, places, len(tokenize_names(tokenizer, [TEMPLATE_WORDS])[0]))
    new = type(model)(config, clip=model.clip).to(model.device)
    new._tokenizer = tokenizer
    with torch.no_grad():
        _copy_extras(new, model)
        if config.class_embedding_source == "fixed":
            _fill_fixed(new, model, places)
        else:
            _fill_contexts(new, model, places, tokenizer)
            new._check_prompts()
    return new.eval()


def with_fixed_embeddings(
    model: PreTrainedModel, global_embeddings: torch.Tensor, local_embeddings: torch.Tensor, baked: bool = False
) -> Any:
    """Builds the model behind [`TaiDptModel.with_class_embeddings`] and [`TaiDptModel.bake`].

    Args:
        model ([`TaiDptModel`]): the model whose labels and CLIP are taken; it is not changed.
        global_embeddings (`torch.Tensor` of shape `(classes, dim)`): scored against pooled features.
        local_embeddings (`torch.Tensor` of shape `(classes, dim)`): scored against dense features.
        baked (`bool`, *optional*, defaults to `False`): leaves the text tower out.

    Returns:
        [`TaiDptModel`]: shares the CLIP of `model`, in eval mode.

    Raises:
        ValueError: the shape is another one.
    """
    shape = (model.config.num_labels, model.config.embedding_dim)
    for name, embeddings in (("global_embeddings", global_embeddings), ("local_embeddings", local_embeddings)):
        if tuple(embeddings.shape) != shape:
            raise ValueError(f"`{name}` has the shape {tuple(embeddings.shape)}: (classes, dim) is {shape} here.")
    config = copy.deepcopy(model.config)
    config.class_embedding_source = "fixed"
    config.baked = baked or config.baked
    if not baked:  # scales, head and statistics belong to the embeddings that they were learned with
        config.prompt_pair, config.linear_head = "global_local", False
        config.score_statistics = None
    new = type(model)(config, clip=model.clip).to(model.device)
    new._tokenizer = model._tokenizer
    with torch.no_grad():
        _copy_extras(new, model)
        new.class_embeddings_global.copy_(global_embeddings)
        new.class_embeddings_local.copy_(local_embeddings)
    return new.eval()


@torch.no_grad()
def with_linear_head(model: PreTrainedModel, train_prompts: bool = False) -> Any:
    """Builds the model behind [`TaiDptModel.with_linear_head`]."""
    if model.head is not None:
        raise ValueError("The model has a linear head: train it as it is.")
    config = copy.deepcopy(model.config)
    config.linear_head, config.score_scale, config.score_bias = True, 1.0, 0.0
    new = type(model)(config, clip=model.clip).to(model.device)
    new._tokenizer = model._tokenizer
    learned = {name: value for name, value in model.state_dict().items() if not name.startswith("clip.")}
    new.load_state_dict(learned, strict=False)
    count = config.num_labels
    scale, bias = torch.as_tensor(model.config.score_scale), torch.as_tensor(model.config.score_bias)
    new.head.weight.zero_()  # (classes, classes + dim)
    new.head.weight[:, :count] = torch.diag(scale.expand(count))
    new.head.bias.copy_(bias.expand(count))
    if not train_prompts:
        for name, parameter in new.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
    return new.eval()


@torch.no_grad()
def template_embeddings(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Global and local class embeddings `(classes, dim)` of the templates that a zero-shot model was made with."""
    embeddings = model.encode_templates(model.config.templates)  # (classes, dim)
    if model.config.local_templates is None:
        return embeddings, embeddings
    return embeddings, model.encode_templates(model.config.local_templates)


def _check_trained_labels(config: TaiDptConfig, labels: list[str]) -> None:
    """Raises a `ValueError` where a model cannot score labels that it was not fitted for."""
    if config.linear_head and labels != config.labels:
        raise ValueError(
            "The linear head scores the labels that it was trained on, in their order: take the model that it was "
            "put on for others."
        )
    unknown = [label for label in labels if label not in config.label2id]
    if config.prompt_pair == "positive_negative" and unknown:
        raise ValueError(
            f"The model was not fitted for the label {unknown[0]!r}: positive and negative prompts need labelled "
            "images of each label."
        )


def _copy_extras(new: PreTrainedModel, model: PreTrainedModel) -> None:
    """Copies what a model holds beside the prompts, where the new model has it too."""
    if new.log_scales is not None:
        new.log_scales.copy_(model.log_scales)  # (2,)
    if new.head is not None:
        new.head.load_state_dict(model.head.state_dict())
    if new.caption_bank is not None:
        new.caption_bank.load_state_dict(model.caption_bank.state_dict())


def without_text_tower(clip: Any) -> Any:
    """The same CLIP (its vision tower is shared, not copied) without its text tower and projection."""
    clip = copy.copy(clip)
    clip._modules = {name: part for name, part in clip._modules.items() if not name.startswith("text_")}
    return clip


def _relabelled_config(
    old: TaiDptConfig, labels: list[str], places: list[int | None], tokenizer: PreTrainedTokenizerBase
) -> TaiDptConfig:
    new_names = [label for label, place in zip(labels, places, strict=True) if place is None]
    new_ids = iter(tokenize_names(tokenizer, new_names))
    serves_all = old.class_embedding_source == "learned" and (not old.class_specific_context or old.shared_context)
    config = copy.deepcopy(old)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.class_names = [
        label if place is None else old.class_names[place] for label, place in zip(labels, places, strict=True)
    ]
    config.class_input_ids = [next(new_ids) if place is None else old.class_input_ids[place] for place in places]
    config.label_origin = {
        label: ("shared" if serves_all else "template") if place is None else old.label_origin[label]
        for label, place in zip(labels, places, strict=True)
    }
    for name in ("score_scale", "score_bias", "score_thresholds"):
        setattr(config, name, _move_values(getattr(old, name), places))
    if old.score_statistics is not None:
        config.score_statistics = {name: _move_values(values, places) for name, values in old.score_statistics.items()}
    for name in ("context_lengths", "context_positions"):
        values = getattr(old, name)
        default = old.num_context_tokens if name == "context_lengths" else old.class_token_position
        if values is not None:
            setattr(config, name, [default if place is None else values[place] for place in places])
    return config


def _move_values(values: Any, places: list[int | None]) -> Any:
    """One value per new class; a class without a fit of its own gets the average. What is no list stays as it is."""
    if not isinstance(values, (list, tuple)):
        return values
    mean = sum(values) / len(values)
    return [mean if place is None else values[place] for place in places]


def _make_room_for_words(config: TaiDptConfig, old: TaiDptConfig, places: list[int | None], words: int) -> None:
    """Lets new classes of a class-specific model have as many context vectors as the template has words."""
    lengths = old.context_lengths or [old.num_context_tokens] * old.num_labels
    positions = old.context_positions or [old.class_token_position] * old.num_labels
    config.num_context_tokens = max(old.num_context_tokens, words)
    config.context_lengths = [words if place is None else lengths[place] for place in places]
    config.context_positions = ["end" if place is None else positions[place] for place in places]


def _fill_fixed(new: PreTrainedModel, model: PreTrainedModel, places: list[int | None]) -> None:
    both = template_embeddings(new) if None in places else (None, None)  # (classes, dim) each
    for branch, templates in zip(("class_embeddings_global", "class_embeddings_local"), both, strict=True):
        target, source = getattr(new, branch), getattr(model, branch)  # (new classes, dim), (old classes, dim)
        for index, place in enumerate(places):
            target[index] = source[place] if place is not None else templates[index]


def _fill_contexts(
    new: PreTrainedModel, model: PreTrainedModel, places: list[int | None], tokenizer: PreTrainedTokenizerBase
) -> None:
    for branch in ("global_context", "local_context"):
        target, source = getattr(new.prompt_learner, branch), getattr(model.prompt_learner, branch)
        shared = getattr(model.prompt_learner, f"shared_{branch}")
        if shared is not None:
            getattr(new.prompt_learner, f"shared_{branch}").copy_(shared)
        if not new.config.class_specific_context:
            target.copy_(source)  # (num_context_tokens, width)
            continue
        if shared is None:
            word_ids = tokenize_names(tokenizer, [TEMPLATE_WORDS])[0]
            shared = text_side(model.clip).token_embedding.weight[word_ids].float()  # (words, width)
        target.zero_()  # (new classes, num_context_tokens, width)
        for index, place in enumerate(places):
            context = shared if place is None else source[place]  # (length, width)
            target[index, : len(context)] = context


__all__ = ["relabel", "template_embeddings", "with_fixed_embeddings", "with_linear_head", "without_text_tower"]
