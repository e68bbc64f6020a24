"""Photographs, seen once through the frozen trunk: the map of every view is cached, the pixels are not."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from modeling_taidpt.atomic import staged_file
from modeling_taidpt.pipelines.image_reading import open_encoded

from .concepts import Concept, find_mentions
from .imagenet_trunk import encode_maps, expand_grids, fused_copy, trunk_processor

BATCH = 32  # views that the trunk sees at once


@dataclass
class Photographs:
    """Photographs of one folder: file names, labels, captions and, once encoded, maps.

    Args:
        folder (`Path`): holds `images/`.
        categories (`list[str]`): the label names.
        names (`list[str]`): file names.
        labels (`torch.Tensor` of shape `(photographs, categories)`): multi-hot.
        caption_ids (`list[int | None]`): the image id that captions of the same photograph carry, where known.
        captions (`list[list[str]]`): the photographs' own captions, empty where there are none.
        wnids (`list[str | None]`): the ImageNet class of each, as a WordNet id, where known.
        complete (`bool`): whether a category that is not among the labels is absent, and not just unknown.
        maps (`torch.Tensor` of shape `(photographs, views, cells, width)`, *optional*): what enters the trunk's last
            convolution, in half precision; [`expand_maps`] makes cells of it, at a quarter of their size.
        pooled (`torch.Tensor` of shape `(photographs, views, channels)`, *optional*): means of the cells.
    """

    folder: Path
    categories: list[str]
    names: list[str]
    labels: torch.Tensor
    caption_ids: list[int | None]
    captions: list[list[str]] = field(default_factory=list)
    wnids: list[str | None] = field(default_factory=list)
    complete: bool = True
    maps: torch.Tensor | None = None
    pooled: torch.Tensor | None = None


def is_selection(name: str) -> bool:
    """Whether a photograph is kept out of training to choose settings on: CRC32 of its file name mod 5 is 0."""
    return zlib.crc32(name.encode()) % 5 == 0


def read_photographs(folder: str | Path, selection: bool) -> Photographs:
    """Reads the part of a folder that is for training, or the part that is for selection.

    Args:
        folder (`str` or `Path`): holds `images/` and one or both of two tables. `labels.json` is an object with
            `categories` (names) and `images` (`file_name`, `labels` as indices of categories and, where it is a COCO
            photograph, `coco_id`), or, where other objects are unknown, a list of `file_name`, `labels` as names and
            perhaps `wnid`. `captions.jsonl` has `file_name` and `captions` a line.
        selection (`bool`): which of the two parts.

    Returns:
        [`Photographs`]: not encoded yet.

    Raises:
        ValueError: there is no table, or the part is empty.
    """
    folder = Path(folder)
    labels_file, captions_file = folder / "labels.json", folder / "captions.jsonl"
    if not labels_file.exists() and not captions_file.exists():
        raise ValueError(f"{folder} holds neither labels.json nor captions.jsonl: add one of them.")
    own = _read_own_captions(captions_file)
    categories, images, complete = _read_labels(labels_file, list(own))
    images = [image for image in images if is_selection(image["file_name"]) == selection]
    if not images:
        part = "selection" if selection else "training"
        raise ValueError(f"{folder} lists no {part} photograph: add some (file names decide the part).")
    labels = torch.zeros(len(images), len(categories))  # (photographs, categories)
    for row, image in enumerate(images):
        labels[row, image["labels"]] = 1
    names = [image["file_name"] for image in images]
    ids, wnids = ([image.get(key) for image in images] for key in ("coco_id", "wnid"))
    return Photographs(folder, categories, names, labels, ids, [own.get(name, []) for name in names], wnids, complete)


def _read_own_captions(file: Path) -> dict[str, list[str]]:
    """Captions by file name, of a file that may be missing."""
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {line["file_name"]: line["captions"] for line in lines}


def _read_labels(file: Path, captioned: list[str]) -> tuple[list[str], list[dict[str, Any]], bool]:
    """Categories, images with indices of categories, and whether all categories of an image are known."""
    if not file.exists():
        return [], [{"file_name": name, "labels": []} for name in captioned], False
    content = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        return content["categories"], content["images"], True
    categories = sorted({label for image in content for label in image["labels"]})
    images = [{**image, "labels": [categories.index(label) for label in image["labels"]]} for image in content]
    return categories, images, False


def random_view(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Cuts a square of 15 to 90 % of the short side's square area at a random position, mirrored half of the time."""
    side = round(min(image.size) * generator.uniform(0.15, 0.9) ** 0.5)
    left, top = (int(generator.integers(0, length - side + 1)) for length in image.size)
    view = image.crop((left, top, left + side, top + side))
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else view


@torch.inference_mode()
def encode_photographs(
    photographs: Photographs, trunk: PreTrainedModel, random_views: int, seed: int, bf16: bool = False
) -> None:
    """Runs the trunk over every photograph: the view that the processor gives, then some random ones.

    Args:
        photographs ([`Photographs`]): `maps` and `pooled` are set, with `1 + random_views` views.
        trunk (`PreTrainedModel`): of [`load_trunk`].
        random_views (`int`): random square cuts of each photograph.
        seed (`int`): seed of the cuts.
        bf16 (`bool`, *optional*, defaults to `False`): autocast to bfloat16.
    """
    processor, fused, views = trunk_processor(trunk), fused_copy(trunk), 1 + random_views
    maps, pooled, block = [], [], max(1, BATCH // views)
    for start in tqdm(range(0, len(photographs.names), block), desc=f"encode {photographs.folder.name}"):
        images = []
        for name in photographs.names[start : start + block]:
            image = open_encoded(photographs.folder / "images" / name).convert("RGB")
            generator = np.random.default_rng((seed, zlib.crc32(name.encode())))
            images += [image] + [random_view(image, generator) for _ in range(random_views)]
        pixels = processor(images, return_tensors="pt")["pixel_values"]  # (block * views, 3, side, side)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            pixels = pixels.to(memory_format=torch.channels_last)  # (block * views, 3, side, side)
            hidden = encode_maps(fused, pixels)  # (block * views, width, rows, columns)
            cells = expand_grids(fused, hidden).float()  # (block * views, channels, rows, columns)
        maps.append(hidden.flatten(2).transpose(1, 2).half().unflatten(0, (-1, views)))  # (block, views, cells, width)
        pooled.append(cells.mean(dim=(2, 3)).half().unflatten(0, (-1, views)))  # (block, views, channels)
    photographs.maps, photographs.pooled = torch.cat(maps), torch.cat(pooled)


def expand_maps(trunk: PreTrainedModel, maps: torch.Tensor) -> torch.Tensor:
    """Runs the trunk's last convolution: cached maps `(images, cells, width)` to cells `(images, cells, channels)`."""
    side = round(maps.shape[1] ** 0.5)
    grids = maps.float().transpose(1, 2).unflatten(-1, (side, side))  # (images, width, side, side)
    return expand_grids(trunk, grids).flatten(2).transpose(1, 2)  # (images, cells, channels)


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


def load_maps(
    photographs: Photographs,
    trunk: PreTrainedModel,
    random_views: int | None,
    seed: int,
    folder: str | None,
    bf16: bool = False,
) -> None:
    """Encodes photographs, or reads what an earlier run cached in `folder`.

    Args:
        photographs ([`Photographs`]): `maps` and `pooled` are set.
        trunk (`PreTrainedModel`): as in [`encode_photographs`].
        random_views (`int`, *optional*): as there; by default more for a small folder, 1 to 5.
        seed (`int`): as there.
        folder (`str`, *optional*): where maps are cached; nothing is by default.
        bf16 (`bool`, *optional*, defaults to `False`): as there.
    """
    if random_views is None:
        random_views = min(5, max(1, 6_000 // len(photographs.names)))
    recipe = {"names": photographs.names, "random_views": random_views, "seed": seed, "bf16": bf16}
    recipe["trunk"], recipe["side"] = trunk.config.model_type, trunk.config.image_size
    kind = "selection" if is_selection(photographs.names[0]) else "training"
    file = Path(folder) / f"{photographs.folder.name}-{kind}.pt" if folder else None
    if file and file.exists():
        kept = torch.load(file, weights_only=True)
        if kept["recipe"] == recipe:
            photographs.maps, photographs.pooled = kept["maps"], kept["pooled"]
            return
    encode_photographs(photographs, trunk, random_views, seed, bf16)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        with staged_file(file) as staged:  # a run that is stopped leaves no half file
            torch.save({"recipe": recipe, "maps": photographs.maps, "pooled": photographs.pooled}, staged)
