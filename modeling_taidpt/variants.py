"""Models made from a model on the same CLIP: for other labels, with fixed embeddings, baked, with a linear head."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .backbones import text_side
from .class_descriptions import gather_descriptions, stored_descriptions, with_descriptions
from .configuration_taidpt import TaiDptConfig
from .context_start import template_word_ids
from .languages import default_template
from .model_card import known_report
from .scores import normalize
from .tokenization_taidpt import tokenize_names
from .visual_classifier import attach_classifier

logger = logging.get_logger(__name__)

NAMES_IN_WARNING = 10  # labels named in one warning; the others are counted
STALE_CLASSIFIER = "The visual classifier was fitted with other class embeddings and is left out: fit it again."


def relabel(
    model: PreTrainedModel,
    labels: Sequence[str] | Mapping[str, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    strict: bool = False,
) -> Any:
    """Builds the model behind [`TaiDptModel.with_labels`].

    Args:
        model ([`TaiDptModel`]): the model to start from; it is not changed.
        labels (`Sequence[str]` or `Mapping[str, Sequence[str]]`): the new labels, checked; or with descriptions.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of its CLIP.
        strict (`bool`, *optional*, defaults to `False`): raises where a label would get the template.

    Returns:
        [`TaiDptModel`]: shares the CLIP of `model`, in eval mode.

    Raises:
        ValueError: with `strict`, a label that is not known and for which no learned context serves; a long name; or
            a label that the model would have to be fitted for; or descriptions are wrong.
    """
    if isinstance(labels, Mapping):
        return _relabel_described(model, labels, tokenizer, strict)
    labels = list(labels)
    old = model.config
    model._require_own_labels()
    _require_in_memory(model)
    indices = known_classes(old, labels, tokenizer)  # (new classes,)
    _check_trained_labels(old, labels, indices)
    config = _relabelled_config(old, labels, indices, tokenizer)
    origins = zip(labels, indices, strict=True)
    unknown = [label for label, index in origins if index is None and config.label_origin[label] == "template"]
    if strict and unknown:
        raise ValueError(
            f"No learned context serves the label {unknown[0]!r} ({len(unknown)} such): train it, or leave "
            f"strict=True out for the template {default_template(old.language)!r}."
        )
    if config.class_specific_context and unknown and not old.shared_context:
        _make_room_for_words(config, old, indices, len(template_word_ids(tokenizer, old.language)))
    new = _on_shared_clip(model, config, tokenizer)
    with torch.no_grad():
        _copy_extras(new, model, indices)
        if config.class_embedding_source == "fixed":
            _fill_fixed(new, model, indices)
        else:
            _fill_contexts(new, model, indices, tokenizer)
            new._check_prompts()
    return new.eval()


def _relabel_described(
    model: PreTrainedModel,
    labels: Mapping[str, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    strict: bool,
) -> Any:
    """As [`relabel`], with the class embeddings of a label averaged over its name and its descriptions.

    A fixed model puts them into its templates, a learned one behind its contexts, as it would other labels; the class
    embeddings of the result are fixed.
    """
    names = list(labels)
    described = gather_descriptions({label: texts for label, texts in labels.items() if texts}, names)
    new = relabel(model, names, tokenizer, strict)
    if not described:
        return new
    if new.config.linear_head or new.config.prompt_pair == "positive_negative":
        raise ValueError("Descriptions need a model without a linear head and without negative prompts: leave them.")
    rows = [row for row, label in enumerate(names) if label in described]
    both = [embeddings.clone() for embeddings in fixed_class_embeddings(new)]  # (classes, dim) each
    fixed = new if new.config.class_embedding_source == "fixed" else with_fixed_embeddings(new, *both)
    fixed.config.templates = with_descriptions(new.config.templates, stored_descriptions(new.config) | described)
    if fixed.visual_classifier is not None:
        attach_classifier(fixed, None)
        logger.warning_once(STALE_CLASSIFIER)
    if new is fixed:
        averaged = template_embeddings(fixed)  # (classes, dim) each
        both = [own.index_copy(0, torch.tensor(rows), to[rows]) for own, to in zip(both, averaged, strict=True)]
    else:
        phrases = list(dict.fromkeys(text for label in described for text in (label, *described[label])))
        spread = fixed_class_embeddings(relabel(model, phrases, tokenizer, strict))  # (phrases, dim) each
        for row in rows:
            chosen = [phrases.index(text) for text in (names[row], *described[names[row]])]
            for embeddings, found in zip(both, spread, strict=True):
                embeddings[row] = normalize(found[chosen].mean(dim=0))  # (dim,)
    with torch.no_grad():
        fixed.class_embeddings_global.copy_(both[0])
        fixed.class_embeddings_local.copy_(both[1])
    return fixed


def known_classes(config: TaiDptConfig, labels: list[str], tokenizer: PreTrainedTokenizerBase) -> list[int | None]:
    """The class of a model that each label names: by the label, else by a class name of the same tokens.

    Args:
        config ([`TaiDptConfig`]): the model's configuration.
        labels (`list[str]`): any labels.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of its CLIP.

    Returns:
        `list[int | None]`: an index for each label, `None` for one that the model does not know.
    """
    by_label = config.label_indices
    by_tokens: dict[tuple[int, ...], int] = {}
    for index, ids in enumerate(config.class_input_ids or []):
        by_tokens.setdefault(tuple(ids), index)
    ids = tokenize_names(tokenizer, labels)
    return [by_label.get(label, by_tokens.get(tuple(own))) for label, own in zip(labels, ids, strict=True)]


def _on_shared_clip(model: PreTrainedModel, config: TaiDptConfig, tokenizer: PreTrainedTokenizerBase | None) -> Any:
    """A model of another configuration on the CLIP of `model`, which is neither moved nor frozen again."""
    with torch.inference_mode(False):  # parameters made in inference mode could not be trained later
        new = type(model)(config, clip=model.clip)
    device = model._execution_device
    for name, child in new.named_children():
        if name != "clip":
            child.to(device)
    for parameter in new.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    for name, buffer in new.named_buffers(recurse=False):
        setattr(new, name, buffer.to(device))
    new._tokenizer = tokenizer
    return new


@contextmanager
def exact() -> Iterator[None]:
    """A block for what is stored: without gradients, autocast and inference mode, whatever mode the caller is in."""
    kinds = {"cpu", *([torch.accelerator.current_accelerator().type] if torch.accelerator.is_available() else [])}
    with torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def fixed_class_embeddings(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Global and local class embeddings `(classes, dim)` of a model as they may be stored: fp32, see [`exact`]."""
    with exact():
        return model.encode_classes()


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
        if model.visual_classifier is not None:
            logger.warning_once(STALE_CLASSIFIER)
    new = _on_shared_clip(model, config, model._tokenizer)
    with torch.no_grad():
        _copy_extras(new, model)
        new.class_embeddings_global.copy_(global_embeddings)
        new.class_embeddings_local.copy_(local_embeddings)
    return new.eval()


@torch.no_grad()
def with_linear_head(model: PreTrainedModel, train_prompts: bool = False) -> Any:
    """Builds the model behind [`TaiDptModel.with_linear_head`]."""
    _require_in_memory(model)
    if model.head is not None:
        raise ValueError("The model has a linear head: train it as it is.")
    config = copy.deepcopy(model.config)
    config.linear_head, config.score_scale, config.score_bias = True, 1.0, 0.0
    new = _on_shared_clip(model, config, model._tokenizer)
    learned = {name: value for name, value in model.state_dict().items() if not name.startswith("clip.")}
    new.load_state_dict(learned, strict=False)
    count = config.num_labels
    scale, bias = torch.as_tensor(model.config.score_scale), torch.as_tensor(model.config.score_bias)
    new.head.weight.zero_()  # (classes, classes + dim)
    new.head.weight[:, :count] = torch.diag(scale.expand(count))
    new.head.bias.copy_(bias.expand(count))
    if not train_prompts:
        for name, parameter in new.named_parameters():
            if not name.startswith("clip."):  # shared
                parameter.requires_grad_(name.startswith("head."))
    return new.eval()


def _require_in_memory(model: PreTrainedModel) -> None:
    """Raises a `ValueError` where what was learned is offloaded: it is not here to be copied."""
    values = (*model.named_parameters(), *model.named_buffers())
    if any(value.is_meta for name, value in values if not name.startswith("clip.")):
        raise ValueError(
            "What the model learned is offloaded: load it with a `device_map` that keeps everything but 'clip' in "
            "memory, or without one, to make another model of it."
        )


def template_embeddings(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Global and local class embeddings `(classes, dim)` of the templates that a zero-shot model was made with."""
    with exact():
        templates = model.config.templates
        if isinstance(templates, dict) and "global" in templates:
            return model.encode_templates(templates["global"]), model.encode_templates(templates["local"])
        templates = None if isinstance(templates, dict) else templates  # descriptions alone
        embeddings = model.encode_templates(templates)  # (classes, dim)
        return embeddings, embeddings


def _check_trained_labels(config: TaiDptConfig, labels: list[str], indices: list[int | None]) -> None:
    """Raises a `ValueError` where a model cannot score labels that it was not fitted for."""
    if config.linear_head and labels != config.labels:
        raise ValueError(
            "The linear head scores the labels that it was trained on, in their order: take the model that it was "
            "put on for others."
        )
    unknown = [label for label, index in zip(labels, indices, strict=True) if index is None]
    if config.prompt_pair == "positive_negative" and unknown:
        raise ValueError(
            f"The model was not fitted for the label {unknown[0]!r}: positive and negative prompts need labelled "
            "images of each label."
        )


def _copy_extras(new: PreTrainedModel, model: PreTrainedModel, indices: Sequence[int | None] | None = None) -> None:
    """Copies what a model holds beside the prompts, where the new model has it too.

    `indices` are those of its classes in the model, as of [`known_classes`]; without them the classes are the same.
    """
    if new.log_scales is not None:
        new.log_scales.copy_(model.log_scales)  # (2,)
    if new.head is not None:
        new.head.load_state_dict(model.head.state_dict())
    if new.caption_bank is not None:
        new.caption_bank.load_state_dict(model.caption_bank.state_dict())
    if new.visual_classifier is not None:
        indices = range(model.config.num_labels) if indices is None else indices
        new.visual_classifier.copy_classes(model.visual_classifier, indices)


def without_text_tower(clip: Any) -> Any:
    """The same CLIP (its vision tower is shared, not copied) without its text tower and projection."""
    clip = copy.copy(clip)
    clip._modules = {name: part for name, part in clip._modules.items() if not name.startswith("text_")}
    return clip


def _relabelled_config(
    old: TaiDptConfig, labels: list[str], indices: list[int | None], tokenizer: PreTrainedTokenizerBase
) -> TaiDptConfig:
    pairs = list(zip(labels, indices, strict=True))
    new_ids = iter(tokenize_names(tokenizer, [label for label, index in pairs if index is None]))
    serves_all = old.class_embedding_source == "learned" and (not old.class_specific_context or old.shared_context)
    config = copy.deepcopy(old)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    kept = {label: texts for label, texts in stored_descriptions(old).items() if label in labels}
    config.templates = with_descriptions(old.templates, kept)
    config.class_names = [label if index is None else old.class_names[index] for label, index in pairs]
    config.class_input_ids = [next(new_ids) if index is None else old.class_input_ids[index] for index in indices]
    origins = old.origins
    config.label_origin = {
        label: ("shared" if serves_all else "template") if index is None else origins[index] for label, index in pairs
    }
    for name in ("score_scale", "score_bias", "score_thresholds"):
        setattr(config, name, move_values(getattr(old, name), indices))
    if old.score_statistics is not None:
        statistics = old.score_statistics.items()
        config.score_statistics = {name: move_values(values, indices) for name, values in statistics}
        _say_without_photographs(config, [label for label, index in pairs if index is None])
    for name in ("context_lengths", "context_positions"):
        values = getattr(old, name)
        default = old.num_context_tokens if name == "context_lengths" else old.class_token_position
        if values is not None:
            setattr(config, name, [default if old_index is None else values[old_index] for old_index in indices])
    return config


def _say_without_photographs(config: TaiDptConfig, labels: list[str]) -> None:
    """Says which labels the visual classifier does not know; one that knows none is dropped."""
    if not config.visual_photographs or not labels:
        return
    if len(labels) == config.num_labels:
        kept = {name: value for name, value in config.score_statistics.items() if name != "visual_photographs"}
        config.score_statistics = kept or None
    shown = ", ".join(map(repr, labels[:NAMES_IN_WARNING]))
    more = f" and {len(labels) - NAMES_IN_WARNING} more" if len(labels) > NAMES_IN_WARNING else ""
    logger.warning_once(
        f"The visual classifier of this model was fitted for other labels: {shown}{more} are scored by their prompts "
        "alone (`with_labels`, then `fit_visual_classifier` fits one for them)."
    )


def move_values(values: Any, indices: list[int | None]) -> Any:
    """One value for each class of other labels; what is not a list stays as it is.

    Args:
        values (`list[float]` or anything): one for each class of a model, as its `score_thresholds`.
        indices (`list[int | None]`): as of [`known_classes`]; a class that the model does not know gets the average.

    Returns:
        `list[float]`: in the order of the new labels.
    """
    if not isinstance(values, (list, tuple)):
        return values
    mean = sum(values) / len(values)
    return [mean if old_index is None else values[old_index] for old_index in indices]


def _make_room_for_words(config: TaiDptConfig, old: TaiDptConfig, indices: list[int | None], words: int) -> None:
    """Lets new classes of a class-specific model have as many context vectors as the template has words."""
    lengths = old.context_lengths or [old.num_context_tokens] * old.num_labels
    positions = old.context_positions or [old.class_token_position] * old.num_labels
    config.num_context_tokens = max(old.num_context_tokens, words)
    config.context_lengths = [words if old_index is None else lengths[old_index] for old_index in indices]
    config.context_positions = ["end" if old_index is None else positions[old_index] for old_index in indices]


def _fill_fixed(new: PreTrainedModel, model: PreTrainedModel, indices: list[int | None]) -> None:
    both = template_embeddings(new) if None in indices else (None, None)  # (classes, dim) each
    for branch, templates in zip(("class_embeddings_global", "class_embeddings_local"), both, strict=True):
        target, source = getattr(new, branch), getattr(model, branch)  # (new classes, dim), (old classes, dim)
        for index, old_index in enumerate(indices):
            target[index] = source[old_index] if old_index is not None else templates[index]


def _fill_contexts(
    new: PreTrainedModel, model: PreTrainedModel, indices: list[int | None], tokenizer: PreTrainedTokenizerBase
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
            word_ids = template_word_ids(tokenizer, model.config.language)
            shared = text_side(model.clip).token_embedding.weight[word_ids].float()  # (words, width)
        target.zero_()  # (new classes, num_context_tokens, width)
        for index, old_index in enumerate(indices):
            context = shared if old_index is None else source[old_index]  # (length, width)
            target[index, : len(context)] = context


class VariantsMixin:
    """Adds to a [`TaiDptModel`] the models made of it on the same CLIP."""

    def with_class_embeddings(
        self: Any, global_embeddings: torch.Tensor, local_embeddings: torch.Tensor | None = None
    ) -> Any:
        """A model with fixed class embeddings on the same CLIP (shared, not copied), as of caption prototypes.

        Args:
            global_embeddings (`torch.Tensor` of shape `(classes, dim)`): scored against pooled features.
            local_embeddings (`torch.Tensor` of shape `(classes, dim)`, *optional*): scored against dense features;
                the global ones by default.

        Returns:
            [`TaiDptModel`]: with no trainable parameter, in eval mode.

        Raises:
            ValueError: the shape is another one.
        """
        local_embeddings = global_embeddings if local_embeddings is None else local_embeddings
        return with_fixed_embeddings(self, global_embeddings, local_embeddings)

    def with_linear_head(self: Any, train_prompts: bool = False) -> Any:
        """A model whose logits a linear layer makes of the class scores and the image feature, joined.

        The layer starts as these scores (scaled to probabilities, `score_scale` and `score_bias`) and is learned from
        labelled images with [`TaiDptTrainer`] and `loss="bce"`.

        Args:
            train_prompts (`bool`, *optional*, defaults to `False`): learns the context vectors further, too.

        Returns:
            [`TaiDptModel`]: on the same CLIP (shared, not copied), in eval mode.

        Raises:
            ValueError: the model has a linear head.
        """
        return with_linear_head(self, train_prompts)

    def bake(self: Any) -> Any:
        """A model for serving: the class embeddings are stored, the text tower is left out; the scores stay the same.

        It scores images (and cached features) against its own labels, is saved and loaded like any other, and cannot
        take other labels or texts. The vision tower is shared with this model, not copied.

        Returns:
            [`TaiDptModel`]: with no trainable parameter, in eval mode.
        """
        baked = with_fixed_embeddings(self, *fixed_class_embeddings(self), baked=True)
        baked.training_report = known_report(self)
        return baked


__all__ = [
    "VariantsMixin",
    "exact",
    "fixed_class_embeddings",
    "known_classes",
    "move_values",
    "relabel",
    "template_embeddings",
    "with_fixed_embeddings",
    "with_linear_head",
    "without_text_tower",
]
