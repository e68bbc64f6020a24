"""The published scores: read from files, with labels that say what is present, absent and not counted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

LOGIT_SCALE = 4.0  # TaI-DPT's logits are so many times the cosine


class Voc2007(NamedTuple):
    """Scores of the 4,952 test images of VOC2007, all `(images, 20)`.

    Attributes:
        present (`np.ndarray`): 1 where a class is present and not difficult, else 0.
        difficult (`np.ndarray`): 1 where every object of the class is difficult.
        text_global, text_local (`np.ndarray`): TaI-DPT's prompts on RN50, logits (4 x cosine).
        images_global, images_local (`np.ndarray`): DualCoOp's prompts on RN101, logits.
    """

    present: np.ndarray
    difficult: np.ndarray
    text_global: np.ndarray
    text_local: np.ndarray
    images_global: np.ndarray
    images_local: np.ndarray

    @property
    def text(self) -> np.ndarray:
        """Half of each branch of TaI-DPT `(images, 20)`: the paper's merged score."""
        return 0.5 * self.text_global + 0.5 * self.text_local

    @property
    def cosines(self) -> np.ndarray:
        """Cosines of the pooled image features with the class embeddings `(images, 20)`."""
        return self.text_global / LOGIT_SCALE

    @property
    def known(self) -> np.ndarray:
        """Where a label counts when difficult ones are left out `(images, 20)`, bool."""
        return self.difficult == 0

    def ranked(self, scores: np.ndarray) -> np.ndarray:
        """Scores with difficult labels ranked last, which leaves them out of average precision `(images, 20)`."""
        return np.where(self.known, scores, -np.inf)


class Voc2012(NamedTuple):
    """Zero-shot scores of RN50x64 on half of VOC2012 train, all `(images, 20)`, logarithms of softmax over classes.

    Attributes:
        present (`np.ndarray`): 0 or 1.
        whole (`np.ndarray`): of the whole image: cosines less a number per image.
        tiles (`np.ndarray`): the largest over 3 x 3 tiles.
    """

    present: np.ndarray
    whole: np.ndarray
    tiles: np.ndarray


def read_voc2007(shared: Path) -> Voc2007:
    """Reads `reference/real_clip_scores/voc2007_test.safetensors`."""
    parts = _read(shared, "voc2007_test.safetensors")
    scores = [
        parts[name].astype(np.float64)
        for name in ("taidpt_rn50_global", "taidpt_rn50_local", "dualcoop_rn101_global", "dualcoop_rn101_local")
    ]
    labels = parts["labels"]  # (images, 20): 1 present, -1 absent, 0 difficult
    return Voc2007((labels == 1).astype(np.int64), (labels == 0).astype(np.int64), *scores)


def read_voc2012(shared: Path) -> Voc2012:
    """Reads `reference/real_clip_scores/voc2012_rn50x64_half.safetensors`."""
    parts = _read(shared, "voc2012_rn50x64_half.safetensors")
    whole, tiles = (np.log(parts[name].astype(np.float64)) for name in ("whole", "tiles_max"))
    return Voc2012(parts["labels"].astype(np.int64), whole, tiles)


def _read(shared: Path, name: str) -> dict[str, np.ndarray]:
    path = shared / "reference" / "real_clip_scores" / name
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: name the folder that holds `reference` with --shared.")
    return safetensors.numpy.load_file(path)


def halves(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two random halves, rising: one to choose on, the other to judge on."""
    order = np.random.default_rng(seed).permutation(images)
    return np.sort(order[: images // 2]), np.sort(order[images // 2 :])


__all__ = ["LOGIT_SCALE", "Voc2007", "Voc2012", "halves", "read_voc2007", "read_voc2012"]
