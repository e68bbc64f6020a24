"""Ensembles of the scores of two models, or of two files of scores.

Source: arXiv 2211.12739, section 3.5 and 4.4; published code, `ensemble_score.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.numpy
import torch

from ..evaluation.predict import BATCH_SIZE, score_features
from ..features.images import ImageFeatures

FEW_SHOT_WEIGHT = 0.6  # of prompts learned on few images beside those learned from text (the paper's)
PARTIAL_LABEL_WEIGHT = 0.9  # of prompts learned on partial labels beside those learned from text (the paper's)
NORMALIZATIONS = ("min-max", "z-score", "calibrated")
SCORE_KEY = "scores"

Source: TypeAlias = Any  # a model, a file, or a matrix


class ScoreEnsemble:
    """Merges two matrices of scores of the same images: `(1 - weight) * first + weight * second`.

    Each matrix is brought to one scale before. `"min-max"` and `"z-score"` normalize it as a whole, by its smallest
    and largest score or by its mean and standard deviation, so that scores depend on the images that are scored
    together; their rankings hardly differ, and the weight has to be chosen. `"calibrated"` sums log odds of models
    whose probabilities were fitted ([`calibrate`]): on VOC2007 0.9 mAP above the others at equal weights and within
    0.3 of their best from there to 0.9, so that no weight has to be known (docs/studies.md).

    Args:
        first ([`TaiDptModel`], `str`, `Path` or array of shape `(images, classes)`): usually the prompts that were
            learned from text. Files are read by [`read_scores`].
        second (same): usually the prompts that were learned from images.
        weight (`float`, *optional*, defaults to 0.5): weight r of `second`, from 0 to 1; the paper has 0.6 for few
            shots (`FEW_SHOT_WEIGHT`) and 0.9 for partial labels (`PARTIAL_LABEL_WEIGHT`).
        normalization (`str`, *optional*): `"min-max"` (the paper's), `"z-score"` or `"calibrated"`; the last one by
            default for two models whose probabilities were fitted, else the first. Matrices and files are taken as log
            odds with `"calibrated"`.

    Raises:
        ValueError: If an option has a value that it cannot have, or models have different labels.
    """

    def __init__(self, first: Source, second: Source, weight: float = 0.5, normalization: str | None = None) -> None:
        """Keep the two and the options."""
        if not 0 <= weight <= 1:
            raise ValueError(f"`weight` is {weight}: give the share of the second scores, from 0 to 1.")
        if normalization is None:
            normalization = "calibrated" if _is_calibrated(first) and _is_calibrated(second) else "min-max"
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"`normalization` is {normalization!r}: choose one of {', '.join(NORMALIZATIONS)}.")
        for source in (first, second):
            if normalization == "calibrated" and _is_model(source) and not _is_calibrated(source):
                raise ValueError("Scores of a model only rank labels: fit its probabilities with `calibrate` first.")
        self.first, self.second, self.weight, self.normalization = first, second, weight, normalization
        self.columns: list[int] | None = None  # of the second scores, in the order of the first
        if _is_model(first) and _is_model(second):
            ours, theirs = first.config.labels, second.config.labels
            if sorted(ours) != sorted(theirs):
                unshared = sorted(set(ours) ^ set(theirs))
                raise ValueError(
                    f"The two models have different labels, {unshared[0]!r} is one of {len(unshared)} that only one "
                    "has: give both the same with `with_labels`."
                )
            self.columns = [theirs.index(label) for label in ours]

    def scores(self, images: Any = None, batch_size: int = 64) -> np.ndarray:
        """Merged scores.

        Args:
            images ([`ImageFeatures`] or `Dataset`, *optional*): the images, where a model is to score them.
            batch_size (`int`, *optional*, defaults to 64): images scored at a time.

        Returns:
            `np.ndarray` of shape `(images, classes)`: float64.

        Raises:
            ValueError: If the shapes differ, scores are not finite or all equal, or a model has no images to score.
            FileNotFoundError: If a file is missing.
        """
        first, second = (_scores(source, images, batch_size) for source in (self.first, self.second))
        if first.shape != second.shape:
            raise ValueError(
                f"The first scores are {first.shape} and the second {second.shape}: give (images, classes) of the "
                "same images and classes."
            )
        if self.normalization == "calibrated":
            first, second = _log_odds(self.first, first), _log_odds(self.second, second)
        else:
            first, second = (normalize_scores(matrix, self.normalization) for matrix in (first, second))
        if self.columns is not None:
            second = second[:, self.columns]  # (images, classes)
        return (1 - self.weight) * first + self.weight * second  # (images, classes)


def normalize_scores(scores: Any, normalization: str = "min-max") -> np.ndarray:
    """Normalizes a matrix of scores as a whole.

    Args:
        scores (array of shape `(images, classes)`): scores.
        normalization (`str`, *optional*, defaults to `"min-max"`): to 0 .. 1, or `"z-score"`: to mean 0, standard
            deviation 1.

    Returns:
        `np.ndarray` of shape `(images, classes)`: float64.

    Raises:
        ValueError: If all scores are equal.
    """
    scores = np.asarray(scores, dtype=np.float64)  # (images, classes)
    low, spread = scores.min(), scores.max() - scores.min()
    if spread == 0:
        raise ValueError(f"All scores are {low:g}: they rank nothing and cannot be normalized.")
    if normalization == "z-score":
        return (scores - scores.mean()) / scores.std()  # (images, classes)
    return (scores - low) / spread  # (images, classes)


def predict_scores(model: Any, images: Any, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Merged scores of a model.

    Args:
        model ([`TaiDptModel`]): scores the images.
        images ([`ImageFeatures`] or `Dataset`): cached features, or rows of `image`, which are encoded and cached.
        batch_size (`int`, *optional*, defaults to 64): images scored at a time.

    Returns:
        `np.ndarray` of shape `(images, classes)`: float32.
    """
    if not isinstance(images, ImageFeatures):
        images = ImageFeatures.encode(model, images, label_column=None, progress=False)
    return score_features(model, images, batch_size=batch_size).logits.numpy()  # (images, classes)


def read_scores(path: str | Path) -> np.ndarray:
    """Reads a file of scores.

    Args:
        path (`str` or `Path`): `.npy`, `.safetensors` with a tensor `scores`, or text with numbers between commas, a
            line per image.

    Returns:
        `np.ndarray` of shape `(images, classes)`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or holds no matrix.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of scores {path}: it needs a row per image, a column per class.")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)[SCORE_KEY]
        return np.loadtxt(path, delimiter=",", ndmin=2)  # (images, classes)
    except (ValueError, KeyError, UnicodeDecodeError, safetensors.SafetensorError) as error:
        raise ValueError(f"The file of scores {path} cannot be read: {' '.join(str(error).split())}") from error


def _scores(source: Source, images: Any, batch_size: int) -> np.ndarray:
    """Checked scores `(images, classes)` of a model, a file or a matrix."""
    name = f" in {source}" if isinstance(source, (str, Path)) else ""
    if _is_model(source):
        if images is None:
            raise ValueError("A model of the ensemble has no images to score: give `images`.")
        matrix = predict_scores(source, images, batch_size)
    elif isinstance(source, (str, Path)):
        matrix = read_scores(source)
    else:
        matrix = source.detach().cpu().numpy() if isinstance(source, torch.Tensor) else np.asarray(source)
    if matrix.ndim != 2 or matrix.size == 0 or not np.isfinite(matrix).all():
        raise ValueError(f"The scores{name} have the shape {matrix.shape}: give finite numbers, (images, classes).")
    return matrix  # (images, classes)


def _log_odds(source: Source, scores: np.ndarray) -> np.ndarray:
    """Log odds `(images, classes)` of the scores of a model; those of files and matrices are log odds already."""
    if not _is_model(source):
        return np.asarray(scores, dtype=np.float64)
    return np.asarray(source.config.score_scale) * scores + np.asarray(source.config.score_bias)


def _is_calibrated(source: Source) -> bool:
    return _is_model(source) and source.config.score_calibration is not None


def _is_model(source: Source) -> bool:
    return isinstance(source, torch.nn.Module)


__all__ = [
    "FEW_SHOT_WEIGHT",
    "PARTIAL_LABEL_WEIGHT",
    "ScoreEnsemble",
    "normalize_scores",
    "predict_scores",
    "read_scores",
]
