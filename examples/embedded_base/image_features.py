"""Labelled photographs, seen once through the frozen trunk: the grid of every view is cached, the pixels are not."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import CLIPImageProcessorPil, PreTrainedModel

from modeling_taidpt.pipelines.image_reading import open_encoded

from .concepts import Concept, find_mentions

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def base_image_processor() -> CLIPImageProcessorPil:
    """CLIP's preprocessing (short side 224, centre crop) with the normalisation that the trunk was trained on."""
    return CLIPImageProcessorPil(image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)


@dataclass
class Photographs:
    """Photographs of one folder: file names, labels and, once encoded, cells.

    Args:
        folder (`Path`): holds `images/`.
        categories (`list[str]`): the label names.
        names (`list[str]`): file names.
        labels (`torch.Tensor` of shape `(photographs, categories)`): multi-hot.
        caption_ids (`list[int | None]`): the image id that captions of the same photograph carry, where known.
        cells (`torch.Tensor` of shape `(photographs, views, cells, channels)`, *optional*): half precision.
    """

    folder: Path
    categories: list[str]
    names: list[str]
    labels: torch.Tensor
    caption_ids: list[int | None]
    cells: torch.Tensor | None = None


def is_selection(name: str) -> bool:
    """Whether a photograph is kept out of training to choose settings on: CRC32 of its file name mod 5 is 0."""
    return zlib.crc32(name.encode()) % 5 == 0


def read_photographs(folder: str | Path, selection: bool) -> Photographs:
    """Reads the part of a folder that is for training, or the part that is for selection.

    Args:
        folder (`str` or `Path`): holds `images/` and `labels.json` (`categories`: names; `images`: `file_name`,
            `labels` as indices of categories and, where it is a COCO photograph, `coco_id`).
        selection (`bool`): which of the two parts.

    Returns:
        [`Photographs`]: not encoded yet.

    Raises:
        ValueError: the part is empty.
    """
    folder = Path(folder)
    content = json.loads((folder / "labels.json").read_text())
    images = [image for image in content["images"] if is_selection(image["file_name"]) == selection]
    if not images:
        part = "selection" if selection else "training"
        raise ValueError(f"{folder}/labels.json lists no {part} photograph: add some (file names decide the part).")
    labels = torch.zeros(len(images), len(content["categories"]))  # (photographs, categories)
    for row, image in enumerate(images):
        labels[row, image["labels"]] = 1
    ids = [image.get("coco_id") for image in images]
    return Photographs(folder, content["categories"], [image["file_name"] for image in images], labels, ids)


def random_view(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Cuts a square of 15 to 90 % of the short side's square area at a random position, mirrored half of the time."""
    side = round(min(image.size) * generator.uniform(0.15, 0.9) ** 0.5)
    left, top = (int(generator.integers(0, length - side + 1)) for length in image.size)
    view = image.crop((left, top, left + side, top + side))
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else view


@torch.inference_mode()
def encode_photographs(photographs: Photographs, trunk: PreTrainedModel, random_views: int, seed: int) -> None:
    """Runs the trunk over every photograph: the view that the processor gives, then some random ones.

    Args:
        photographs ([`Photographs`]): `cells` is set, `(photographs, 1 + random_views, cells, channels)`.
        trunk (`PreTrainedModel`): gives `last_hidden_state` `(batch, channels, height, width)`.
        random_views (`int`): random square cuts of each photograph.
        seed (`int`): seed of the cuts.
    """
    processor, generator = base_image_processor(), np.random.default_rng(seed)
    cells = []
    for name in tqdm(photographs.names, desc=f"encode {photographs.folder.name}"):
        image = open_encoded(photographs.folder / "images" / name).convert("RGB")
        views = [image] + [random_view(image, generator) for _ in range(random_views)]
        pixels = processor(views, return_tensors="pt")["pixel_values"]  # (views, 3, 224, 224)
        maps = trunk(pixels).last_hidden_state  # (views, channels, 7, 7)
        cells.append(maps.flatten(2).transpose(1, 2).half())  # (views, cells, channels)
    photographs.cells = torch.stack(cells)  # (photographs, views, cells, channels)


def relabel(photographs: Photographs, concepts: list[Concept], num_labels: int) -> None:
    """Maps a folder's own categories to the first `num_labels` concepts, by their names and synonyms.

    Args:
        photographs ([`Photographs`]): `labels` becomes `(photographs, num_labels)`, `categories` their names.
        concepts (`list[Concept]`): the labels first.
        num_labels (`int`): how many of the concepts are labels.

    Raises:
        ValueError: a category is not a label; it is named.
    """
    found = find_mentions(photographs.categories, concepts[:num_labels])
    labels = torch.zeros(len(photographs.names), num_labels)  # (photographs, num_labels)
    for column, (category, numbers) in enumerate(zip(photographs.categories, found, strict=True)):
        if len(numbers) != 1:
            raise ValueError(f"{photographs.folder}: category {category!r} is none of the labels, add it as synonym.")
        labels[:, numbers[0]] += photographs.labels[:, column]
    photographs.labels = labels.clamp(max=1)
    photographs.categories = [concept.name for concept in concepts[:num_labels]]


def load_cells(
    photographs: Photographs, trunk: PreTrainedModel, random_views: int | None, seed: int, folder: str | None
) -> None:
    """Encodes photographs, or reads what an earlier run cached in `folder`.

    Args:
        photographs ([`Photographs`]): `cells` is set.
        trunk (`PreTrainedModel`): as in [`encode_photographs`].
        random_views (`int`, *optional*): as there; by default more for a small folder, 4 to 16.
        seed (`int`): as there.
        folder (`str`, *optional*): where cells are cached; nothing is by default.
    """
    if random_views is None:
        random_views = min(16, max(4, 10_000 // len(photographs.names)))
    recipe = {"names": photographs.names, "random_views": random_views, "seed": seed}
    kind = "selection" if is_selection(photographs.names[0]) else "training"
    file = Path(folder) / f"{photographs.folder.name}-{kind}.pt" if folder else None
    if file and file.exists():
        kept = torch.load(file, weights_only=True)
        if kept["recipe"] == recipe:
            photographs.cells = kept["cells"]
            return
    encode_photographs(photographs, trunk, random_views, seed)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"recipe": recipe, "cells": photographs.cells}, file)
