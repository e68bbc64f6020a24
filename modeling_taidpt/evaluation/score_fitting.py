"""Fits the scores of a model to captions or images at hand: standardization, probabilities, thresholds.

Each function changes the configuration (or the caption bank) of the model that it is given; `save_pretrained` keeps
it. In this order, since each step works on the scores that the one before it left: [`fit_caption_bank`],
[`fit_score_statistics`], then [`calibrate`] on a few labelled images, or [`calibrate_without_labels`].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from ..captions.class_tables import PRESETS, load_class_table
from ..captions.corpus import caption_texts
from ..captions.label_columns import label_matrix
from ..captions.labels import label_captions, model_labeler
from ..captions.rows import class_names_of, open_rows
from ..data.image_rows import NO_LABELS, read_images
from ..features.captions import CaptionFeatures
from ..features.clusters import cluster_captions
from ..features.images import ImageFeatures
from ..languages import ENGLISH
from ..modeling_taidpt import TaiDptModel
from ..prompt_templates import DEFAULT_TEMPLATE
from ..scores import probabilities
from .calibration import fit_score_calibration, fit_thresholds, match_prevalence
from .label_shares import (
    caption_shares,
    default_scale,
    estimate_shares,
    own_weights,
    scaled_shares,
    share_cuts,
)
from .predict import score_features
from .reliability_diagram import expected_calibration_error

logger = logging.get_logger(__name__)

FEW_CAPTIONS = 50  # of which a bank is told to be too small


def background_sentences() -> list[str]:
    """A sentence for each class of the published tables, for who has no captions."""
    names = {entry["name"].replace("_", " ") for preset in PRESETS for entry in load_class_table(preset)}
    return [DEFAULT_TEMPLATE.format(name) for name in sorted(names)]


def fit_caption_bank(
    model: TaiDptModel,
    captions: Sequence[str] | CaptionFeatures | None = None,
    size: int = 256,
    caption_bank_temperature: float | None = None,
) -> None:
    """Standardizes images by what they score for captions in general; needs no image.

    Args:
        model ([`TaiDptModel`]): gets a caption bank; see [`TaiDptModel.set_caption_bank`].
        captions (`Sequence[str]` or [`CaptionFeatures`], *optional*): a few thousand captions like those that fit the
            images; by default "a photo of a {}." of everyday things, the classes of the published tables. A bank of
            few labels alone harms: it takes off what tells them apart.
        size (`int`, *optional*, defaults to 256): clusters that represent them.
        caption_bank_temperature (`float`, *optional*): factor on cosines with the bank; by default the CLIP's own up
            to 32, else 16. See [`default_bank_temperature`].

    Raises:
        ValueError: there is no caption, or none is given for labels that are not English, or the temperature is not
            positive.
    """
    if captions is None:
        if model.config.language != ENGLISH:
            raise ValueError(
                f"The sentences of everyday things are English and the labels are in {model.config.language!r}: give "
                "captions of that language."
            )
        captions = background_sentences()
    features = _caption_features(model, captions)
    if len(features) < FEW_CAPTIONS:
        logger.warning(
            f"A bank of {len(features)} captions takes off what tells labels apart: give some thousand captions, or "
            "none for those of everyday things."
        )
    pooled = [features[index]["caption_embeds"].float() for index in range(len(features))]  # (dim,) each
    model.set_caption_bank(*cluster_captions(torch.stack(pooled), size), caption_bank_temperature)


def fit_score_statistics(
    model: TaiDptModel, images: Any = None, captions: Sequence[str] | CaptionFeatures | None = None
) -> None:
    """Z-scores each class and branch by its mean and standard deviation over unlabelled images, or over captions.

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
        features, kind = _image_features(model, images), "images"
    else:
        features, kind = _caption_features(model, captions), "captions"
    outputs = score_features(model, features, standardize=True)
    model.set_score_statistics(outputs.logits_global, outputs.logits_local, f"{len(features)} {kind}")


def calibrate(
    model: TaiDptModel,
    images: Any,
    labels: Any = None,
    per_class: bool = True,
    per_class_thresholds: bool = True,
    prior_strength: float = 5.0,
    image_processor: Any = None,
) -> dict[str, float]:
    """Makes scores probabilities and finds thresholds, on a few labelled images (some dozens serve the model's fit).

    Args:
        model ([`TaiDptModel`]): gets `score_scale`, `score_bias`, `score_thresholds` and `score_calibration`.
        images (`Dataset`, [`ImageFeatures`] or `list`): rows of `image` and `labels`, or images or paths with
            `labels` beside them.
        labels (*optional*): with a list of images: for each one the names of its labels, or a multi-hot row, or a row
            of 1 (present), -1 (absent) and 0 (not known).
        per_class (`bool`, *optional*, defaults to `True`): one scale and bias per class, held to the model's; lower
            calibration error and higher F1 than one for all from ten labelled images on (docs/studies.md).
        per_class_thresholds (`bool`, *optional*, defaults to `True`): one threshold per class.
        prior_strength (`float`, *optional*, defaults to 5.0): positives with which a class has as much say in its own
            fit as the model's.
        image_processor (*optional*): the model's own by default.

    Returns:
        `dict[str, float]`: on these same images, in percent: `ece_before`, `ece` and `f1_before` (at 0.5), `f1` (at
        the thresholds), over (image, class) pairs.

    Raises:
        ValueError: images cannot be read, or the labels are all equal.

    Example:
        >>> from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel, calibrate
        >>> model = TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT)
        >>> images = [f"examples/images/{name}.jpg" for name in ("cat", "coffee", "astronaut")]
        >>> report = calibrate(model, images, [["cat"], ["cup", "spoon"], ["person"]])
        >>> report["ece"] < report["ece_before"]
        True
    """
    features, present, known = _labelled(model, images, labels, image_processor)
    logits = score_features(model, features).logits  # (images, classes)
    before = model.probabilities(logits.double())  # (images, classes)
    scale, bias = fit_score_calibration(logits, present, per_class, prior_strength, known)
    config = model.config
    config.score_scale, config.score_bias = _rounded(scale), _rounded(bias)
    after = model.probabilities(logits.double())  # (images, classes)
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
    config, scores = model.config, model.probabilities(score_features(model, features).logits.double())
    config.score_thresholds = _rounded(fit_thresholds(scores, present, per_class, prior_strength, known))
    fitted = (config.score_calibration or "nothing").split("; thresholds")[0]
    config.score_calibration = f"{fitted}; thresholds on {len(features)} labelled images"


def calibrate_without_labels(
    model: TaiDptModel,
    images: Any,
    prevalence: torch.Tensor | float | None = None,
    image_processor: Any = None,
    captions: Sequence[str] | CaptionFeatures | None = None,
    labels_per_image: float | None = None,
) -> dict[str, Any]:
    """Makes scores probabilities and finds thresholds on unlabelled images, from how often each label is expected.

    Captions give the proportions of the labels, scaled to `labels_per_image`; the scores of the images correct each
    share. Each label then gets the bias and the threshold that show it in as many images; both are drawn towards those
    of the model, the more so the fewer images are expected to show it. See `label_shares.py`.

    Args:
        model ([`TaiDptModel`]): gets `score_scale`, `score_bias`, `score_thresholds` and `score_calibration`.
        images (`Dataset`, [`ImageFeatures`] or `list`): as in [`calibrate`], without labels; a few hundred serve.
        prevalence (`torch.Tensor` of shape `(classes,)` or `float`, *optional*): share of images that show each label,
            or one for all; instead of captions.
        image_processor (*optional*): the model's own by default.
        captions (`Sequence[str]` or [`CaptionFeatures`], *optional*): texts like those that would describe the images;
            those that name a label are counted, with the synonyms that the model was trained with. Or the labels of
            captions `(captions, classes)`, as `trainer.corpus_labels`.
        labels_per_image (`float`, *optional*): how many of the labels an image shows; by default 1.5 times those that
            a caption names which names any, or the sum of `prevalence`.

    Returns:
        `dict`: `expected_labels_per_image`; and on these images, at the thresholds, `labels_per_image`,
        `images_without_labels` (percent), `most_frequent` (label to percent of images, at most ten) and `never_shown`
        (labels).

    Raises:
        ValueError: there is neither a share nor captions, or both; no caption names a label; a share is not between 0
            and 1.
    """
    if (prevalence is None) == (captions is None):
        raise ValueError("How often labels are shown is not known: give `captions` or `prevalence`, one of the two.")
    if captions is not None:
        named = _caption_labels(model, captions)  # (captions, classes)
        shares = caption_shares(named, labels_per_image)  # (classes,)
        source = f"{len(named)} captions"
    else:
        given = torch.as_tensor(prevalence, dtype=torch.float64).expand(len(model.config.labels))  # (classes,)
        if not ((given > 0) & (given < 1)).all():
            raise ValueError("Every prevalence must lie between 0 and 1, both excluded: count unnamed labels as rare.")
        shares = given if labels_per_image is None else scaled_shares(given, labels_per_image)  # (classes,)
        source = "given shares"
    features = _image_features(model, images, image_processor)
    logits = score_features(model, features).logits  # (images, classes)
    expected = float(shares.sum())
    fit_expected_shares(model.config, logits, shares)
    model.config.score_calibration = f"{len(features)} unlabelled images, shares of labels from {source}"
    return describe_tags(model.config, logits) | {"expected_labels_per_image": expected}


def fit_expected_shares(config: Any, logits: torch.Tensor, shares: torch.Tensor) -> None:
    """Fits scale, biases and thresholds of a configuration to expected shares; needs no label.

    Args:
        config ([`TaiDptConfig`]): gets `score_scale`, `score_bias` and `score_thresholds`.
        logits (`torch.Tensor` of shape `(images, classes)`): merged scores of unlabelled images.
        shares (`torch.Tensor` of shape `(classes,)`): expected share of images that show each label.
    """
    logits = logits.double()  # (images, classes)
    shares = estimate_shares(logits, shares)  # (classes,)
    scale = default_scale(logits)
    own = torch.tensor(match_prevalence(logits, shares, scale), dtype=torch.float64)  # (classes,)
    shared = torch.tensor(match_prevalence(logits, float(shares.mean()), scale), dtype=torch.float64)  # ()
    bias = torch.lerp(shared.expand_as(own), own, own_weights(len(logits), shares))  # (classes,)
    cuts = share_cuts(logits, shares)  # (classes,)
    config.score_scale, config.score_bias = _rounded(scale), _rounded(bias.tolist())
    config.score_thresholds = _rounded((scale * cuts + bias).sigmoid().tolist())


def describe_tags(config: Any, logits: torch.Tensor) -> dict[str, Any]:
    """What the thresholds of a configuration make of images, to be looked at before they are used.

    Args:
        config ([`TaiDptConfig`]): with `score_thresholds`.
        logits (`torch.Tensor` of shape `(images, classes)`): merged scores of the images.

    Returns:
        `dict`: `labels_per_image`, `images_without_labels` (percent), `most_frequent` (label to percent of the images,
        at most ten) and `never_shown` (labels).
    """
    scores = probabilities(logits.double(), config.score_scale, config.score_bias)  # (images, classes)
    chosen = scores >= torch.as_tensor(config.score_thresholds, dtype=scores.dtype)  # (images, classes)
    percent = (100 * chosen.double().mean(dim=0)).tolist()  # (classes,)
    ranked = sorted(zip(percent, config.labels, strict=True), key=lambda pair: -pair[0])
    return {
        "labels_per_image": float(chosen.double().sum(dim=1).mean()),
        "images_without_labels": 100 * float((~chosen.any(dim=1)).double().mean()),
        "most_frequent": {label: round(share, 1) for share, label in ranked[:10] if share},
        "never_shown": [label for share, label in ranked if not share],
    }


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
    texts = caption_texts(captions)
    labels = _caption_labels(model, texts).numpy()  # (captions, classes)
    return CaptionFeatures.encode(model, texts, labels, dtype="float16")


def _caption_labels(model: TaiDptModel, captions: Any) -> torch.Tensor:
    """Which labels captions name `(captions, classes)`; nothing is encoded."""
    if isinstance(captions, CaptionFeatures):
        captions = captions.labels
    if isinstance(captions, np.ndarray) and captions.dtype.kind in "biu":  # labels, not texts
        return torch.from_numpy(captions)
    config, texts = model.config, caption_texts(captions)
    if not texts:
        raise ValueError("There are no captions: give a list of texts.")
    return torch.from_numpy(label_captions(model_labeler(config), texts, config.labels))


def _image_features(model: TaiDptModel, images: Any, image_processor: Any = None) -> ImageFeatures:
    if isinstance(images, ImageFeatures):
        return images
    return ImageFeatures.encode(model, images, image_processor, label_column=None, progress=False)


def _labelled(
    model: TaiDptModel, images: Any, labels: Any, image_processor: Any
) -> tuple[ImageFeatures, torch.Tensor, torch.Tensor]:
    """Features, which labels are present and which are known `(images, classes)`."""
    if not isinstance(images, ImageFeatures):
        images = read_images(images)
        images = images if labels is None else images.with_labels(labels)
        if not images.has_labels():
            raise ValueError(NO_LABELS)
        given = images.labels(model.config.labels)  # (images, classes)
    elif labels is None:
        given = images.labels
    else:
        given = label_matrix(open_rows(labels, "labels"), model.config.labels, "the labels", class_names_of(labels))
    features = _image_features(model, images, image_processor)
    given = torch.from_numpy(np.asarray(given)).long()  # (images, classes)
    if len(given) != len(features):
        raise ValueError(f"There are {len(features)} images and labels for {len(given)}: give labels for each.")
    known = given != 0 if (given < 0).any() else torch.ones_like(given, dtype=torch.bool)  # (images, classes)
    return features, (given > 0).long(), known


__all__ = [
    "calibrate",
    "calibrate_without_labels",
    "describe_tags",
    "fit_caption_bank",
    "fit_expected_shares",
    "fit_score_statistics",
    "fit_score_thresholds",
    "overall_f1",
]
