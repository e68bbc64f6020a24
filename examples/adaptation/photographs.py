"""What the study of adaptation encodes, each once: photographs, their tiles, and the boxes of a second look."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedded_base.image_features import is_selection
from embedded_base.labelled import read_labelled
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from modeling_taidpt import ImageFeatures, TaiDptModel
from modeling_taidpt.features.fingerprints import model_fingerprint
from modeling_taidpt.pipelines.heatmaps import ProcessorView, enlarged
from modeling_taidpt.pipelines.image_reading import open_encoded
from modeling_taidpt.second_look import cut_boxes

BOXES_BETWEEN_SAVES = 128


class Labelled:
    """Labelled photographs, encoded on demand.

    Args:
        model ([`TaiDptModel`]): its CLIP encodes.
        processor (`BaseImageProcessor`): the model's.
        folder (`Path`): holds `images/` and `labels.json`.
        selection (`bool`): whether only the selection part is taken.
        most (`int`): photographs that are taken at most, the first ones.
        cache (`Path`): folder of features.
    """

    def __init__(
        self, model: TaiDptModel, processor: Any, folder: Path, selection: bool, most: int, cache: Path
    ) -> None:
        self.model, self.processor, self.name, self.cache = model, processor, folder.name, cache
        rows = read_labelled(folder, model.config.labels, selection or None)[:most]
        self.files = [row["image"] for row in rows]
        self.labels = np.array([row["labels"] for row in rows])  # (images, classes): 1 present, -1 absent, 0 not known
        self.known = torch.from_numpy(self.labels != 0)  # (images, classes)
        self.present = torch.from_numpy(self.labels == 1)  # (images, classes)
        self._features: dict[bool, ImageFeatures] = {}
        self._box_files = cache / f"boxes_{folder.name}_{model_fingerprint(model, processor)}"
        self._boxes: dict[bool, dict[str, torch.Tensor]] = {}

    def features(self, tiles: bool) -> ImageFeatures:
        """Features of the center crops, or of the whole images and their tiles."""
        if tiles not in self._features:
            self._features[tiles] = encode(self.model, self.files, self.cache, tiles)
        return self._features[tiles]

    def boxes(self, places: torch.Tensor, cells: tuple[int, int], tiles: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Pooled `(places, dim)` and dense `(places, height, width, dim)` features of boxes, cached in a file."""
        file = self._box_files.with_name(f"{self._box_files.name}_{'whole' if tiles else 'center'}.safetensors")
        if tiles not in self._boxes:
            self._boxes[tiles] = load_file(file) if file.is_file() else {}
        found, new = self._boxes[tiles], 0
        for image in tqdm(places[:, 0].unique().tolist(), desc=f"Boxes of {self.name}", leave=False):
            own = [place for place in places[places[:, 0] == image] if _key(place) not in found]
            if not own:
                continue
            pixels = self._pixels(image, tiles)  # (1, 3, height, width)
            moved = torch.stack(own) * torch.tensor([0, 1, 1, 1, 1])  # of the one image
            pooled, dense = self.model.encode_images(
                torch.stack(cut_boxes(pixels, moved, cells, pixels.shape[-1] // 2))
            )
            for place, values in zip(own, torch.cat([pooled[:, None], dense.flatten(1, 2)], dim=1), strict=True):
                found[_key(place)] = values.half()  # (1 + cells, dim)
            new += len(own)
            if new >= BOXES_BETWEEN_SAVES:
                new = _save(found, file)
        if new:
            _save(found, file)
        values = torch.stack([found[_key(place)] for place in places]).float()  # (places, 1 + cells, dim)
        side = round((values.shape[1] - 1) ** 0.5)
        return values[:, 0], values[:, 1:].unflatten(1, (side, side))

    def _pixels(self, image: int, tiles: bool) -> torch.Tensor:
        """Pixels `(1, 3, height, width)` of the whole image or its center at twice the tower's size."""
        opened = open_encoded(self.files[image]).convert("RGB")
        if tiles:
            return torch.as_tensor(ProcessorView(self.processor, self.model.config.view_settings("max"))(opened))
        return torch.as_tensor(enlarged(ProcessorView(self.processor, {}))(opened))


def _key(place: torch.Tensor) -> str:
    return "-".join(map(str, place.tolist()))


def _save(found: dict[str, torch.Tensor], file: Path) -> int:
    save_file({name: value.contiguous() for name, value in found.items()}, f"{file}.tmp")
    os.replace(f"{file}.tmp", file)
    return 0


def encode(model: TaiDptModel, files: list[str], cache: Path, tiles: bool = False) -> ImageFeatures:
    """Features of photographs; small files of them, so that a study that was stopped goes on near where it was."""
    before, model.config.multi_crop = model.config.multi_crop, "max" if tiles else False
    try:
        rows = [{"image": file} for file in files]
        sizes = {"shard_size": 32, "batch_size": 16} if tiles else {"shard_size": 256}
        return ImageFeatures.encode(model, rows, label_column=None, cache_dir=cache, dtype="float16", **sizes)
    finally:
        model.config.multi_crop = before


def unlabelled_files(folders: list[Path], count: int) -> list[str]:
    """Photographs outside the selection parts, from the folders in turn, in an order that their names decide."""
    each = []
    for folder in folders:
        files = [file for file in (folder / "images").iterdir() if not is_selection(file.name)]
        each.append(sorted(files, key=lambda file: zlib.crc32(file.name.encode()))[: -(-count // len(folders))])
    return [str(file) for files in zip(*each, strict=True) for file in files][:count]


__all__ = ["Labelled", "encode", "unlabelled_files"]
