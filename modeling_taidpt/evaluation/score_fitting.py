"""Fits the scores of a model to captions or images at hand: standardisation, probabilities, thresholds.

Each function changes the configuration (or the caption bank) of the model that it is given; `save_pretrained` keeps
it. In this order, since each step works on the scores that the one before it left: [`fit_caption_bank`],
[`fit_score_statistics`], then [`calibrate`] on a few labelled images, or [`calibrate_without_labels`], or
[`calibrate_on_captions`].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..captions.labels import default_labeler, label_captions
from ..features.captions import CaptionFeatures, collate_features
from ..features.clusters import cluster_captions
from ..features.images import ImageFeatures, collate_images
from ..modeling_taidpt import TaiDptModel, TaiDptOutput
from .calibration import fit_score_calibration, fit_thresholds, match_prevalence
from .reliability_diagram import expected_calibration_error

BATCH = 64


def fit_caption_bank(model: TaiDptModel, captions: Sequence[str] | CaptionFeatures, size: int = 256) -> None:
    """Standardises images by what they score for captions in general; needs no image.

    Args:
        model ([`TaiDptModel`]): gets a caption bank; see [`TaiDptModel.set_caption_bank`].
        captions (`Sequence[str]` or [`CaptionFeatures`]): a few thousand captions like those that fit the images.
        size (`int`, *optional*, defaults to 256): clusters that stand for them.

    Raises:
        ValueError: there is no caption.
    """
    features = _caption_features(model, captions)
    pooled = [features[index]["caption_embeds"].float() for index in range(len(features))]  # (dim,) each
    model.set_caption_bank(*cluster_captions(torch.stack(pooled), size))


def fit_score_statistics(
    model: TaiDptModel, images: Any = None, captions: Sequence[str] | CaptionFeatures | None = None
) -> None:
    """Z-scores each class and branch by its mean and deviation over unlabelled images, or over captions alone.

    Args:
        model ([`TaiDptModel`]): gets `config.score_statistics`.
        images (`Dataset` or [`ImageFeatures`], *optional*): as in [`calibrate`]; labels are not looked at.
        captions (`Sequence[str]` or [`CaptionFeatures`], *optional*): instead of images.

    Raises:
        ValueError: none or both are given, or there are fewer than two.
    """
    if (images is None) == (captions is None):
        raise ValueError("Give `images` or `captions`, one of the two.")
    model.set_score_statistics(None)
    features: ImageFeatures | CaptionFeatures
    if captions is None:
        features, kind = _image_features(model, images, None), "images"
    else:
        features, kind = _caption_features(model, captions), "captions"
    outputs = score_features(model, features, standardize=True)
    model.set_score_statistics(outputs.logits_global, outputs.logits_local, f"{len(features)} {kind}")


def calibrate(
    model: TaiDptModel,
    images: Any,
    labels: Any = None,
    per_class: bool = False,
    per_class_thresholds: bool = True,
    prior_strength: float = 5.0,
    image_processor: Any = None,
) -> dict[str, float]:
    """Makes scores probabilities and finds thresholds, on a few labelled images (some dozens serve the model's fit).

    Args:
        model ([`TaiDptModel`]): gets `score_scale`, `score_bias`, `score_thresholds` and `score_calibration`.
        images (`Dataset`, [`ImageFeatures`] or `list`): rows of `image` and `labels`, or pictures or paths with
            `labels` beside them.
        labels (*optional*): with a list of images: for each one the names of its labels, or a multi-hot row, or a row
            of 1 (present), -1 (absent) and 0 (not known).
        per_class (`bool`, *optional*, defaults to `False`): one scale and bias per class.
        per_class_thresholds (`bool`, *optional*, defaults to `True`): one threshold per class.
        prior_strength (`float`, *optional*, defaults to 5.0): positives with which a class has as much say in its own
            fit as the model's.
        image_processor (*optional*): the model's own by default.

    Returns:
        `dict[str, float]`: on these same images, in percent: `ece_before`, `ece` and `f1_before` (at 0.5), `f1` (at
        the thresholds), over (image, class) pairs.

    Raises:
        ValueError: images cannot be read, or the labels are all equal.
    """
    features, present, known = _labelled(model, images, labels, image_processor)
    logits = score_features(model, features).logits  # (images, classes)
    before = probabilities(model.config, logits)  # (images, classes)
    scale, bias = fit_score_calibration(logits, present, per_class, prior_strength, known)
    config = model.config
    config.score_scale, config.score_bias = _rounded(scale), _rounded(bias)
    after = probabilities(config, logits)  # (images, classes)
    config.score_thresholds = _rounded(fit_thresholds(after, present, per_class_thresholds, prior_strength, known))
    config.score_calibration = f"{len(features)} labelled images"
    return {
        "ece_before": expected_calibration_error(before, present, known=known),
        "ece": expected_calibration_error(after, present, known=known),
        "f1_before": overall_f1(before, present, 0.5, known),
        "f1": overall_f1(after, present, config.score_thresholds, known),
    }


def fit_score_thresholds(
    model: TaiDptModel,
    images: Any,
    labels: Any = None,
    per_class: bool = True,
    prior_strength: float = 5.0,
    image_processor: Any = None,
) -> None:
    """Finds thresholds alone, on labelled images; the probabilities stay.

    Args:
        model ([`TaiDptModel`]): gets `score_thresholds`.
        images (`Dataset`, [`ImageFeatures`] or `list`): as in [`calibrate`], like `labels` and `image_processor`.
        labels (*optional*): as there.
        per_class (`bool`, *optional*, defaults to `True`): one threshold per class.
        prior_strength (`float`, *optional*, defaults to 5.0): as there.
        image_processor (*optional*): as there.

    Raises:
        ValueError: images cannot be read, or the labels are all equal.
    """
    features, present, known = _labelled(model, images, labels, image_processor)
    config, scores = model.config, probabilities(model.config, score_features(model, features).logits)
    config.score_thresholds = _rounded(fit_thresholds(scores, present, per_class, prior_strength, known))
    fitted = (config.score_calibration or "nothing").split("; thresholds")[0]
    config.score_calibration = f"{fitted}; thresholds on {len(features)} labelled images"


def calibrate_on_captions(
    model: TaiDptModel, captions: Sequence[str] | CaptionFeatures, per_class: bool = False
) -> None:
    """Makes scores probabilities and finds thresholds on captions: right for captions, far too low for photographs.

    Args:
        model ([`TaiDptModel`]): as in [`calibrate`].
        captions (`Sequence[str]` or [`CaptionFeatures`]): that the prompts were not learned from; texts are labelled
            with the classes that they name.
        per_class (`bool`, *optional*, defaults to `False`): one scale, bias and threshold per class.

    Raises:
        ValueError: no caption names a class.
    """
    features = _caption_features(model, captions)
    logits = score_features(model, features, standardize=True).logits  # (captions, classes)
    labels = torch.from_numpy(np.asarray(features.labels)).long()  # (captions, classes)
    scale, bias = fit_score_calibration(logits, labels, per_class)
    config = model.config
    config.score_scale, config.score_bias = _rounded(scale), _rounded(bias)
    config.score_thresholds = _rounded(fit_thresholds(probabilities(config, logits), labels, per_class))
    config.score_calibration = f"{len(features)} captions"


def calibrate_without_labels(
    model: TaiDptModel,
    images: Any,
    prevalence: torch.Tensor | float | None = None,
    image_processor: Any = None,
    captions: Sequence[str] | CaptionFeatures | None = None,
) -> None:
    """Moves the bias so that unlabelled images show as many labels as expected; scale and thresholds stay.

    Args:
        model ([`TaiDptModel`]): with `captions` any; else calibrated on captions before, whose scale is kept.
        images (`Dataset`, [`ImageFeatures`] or `list`): as in [`calibrate`], without labels.
        prevalence (`torch.Tensor` of shape `(classes,)` or `float`): share of images that show each class, or one
            share over all (image, class) pairs, as the mean of the labels of captions, which is the default.
        image_processor (*optional*): the model's own by default.
        captions (`Sequence[str]` or [`CaptionFeatures`], *optional*): first fits scale and thresholds on these, as
            [`calibrate_on_captions`].

    Raises:
        ValueError: a share is not between 0 and 1, or there is neither a share nor captions.
    """
    if captions is not None:
        captions = _caption_features(model, captions)
        calibrate_on_captions(model, captions)
        prevalence = float(np.asarray(captions.labels).mean()) if prevalence is None else prevalence
    if prevalence is None:
        raise ValueError("How many labels images show is not known: give `prevalence` or `captions`.")
    features = _image_features(model, images, None, image_processor)
    logits = score_features(model, features).logits  # (images, classes)
    config = model.config
    config.score_bias = _rounded(match_prevalence(logits, prevalence, config.score_scale))
    config.score_calibration = f"{config.score_calibration or 'scale 1'}, bias on {len(features)} unlabelled images"


def probabilities(config: Any, logits: torch.Tensor) -> torch.Tensor:
    """`sigmoid(score_scale * logit + score_bias)` of logits `(samples, classes)`, in fp64."""
    scale, bias = (torch.as_tensor(value, dtype=torch.float64) for value in (config.score_scale, config.score_bias))
    return torch.sigmoid(scale * logits.double() + bias)  # (samples, classes)


def overall_f1(
    scores: torch.Tensor, labels: torch.Tensor, thresholds: float | list[float], known: torch.Tensor | None = None
) -> float:
    """F1 in percent over all known (sample, class) pairs, with one threshold or one per class (inclusive)."""
    chosen = scores >= torch.as_tensor(thresholds, dtype=scores.dtype)  # (samples, classes)
    known = torch.ones_like(chosen) if known is None else known.bool()  # (samples, classes)
    present = labels.bool() & known  # (samples, classes)
    chosen = chosen & known  # (samples, classes)
    return 200 * float((chosen & present).sum()) / max(1, int(chosen.sum() + present.sum()))


def _rounded(value: float | list[float]) -> float | list[float]:
    """Six significant digits: a threshold of a rare class may be far below 0.0001."""
    return [float(f"{each:.6g}") for each in value] if isinstance(value, list) else float(f"{value:.6g}")


def _caption_features(model: TaiDptModel, captions: Sequence[str] | CaptionFeatures) -> CaptionFeatures:
    if isinstance(captions, CaptionFeatures):
        return captions
    if isinstance(captions, str) or not len(captions):
        raise ValueError("There are no captions: give a list of texts.")
    labeler = default_labeler(model.config.labels, model.config.class_names)
    labels = label_captions(labeler, list(captions), model.config.labels)  # (captions, classes)
    return CaptionFeatures.encode(model, list(captions), labels, dtype="float16")


def _image_features(model: TaiDptModel, images: Any, labels: Any, image_processor: Any = None) -> ImageFeatures:
    if isinstance(images, ImageFeatures):
        return images
    if isinstance(images, (list, tuple)):
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"There are {len(images)} images and labels for {len(labels)}: give labels for each.")
        images = [
            {"image": image, "labels": label}
            for image, label in zip(images, labels or [[]] * len(images), strict=True)
        ]
    column = "labels" if len(images) and "labels" in images[0] else None
    return ImageFeatures.encode(model, images, image_processor, label_column=column, progress=False)


def _labelled(
    model: TaiDptModel, images: Any, labels: Any, image_processor: Any
) -> tuple[ImageFeatures, torch.Tensor, torch.Tensor]:
    """Features, which labels are present and which are known `(images, classes)`."""
    if labels is None and isinstance(images, (list, tuple)) and not (images and isinstance(images[0], dict)):
        raise ValueError("The images have no labels: give `labels`, for each image the names of what it shows.")
    features = _image_features(model, images, labels, image_processor)
    given = torch.from_numpy(np.asarray(features.labels)).long()  # (images, classes)
    known = given != 0 if (given < 0).any() else torch.ones_like(given, dtype=torch.bool)  # (images, classes)
    return features, (given > 0).long(), known


@torch.no_grad()
def score_features(
    model: TaiDptModel, features: ImageFeatures | CaptionFeatures, standardize: bool | None = None
) -> TaiDptOutput:
    """Scores kept features batch by batch.

    Args:
        model ([`TaiDptModel`]): the model.
        features ([`ImageFeatures`] or [`CaptionFeatures`]): of images or captions.
        standardize (`bool`, *optional*): as in the model's `forward`.

    Returns:
        [`TaiDptOutput`]: the three logits `(samples, classes)`, on the CPU.
    """
    collate = collate_images if isinstance(features, ImageFeatures) else collate_features
    names = ("image_embeds", "dense_embeds", "caption_embeds", "token_embeds", "attention_mask")
    parts = []
    for start in range(0, len(features), BATCH):
        batch = collate([features[index] for index in range(start, min(start + BATCH, len(features)))])
        inputs = {name: batch[name].to(model.device) for name in names if name in batch}
        outputs = model(**inputs, standardize=standardize)
        parts.append([outputs.logits.cpu(), outputs.logits_global.cpu(), outputs.logits_local.cpu()])
    logits = [torch.cat(branch) for branch in zip(*parts, strict=True)]  # (samples, classes) each
    return TaiDptOutput(logits=logits[0], logits_global=logits[1], logits_local=logits[2])


__all__ = [
    "calibrate",
    "calibrate_on_captions",
    "calibrate_without_labels",
    "fit_caption_bank",
    "fit_score_statistics",
    "fit_score_thresholds",
    "overall_f1",
    "probabilities",
    "score_features",
]
