"""Captions from JSON lines, without those of the photographs that settings are chosen on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from modeling_taidpt import read_captions

from .image_features import Photographs
from .pairs import photograph_key


def read_image_captions(paths: Iterable[str | Path], held_out: set[int]) -> tuple[list[str], list[tuple[str, int]]]:
    """Reads caption files.

    Args:
        paths (`Iterable[str]`): JSON lines with `caption` and `image_id`; captions of one image share its id. Files
            whose name begins with "coco" hold COCO image ids.
        held_out (`set[int]`): COCO image ids whose captions are left out.

    Returns:
        `tuple[list[str], list[tuple[str, int]]]`: captions, and for each the key of its image: corpus and id.

    Raises:
        ValueError: a line is not a JSON object with both fields; file and line are named.
    """
    captions, keys = [], []
    for path in map(Path, paths):
        corpus = "coco" if path.stem.startswith("coco") else path.stem
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    content = json.loads(line)
                    caption, key = content["caption"], (corpus, content["image_id"])
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{path}, line {number}: expected caption and image_id as JSON.") from error
                if corpus != "coco" or key[1] not in held_out:
                    captions.append(caption)
                    keys.append(key)
    return captions, keys


def draw_captions(path: str, most: int) -> list[str]:
    """At most so many captions of a corpus, always the same ones: those of the caption bank."""
    captions = read_captions(path).captions
    return [captions[index] for index in np.random.default_rng(0).permutation(len(captions))[:most]]


def read_corpus(
    paths: list[str], training: list[Photographs], selection: list[Photographs]
) -> tuple[list[str], list[tuple]]:
    """Captions of the files less those of selection photographs, and the training photographs' own, with keys."""
    held_out = {number for part in selection for number in part.caption_ids if number is not None}
    captions, keys = read_image_captions(paths, held_out)
    known = set(keys)
    for part in training:
        for row, own in enumerate(part.captions):
            key = photograph_key(part, row, part.names[row])
            if key not in known:  # COCO's captions are in the files too
                captions += own
                keys += [key] * len(own)
    return captions, keys
