"""Labels made of others without training: hypernyms, negative prompts, ensembles of prompts and templates.

All of them mix L2-normalized class embeddings, branch by branch, and normalize the result. The models that come out
have fixed class embeddings on the same CLIP; they are saved, loaded, baked and given other labels like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..captions.wordnet import names_below
from ..languages import ENGLISH
from ..modeling_taidpt import TaiDptModel
from ..scores import normalize
from ..variants import fixed_class_embeddings


def with_hypernyms(model: TaiDptModel, hypernyms: Mapping[str, Sequence[str]] | Sequence[str]) -> TaiDptModel:
    """Adds labels that cover several of the model's, as "animal" for "dog", "cat" and "cow".

    The class embedding of a hypernym is the mean of its members'. Its score is then the mean of their cosines up to a
    factor, for the global branch; the local branch looks for the cells that fit the mean best.

    Args:
        model ([`TaiDptModel`]): the model whose labels are the members; it is not changed.
        hypernyms (`Mapping[str, Sequence[str]]` or `Sequence[str]`): the members of each new label; or new labels
            alone, whose members are those labels of the model that are below them in WordNet (the most frequent
            sense of each as a noun; needs NLTK's data, which is never downloaded).

    Returns:
        [`TaiDptModel`]: with the model's labels, then the new ones; `config.label_origin` of these is `"hypernym"`.

    Raises:
        ValueError: a new label is one of the model's, has no member, or a member is not a label of the model; or
            WordNet is needed and the labels are not English.
        LookupError: WordNet is needed and is not there.
    """
    if isinstance(hypernyms, str) or not hypernyms:
        raise ValueError(f"`hypernyms` is {hypernyms!r}: give {{'animal': ['dog', 'cat']}}, or a list of new labels.")
    config = model.config
    if not isinstance(hypernyms, Mapping):
        if config.language != ENGLISH:
            raise ValueError(
                f"WordNet is English and the labels are in {config.language!r}: name the members of each, as "
                "{'Tier': ['Hund', 'Katze']}."
            )
        names = dict(zip(config.class_names, config.labels, strict=True))
        hypernyms = {label: [names[name] for name in names_below(label, config.class_names)] for label in hypernyms}
    indices = config.label_indices
    for label, members in hypernyms.items():
        unknown = [member for member in members if member not in indices]
        if label in indices:
            raise ValueError(f"{label!r} is a label of the model: give the hypernym another name.")
        if unknown or not members:
            reason = (
                f"{unknown[0]!r} is not a label of the model" if unknown else "none of the model's labels is below it"
            )
            raise ValueError(f"The hypernym {label!r} cannot be made: {reason}.")
    rows = [[indices[member] for member in members] for members in hypernyms.values()]
    branches = []
    for embeddings in fixed_class_embeddings(model):  # (classes, dim) each
        parents = torch.stack([embeddings[row].mean(dim=0) for row in rows])  # (hypernyms, dim)
        branches.append(torch.cat([embeddings, normalize(parents)]))  # (classes + hypernyms, dim)
    mixed = model.with_labels([*config.labels, *hypernyms]).with_class_embeddings(*branches)
    mixed.config.label_origin = {**mixed.config.label_origin, **dict.fromkeys(hypernyms, "hypernym")}
    return mixed


@torch.no_grad()
def with_negative_prompts(
    model: TaiDptModel,
    negatives: Mapping[str, str | Sequence[str]],
    weight: float = 0.3,
    tokenizer: Any = None,
) -> TaiDptModel:
    """Takes off a label's class embedding what written texts say that it is not.

    The class embedding becomes `normalize(class embedding - weight * text embedding)` in both branches; the embedding
    of several texts is their normalized mean. So `{"mouse": "a photo of an animal."}` keeps to the computer's mouse.

    Args:
        model ([`TaiDptModel`]): the model; it is not changed.
        negatives (`Mapping[str, str or Sequence[str]]`): whole texts for some of the labels.
        weight (`float`, *optional*, defaults to 0.3): how much is taken off, from 0 up to below 1.
        tokenizer (*optional*): as for [`~TaiDptModel.get_tokenizer`].

    Returns:
        [`TaiDptModel`]: with the same labels.

    Raises:
        ValueError: a label is unknown, has no text, or the weight is out of range.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"`weight` is {weight}: give a number from 0 up to below 1.")
    branches = [embeddings.clone() for embeddings in fixed_class_embeddings(model)]  # (classes, dim) each
    indices = model.config.label_indices
    for label, texts in negatives.items():
        texts = [texts] if isinstance(texts, str) else list(texts)
        if label not in indices or not texts:
            reason = "has no negative text" if label in indices else "is not a label of the model"
            raise ValueError(f"{label!r} {reason}.")
        away = normalize(model.encode_texts(texts, tokenizer).mean(dim=0))  # (dim,)
        for embeddings in branches:
            row = indices[label]
            embeddings[row] = normalize(embeddings[row] - weight * away)  # (dim,)
    return _fixed(model, branches)


@torch.no_grad()
def ensemble_prompts(models: Sequence[TaiDptModel], weights: Sequence[float] | None = None) -> TaiDptModel:
    """Averages the class embeddings of models for the same labels on the same CLIP.

    They may be learned with other seeds, captions or options, or be templates ([`~TaiDptModel.zero_shot`]), so that
    `ensemble_prompts([learned, templates], [0.7, 0.3])` weighs learned prompts against written ones.

    Args:
        models (`Sequence[TaiDptModel]`): the first one gives configuration and CLIP.
        weights (`Sequence[float]`, *optional*): one for each model, equal by default.

    Returns:
        [`TaiDptModel`]: with the labels of the first.

    Raises:
        ValueError: labels, CLIPs or the number of weights differ, or no weight is positive.
    """
    weights = [1.0] * len(models) if weights is None else list(weights)
    if len(weights) != len(models) or not models or min(weights) < 0 or sum(weights) == 0:
        raise ValueError(f"There are {len(models)} models and the weights {weights}: give one from 0 up for each.")
    first = models[0]
    for number, model in enumerate(models[1:], start=1):
        if model.config.labels != first.config.labels:
            raise ValueError(f"Model {number} has other labels than the first: call `with_labels` first.")
        if model.clip is not first.clip and not _same_vision(first, model):
            raise ValueError(f"Model {number} is on another CLIP than the first: their embeddings do not mix.")
    parts = [torch.stack(fixed_class_embeddings(model)) for model in models]  # (2, classes, dim) each
    mixed = sum(weight * part.to(parts[0].device) for weight, part in zip(weights, parts, strict=True))
    return _fixed(first, normalize(mixed / sum(weights)))


def _fixed(model: TaiDptModel, branches: Any) -> TaiDptModel:
    origin = dict(model.config.label_origin)
    mixed = model.with_class_embeddings(branches[0], branches[1])
    mixed.config.label_origin = origin
    return mixed


def _same_vision(first: TaiDptModel, other: TaiDptModel) -> bool:
    """Whether two CLIPs have the same vision tower, loaded apart."""
    ours, theirs = first.clip.vision_model.state_dict(), other.clip.vision_model.state_dict()
    if ours.keys() != theirs.keys():
        return False
    return all(
        ours[name].shape == theirs[name].shape
        and torch.equal(ours[name].float(), theirs[name].float().to(first.device))
        for name in ours
    )


__all__ = ["ensemble_prompts", "with_hypernyms", "with_negative_prompts"]
