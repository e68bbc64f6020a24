"""How well models tag labelled photographs: scores of every branch, mAP with intervals, differences of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from ..captions.corpus import read_captions
from ..captions.label_columns import multi_hot
from ..captions.labels import label_captions, match_labels, model_labeler
from ..captions.rows import class_names_of, open_rows
from ..features.captions import CaptionFeatures
from ..features.fingerprints import IMAGE_OPTIONS
from ..features.images import ImageFeatures
from ..modeling_taidpt import TaiDptModel
from ..prompt_templates import load_templates
from .metrics import bootstrap_map, mean_average_precision, multilabel_f1, paired_bootstrap
from .predict import score_features

logger = logging.get_logger(__name__)

BRANCHES = ("global", "local", "merged")
BASELINES = ("template", "templates", "brackets", "prototypes")
TOP_K = 3  # labels per image in F1, as in the tables of the field

Scores = Mapping[str, np.ndarray]  # by branch, each (images, classes)


def with_classes(model: TaiDptModel, names: Sequence[str], strict: bool = False) -> TaiDptModel:
    """A model whose logits belong to the classes of a data set, in their order.

    Args:
        model ([`TaiDptModel`]): with labels of its own; it is not changed.
        names (`Sequence[str]`): classes of the data set.
        strict (`bool`, *optional*, defaults to `False`): raises where the model has no label for a class. Without it
            such a class gets the model's shared context or the template, and a warning names it.

    Returns:
        [`TaiDptModel`]: shares the CLIP of `model`.

    Raises:
        ValueError: with `strict`, a class has no label.
    """
    matched = match_labels(names, model.config.labels)
    absent = [name for name, label in zip(names, matched, strict=True) if label is None]
    if absent:
        some = ", ".join(map(repr, absent[:5])) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        if strict:
            raise ValueError(f"The model has no label for {len(absent)} of {len(names)} classes: {some}.")
        logger.warning(f"The model has no label for {len(absent)} of {len(names)} classes, nothing learned: {some}.")
    return model.with_labels([name if label is None else label for name, label in zip(names, matched, strict=True)])


@torch.no_grad()
def score_images(
    models: TaiDptModel | Mapping[str, TaiDptModel],
    dataset: Any,
    image_processor: Any = None,
    batch_size: int = 32,
    cache_dir: str | None = None,
    progress: bool = True,
) -> Any:
    """Scores images with models on the same CLIP; images are encoded once for each kind of views, and cached.

    Args:
        models ([`TaiDptModel`] or `Mapping`): one, or several by name, with the same CLIP.
        dataset (`Dataset`): rows of `image`; see [`ImageFeatures.encode`].
        image_processor (*optional*): the model's own by default.
        batch_size (`int`, *optional*, defaults to 32): images encoded at a time.
        cache_dir (`str`, *optional*): where the features are cached.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Returns:
        `dict[str, np.ndarray]`: logits `(images, classes)` by branch, `"global"`, `"local"` and `"merged"`; for
        several models a dictionary of such by name.

    Raises:
        ValueError: an image cannot be read; its row is named.
    """
    several = models if isinstance(models, Mapping) else {"": models}
    features: dict[tuple, ImageFeatures] = {}  # by what they depend on beside the CLIP
    ways = {name: tuple(getattr(model.config, key) for key in IMAGE_OPTIONS) for name, model in several.items()}
    for name, model in several.items():
        way = ways[name]
        if way not in features:
            features[way] = ImageFeatures.encode(
                model,
                dataset,
                image_processor,
                label_column=None,
                cache_dir=cache_dir,
                batch_size=batch_size,
                progress=progress,
            )
    scores = {}
    for name, model in several.items():
        outputs = score_features(model, features[ways[name]], batch_size=batch_size)
        branches = (outputs.logits_global, outputs.logits_local, outputs.logits)  # (images, classes) each
        scores[name] = {branch: logits.numpy() for branch, logits in zip(BRANCHES, branches, strict=True)}
    return scores if isinstance(models, Mapping) else scores[""]


@torch.no_grad()
def baseline_models(
    model: TaiDptModel,
    names: Sequence[str] = ("template", "templates"),
    captions: Any = None,
    max_captions: int = 350,
    seed: int = 0,
) -> dict[str, TaiDptModel]:
    """Baselines without learning, with the CLIP and labels of a model.

    Those of templates are CLIP's own: an attention pool adds its positional embedding, which TaI-DPT leaves out.

    Args:
        model ([`TaiDptModel`]): gives both.
        names (`Sequence[str]`, *optional*): of `"template"` ("a photo of a {}."), `"templates"` (the 80 of CLIP,
            averaged; labels of another language have their own), `"brackets"` ("[dog]" for the whole image, "{dog}"
            for its parts) and `"prototypes"` (mean features of the captions that name a class).
        captions (*optional*): corpus of the prototypes; see [`read_captions`].
        max_captions (`int`, *optional*, defaults to 350): most captions per class in a prototype.
        seed (`int`, *optional*, defaults to 0): draws them.

    Returns:
        `dict[str, TaiDptModel]`: by name, in the order of `names`.

    Raises:
        ValueError: unknown baseline, or there are no captions for prototypes.
    """
    models = {}
    for name in names:
        if name == "template":
            models[name] = model.with_class_embeddings(model.encode_templates())
        elif name == "templates":
            templates = load_templates("imagenet", model.config.language)
            models[name] = model.with_class_embeddings(model.encode_templates(templates))
        elif name == "brackets":
            coarse, fine = (model.encode_templates(load_templates(kind)) for kind in ("coarse", "fine"))
            models[name] = model.with_class_embeddings(coarse, fine)
        elif name == "prototypes":
            models[name] = model.with_class_embeddings(_prototypes(model, captions, max_captions, seed))
        else:
            raise ValueError(f"Unknown baseline {name!r}: choose of {', '.join(BASELINES)}.")
        if name != "prototypes" and getattr(model.clip.config.vision_config, "use_positions", False):
            models[name].config.pool_with_positions = True
    return models


def _prototypes(model: TaiDptModel, captions: Any, max_captions: int, seed: int) -> torch.Tensor:
    if captions is None:
        raise ValueError("The baseline 'prototypes' is made of captions: give a corpus.")
    texts = read_captions(captions).captions
    labels = label_captions(model_labeler(model.config), texts, model.config.labels)  # (captions, classes)
    named = np.flatnonzero(labels.any(axis=1))
    if not len(named):
        raise ValueError(f"None of the {len(texts)} captions names one of the {labels.shape[1]} classes.")
    features = CaptionFeatures.encode(model, [texts[index] for index in named], labels[named], dtype="float16")
    return features.class_prototypes(max_captions, seed)[0]  # (classes, dim)


def evaluate_scores(
    runs: Mapping[str, Scores],
    labels: np.ndarray,
    class_names: Sequence[str],
    others: Mapping[str, Scores] | None = None,
    unknown: np.ndarray | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of one or several runs, and what sets them apart from other models on the same images.

    Args:
        runs (`Mapping`): scores by run; several are taken for seeds of the same method.
        labels (`np.ndarray` of shape `(images, classes)`): 0 or 1; or a column of names or indices, as
            [`label_matrix`] reads it.
        class_names (`Sequence[str]`): the classes.
        others (`Mapping`, *optional*): scores of baselines and of models to compare with.
        unknown (`np.ndarray` of shape `(images, classes)`, *optional*): 1 where a label is neither present nor absent;
            such an image does not count for that class.
        num_resamples (`int`, *optional*, defaults to 2000): bootstrap resamples over images; 0 leaves intervals out.
        seed (`int`, *optional*, defaults to 0): seed of the resamples.

    Returns:
        `dict`: `images`, `classes`, `classes_without_positives`; `models`, for each its mAP in percent by branch
        (`map`), a 95 % `interval` of the merged one, `CF1_top3` and `OF1_top3`, and `per_class`; `runs`, mean and
        standard deviation over several; `differences`, for each run and other model the difference of merged mAP with
        a 95 % interval (paired bootstrap).

    Raises:
        ValueError: shapes differ, or no label is 1.
    """
    labels = _read_matrix(labels, class_names)  # (images, classes)
    scores = {name: rank_unknown_last(values, unknown) for name, values in {**runs, **(others or {})}.items()}
    options = {"num_resamples": num_resamples, "seed": seed}
    models = {}
    for name, branches in scores.items():
        merged = mean_average_precision(branches["merged"], labels)
        top = multilabel_f1(branches["merged"], labels, top_k=min(TOP_K, labels.shape[1]))
        models[name] = {
            "map": {branch: mean_average_precision(branches[branch], labels)["map"] for branch in BRANCHES},
            "interval": bootstrap_map(branches["merged"], labels, **options) if num_resamples else None,
            f"CF1_top{TOP_K}": top["CF1"],
            f"OF1_top{TOP_K}": top["OF1"],
            "per_class": dict(zip(class_names, merged["per_class"].tolist(), strict=True)),
        }
    differences = []
    for run in runs:
        for other in others or {}:
            pair = (scores[run]["merged"], scores[other]["merged"])
            figures: dict[str, Any] = {"difference": models[run]["map"]["merged"] - models[other]["map"]["merged"]}
            if num_resamples:
                figures = {
                    key: paired_bootstrap(*pair, labels, **options)[key] for key in ("difference", "low", "high")
                }
            differences.append({"model": run, "other": other, **figures})
    missing = [name for name, count in zip(class_names, labels.sum(axis=0), strict=True) if not count]
    return {
        "images": len(labels),
        "classes": len(class_names),
        "classes_without_positives": missing,
        "num_resamples": num_resamples,
        "models": models,
        "runs": _over_runs([models[name] for name in runs]),
        "differences": differences,
    }


def _read_matrix(labels: Any, class_names: Sequence[str]) -> np.ndarray:
    """Labels `(images, classes)` as an array; those that are not a matrix are read as a column of labels."""
    if getattr(labels, "ndim", 0) == 2:
        return np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels)  # (images, classes)
    return multi_hot(open_rows(labels, "labels"), class_names, "the labels", class_names_of(labels))


def rank_unknown_last(scores: Scores, unknown: np.ndarray | None) -> dict[str, np.ndarray]:
    """Scores minus infinity where a label is unknown: ranked last, such images change no average precision.

    Args:
        scores (`Mapping`): scores `(images, classes)` by branch.
        unknown (`np.ndarray` of shape `(images, classes)`, *optional*): 1 where a label is neither present nor absent.

    Returns:
        `dict[str, np.ndarray]`: `(images, classes)` by branch.
    """
    if unknown is None:
        return dict(scores)
    is_unknown = np.asarray(unknown) != 0  # (images, classes)
    return {branch: np.where(is_unknown, -np.inf, values) for branch, values in scores.items()}


def _over_runs(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation of mAP over runs; that of one run is unknown."""
    maps = {branch: [model["map"][branch] for model in models] for branch in BRANCHES}
    return {
        "count": len(models),
        "mean": {branch: float(np.mean(values)) for branch, values in maps.items()},
        "deviation": {
            branch: float(np.std(values, ddof=1)) if len(values) > 1 else None for branch, values in maps.items()
        },
    }


__all__ = [
    "BASELINES",
    "BRANCHES",
    "baseline_models",
    "evaluate_scores",
    "rank_unknown_last",
    "score_images",
    "with_classes",
]
