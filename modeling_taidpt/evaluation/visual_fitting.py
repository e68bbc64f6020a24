"""Fits the visual classifier of a model to unlabelled photographs: one pass of the CLIP, no gradient.

Source: PIAA (ICML 2026, arXiv 2605.25821) and its published `learn.py`; see `visual_classifier.py`. Its temperature of
the second round differs from data set to data set (100, 0.01 and 500); here it is 1, the discriminant's own posterior.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..data.image_rows import IMAGE, ImageRows, read_images
from ..data.sources import open_images
from ..features.images import ImageFeatures, collate_images
from ..modeling_taidpt import TaiDptModel
from ..scores import normalize
from ..visual_classifier import SHARE, VisualClassifier, attach_classifier
from .predict import BATCH_SIZE, score_batches

logger = logging.get_logger(__name__)

LEAST_PHOTOGRAPHS = 100
PATCHES_PER_CLASS = 512
POSTERIOR_SCALE = 60.0
MIN_STD = 1e-6  # in units of cosine


class PatchSelection:
    """The patches of each class whose posterior has the lowest entropy, of any number of patches.

    Args:
        embeddings (`torch.Tensor` of shape `(classes, dim)`): L2-normalised; the first classifier.
        size (`int`, *optional*, defaults to 512): patches that are kept of a class.
    """

    def __init__(self, embeddings: torch.Tensor, size: int = PATCHES_PER_CLASS) -> None:
        self.embeddings, self.size = embeddings, size
        empty = (embeddings.new_zeros(0, embeddings.shape[1]), embeddings.new_zeros(0), embeddings.new_zeros(0))
        self.kept = [empty] * len(embeddings)  # features (kept, dim), entropies (kept,), posteriors (kept,)

    def add(self, patches: torch.Tensor) -> None:
        """Offers patches `(patches, dim)`, L2-normalised; of equal entropies earlier ones are kept."""
        cosines = patches @ self.embeddings.T  # (patches, classes)
        posterior = (POSTERIOR_SCALE * cosines).softmax(dim=1)  # (patches, classes)
        entropy = -(posterior * posterior.clamp_min(1e-10).log()).sum(dim=1)  # (patches,)
        best = cosines.argmax(dim=1)  # (patches,)
        for index in best.unique().tolist():
            members = torch.nonzero(best == index).flatten()  # (members,)
            offered = (patches[members], entropy[members], posterior[members, index])
            joined = [torch.cat(pair) for pair in zip(self.kept[index], offered, strict=True)]
            order = joined[1].sort(stable=True).indices[: self.size]  # (kept,)
            self.kept[index] = tuple(values[order] for values in joined)

    def patches(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Kept patches `(kept, dim)`, their classes `(kept,)` and the posteriors of these `(kept,)`."""
        features, _, posteriors = (torch.cat(values) for values in zip(*self.kept, strict=True))
        counts = torch.tensor([len(entry[0]) for entry in self.kept])  # (classes,)
        return features, torch.arange(len(self.kept)).repeat_interleave(counts), posteriors


def fit_discriminant(
    patches: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor, fallback: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear discriminant of patches: class means weighted by the posterior, one shrunk covariance, equal priors.

    Args:
        patches (`torch.Tensor` of shape `(patches, dim)`): L2-normalised features.
        classes (`torch.Tensor` of shape `(patches,)`): index of each one's class.
        weights (`torch.Tensor` of shape `(patches,)`): posterior of that class.
        fallback (`torch.Tensor` of shape `(classes, dim)`): means of classes without a patch.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: W `(classes, dim)` and b `(classes,)`, fp64.
    """
    patches, weights, count = patches.double(), weights.double(), len(fallback)  # (patches, dim), (patches,)
    dim = patches.shape[1]
    total = torch.zeros(count, dtype=torch.float64).index_add(0, classes, weights)  # (classes,)
    sums = torch.zeros(count, dim, dtype=torch.float64).index_add(0, classes, weights[:, None] * patches)
    known = (total > 0)[:, None]  # (classes, 1)
    means = torch.where(known, sums / total.clamp_min(1e-300)[:, None], fallback.double())  # (classes, dim)
    products, shift = torch.zeros(dim, dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
    for index in classes.unique().tolist():  # running sums: no second copy of the patches
        centered = patches[classes == index] - means[index]  # (members, dim)
        products += centered.T @ centered
        shift += centered.sum(dim=0)
    freedom = len(patches) - 1
    covariance = (products - shift[:, None] * shift[None] / len(patches)) / freedom  # (dim, dim)
    shrunk = freedom * covariance + covariance.trace() * torch.eye(dim, dtype=torch.float64)
    weight = means @ (dim * torch.linalg.pinv(shrunk, hermitian=True))  # (classes, dim)
    prior = torch.tensor(float(count), dtype=torch.float64).log()
    return weight, -prior - (weight * means).sum(dim=1) / 2


def sure_patches(
    patches: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patches whose posterior reaches mean + standard deviation of their class, by a discriminant.

    Args:
        patches (`torch.Tensor` of shape `(patches, dim)`): L2-normalised features.
        weight (`torch.Tensor` of shape `(classes, dim)`): W.
        bias (`torch.Tensor` of shape `(classes,)`): b.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: those patches `(sure, dim)`, their classes `(sure,)` and
        posteriors `(sure,)`; a class of one patch has none.
    """
    logits = patches.double() @ weight.T + bias  # (patches, classes)
    posterior, best = logits.softmax(dim=1).max(dim=1)  # (patches,) each
    sure = torch.zeros(len(patches), dtype=torch.bool)
    for index in best.unique().tolist():
        members = best == index  # (patches,)
        own = posterior[members]  # (members,)
        if len(own) > 1:
            sure |= members & (posterior >= own.mean() + own.std())
    return patches[sure], best[sure], posterior[sure]


def fit_visual_classifier(
    model: TaiDptModel,
    images: Any,
    image_processor: Any = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Learns a classifier of patches from unlabelled photographs of the kind that the model is to tag.

    The photographs are encoded once, into the feature cache; a run that was stopped goes on there. The classifier is
    saved with the model and serves its own labels; an earlier one is replaced. Probabilities that were fitted before
    keep their meaning: each label's scores get the mean and standard deviation back that they had on the photographs.

    Args:
        model ([`TaiDptModel`]): gets the classifier.
        images (`Any`): at least 100 photographs: a folder, .txt list, .parquet or .tar (or several of these) as for
            [`tag_images`], what [`ImageFeatures.encode`] reads, or [`ImageFeatures`]; labels are not looked at.
        image_processor (*optional*): the model's own by default.
        cache_dir (`str`, *optional*): as of [`ImageFeatures.encode`].
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Returns:
        `dict[str, int]`: `photographs` that were used, `unreadable` ones that were left out, `patches` that the
        classifier was made of, and `classes` that have at least one of them; the others keep the mean of their prompt.

    Raises:
        ValueError: there are fewer than 100 photographs, or the model has positive and negative prompts or a linear
            head.

    Example:
        >>> from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel
        >>> from modeling_taidpt.evaluation import fit_visual_classifier
        >>> model = TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT)
        >>> fit_visual_classifier(model, "examples/images")
        Traceback (most recent call last):
        ValueError: A visual classifier needs at least 100 photographs that can be read, and there are 8: give more.
    """
    _require_local_prompts(model)
    features, unreadable = _unlabelled_features(model, images, image_processor, cache_dir, progress)
    is_calibrated = model.config.score_calibration is not None
    # with an earlier classifier, if there is one: the probabilities are those of its scores
    before = _score_moments(model, features) if is_calibrated else None
    attach_classifier(model, None)
    with torch.no_grad():
        embeddings = model.encode_classes()[1].float().cpu()  # (classes, dim)
    selection = PatchSelection(embeddings)
    for patches in _patches(features):
        selection.add(patches)
    patches, classes, weights = selection.patches()
    weight, bias = fit_discriminant(patches, classes, weights, embeddings)
    sure = sure_patches(patches, weight, bias)
    if len(sure[0]) > 1:
        patches, classes, weights = sure
        weight, bias = fit_discriminant(patches, classes, weights, embeddings)
    classifier = in_units_of_cosine(weight, bias, embeddings, _patches(features))
    attach_classifier(model, classifier, len(features))
    if before is not None:
        _keep_probabilities(model, before, _score_moments(model, features), len(features))
    counts = {"photographs": len(features), "unreadable": unreadable}
    return counts | {"patches": len(patches), "classes": len(classes.unique())}


def in_units_of_cosine(
    weight: torch.Tensor, bias: torch.Tensor, embeddings: torch.Tensor, patches: Iterator[torch.Tensor]
) -> VisualClassifier:
    """A discriminant whose values have, class by class, the mean and standard deviation of the cosines of patches.

    Args:
        weight (`torch.Tensor` of shape `(classes, dim)`): W; what it gives every class alike is taken off first, as a
            softmax over the classes would.
        bias (`torch.Tensor` of shape `(classes,)`): b.
        embeddings (`torch.Tensor` of shape `(classes, dim)`): L2-normalised local class embeddings.
        patches (`Iterator[torch.Tensor]`): of all photographs, `(patches, dim)` each.

    Returns:
        [`VisualClassifier`].
    """
    weight, bias, embeddings = weight - weight.mean(dim=0), bias - bias.mean(), embeddings.double()
    moments = _Moments(), _Moments()
    for batch in patches:
        batch = batch.double()  # (patches, dim)
        moments[0].add(batch @ embeddings.T)
        moments[1].add(batch @ weight.T + bias)
    (mean, std), (own_mean, own_std) = (part.result() for part in moments)  # (classes,) each
    scale = std / own_std.clamp_min(MIN_STD)  # (classes,)
    classifier = VisualClassifier(*weight.shape)
    classifier.weight.copy_(scale[:, None] * weight)
    classifier.bias.copy_(scale * (bias - own_mean) + mean)
    classifier.share.fill_(SHARE)
    return classifier


class _Moments:
    """Running mean and standard deviation (n - 1) of the columns of rows that come in batches."""

    def __init__(self) -> None:
        self.count, self.sums, self.squares = 0, torch.tensor(0.0), torch.tensor(0.0)

    def add(self, rows: torch.Tensor) -> None:
        rows = rows.double()  # (rows, columns)
        self.count += len(rows)
        self.sums, self.squares = self.sums + rows.sum(dim=0), self.squares + rows.square().sum(dim=0)  # (columns,)

    def result(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.sums / self.count  # (columns,)
        variance = (self.squares - self.count * mean.square()) / (self.count - 1)  # (columns,)
        return mean, variance.clamp_min(0).sqrt()


def _require_local_prompts(model: TaiDptModel) -> None:
    """Raises a `ValueError` where patches have no local prompt, or a head was learned on other scores."""
    if model.config.prompt_pair != "global_local":
        raise ValueError("The model has positive and negative prompts: a visual classifier starts from local prompts.")
    if model.head is not None:
        raise ValueError("The linear head was learned on the scores as they are: adapt the model it was put on.")


def _unlabelled_features(
    model: TaiDptModel, images: Any, image_processor: Any, cache_dir: str | Path | None, progress: bool
) -> tuple[ImageFeatures, int]:
    """Features of photographs, and how many could not be read."""
    unreadable, features = 0, images
    if not isinstance(images, ImageFeatures):
        rows, unreadable = _read_rows(images)
        _require_enough(len(rows))
        options = {"label_column": None, "cache_dir": cache_dir, "dtype": "float16", "skip_unreadable": True}
        features = ImageFeatures.encode(model, rows, image_processor, progress=progress, **options)
        unreadable += len(rows) - len(features)
    _require_enough(len(features))
    return features, unreadable


def _read_rows(images: Any) -> tuple[ImageRows, int]:
    """Rows of photographs that are not read yet, and how many the source could not give."""
    paths = [images] if isinstance(images, (str, Path)) else images
    if not isinstance(paths, (list, tuple)) or not all(isinstance(path, (str, Path)) for path in paths):
        return read_images(images), 0
    items = list(open_images(images))
    rows = [{IMAGE: item.payload} for item in items if item.error is None]
    _require_enough(len(rows))
    return ImageRows(rows), len(items) - len(rows)


def _require_enough(count: int) -> None:
    if count < LEAST_PHOTOGRAPHS:
        raise ValueError(
            f"A visual classifier needs at least {LEAST_PHOTOGRAPHS} photographs that can be read, and there are "
            f"{count}: give more."
        )


def _patches(features: ImageFeatures) -> Iterator[torch.Tensor]:
    """Patches `(patches, dim)` of photographs, L2-normalised, some photographs at a time."""
    for start in range(0, len(features), BATCH_SIZE):
        batch = [features[index] for index in range(start, min(start + BATCH_SIZE, len(features)))]
        dense = collate_images(batch)["dense_embeds"]  # (batch, height, width, dim), of views (batch, views, ...)
        yield normalize(dense.flatten(0, -2))


def _score_moments(model: TaiDptModel, features: ImageFeatures) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation `(classes,)` of the merged scores of photographs, in constant memory."""
    moments = _Moments()
    for merged, _, _ in score_batches(model, features):  # (batch, classes)
        moments.add(merged)
    return moments.result()


def _keep_probabilities(
    model: TaiDptModel, before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], count: int
) -> None:
    """Lets fitted probabilities see the scores with the mean and standard deviation that they had before."""
    config = model.config
    stretch = before[1] / after[1].clamp_min(MIN_STD)  # (classes,)
    scale = torch.tensor(config.score_scale, dtype=torch.float64).expand_as(stretch)  # (classes,)
    shift = before[0] - after[0] * stretch  # (classes,)
    bias = torch.tensor(config.score_bias, dtype=torch.float64) + scale * shift  # (classes,)
    config.score_scale = [round(value, 5) for value in (scale * stretch).tolist()]
    config.score_bias = [round(value, 5) for value in bias.tolist()]
    fitted = str(config.score_calibration).split("; scores matched")[0]
    config.score_calibration = f"{fitted}; scores matched on {count} unlabelled photographs"


__all__ = ["PatchSelection", "fit_discriminant", "fit_visual_classifier", "in_units_of_cosine", "sure_patches"]
