"""Labelled photographs of folders with other categories than a model's labels, as partial labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_taidpt import TaiDptModel
from modeling_taidpt.features.images import ImageFeatures

from .image_features import is_selection

VOC_NAMES = {  # of the categories that COCO calls otherwise
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def read_labelled(folder: str | Path, labels: Sequence[str], selection: bool | None = None) -> list[dict[str, Any]]:
    """Rows of `image` (a path) and `labels` (1 present, -1 absent, 0 not known) for the labels of a model.

    Args:
        folder (`str`): holds `images/` and `labels.json` (`categories`: names; `images`: `file_name`, `labels`).
        labels (`Sequence[str]`): the model's; those that are no category of the folder are unknown in all its rows.
        selection (`bool`, *optional*): only the selection part, or only the rest; all by default.

    Returns:
        `list[dict]`: one per photograph.

    Raises:
        ValueError: a category is none of the labels, or no photograph is left.
    """
    table = json.loads((Path(folder) / "labels.json").read_text(encoding="utf-8"))
    names = {label: column for column, label in enumerate(labels)}
    columns = [names.get(VOC_NAMES.get(category, category), -1) for category in table["categories"]]
    if -1 in columns:
        raise ValueError(
            f"{folder}: the category {table['categories'][columns.index(-1)]!r} is not a label of the model."
        )
    rows = []
    for image in table["images"]:
        if selection is not None and is_selection(image["file_name"]) != selection:
            continue
        values = [0] * len(labels)
        for column in columns:
            values[column] = -1
        for category in image["labels"]:
            values[columns[category]] = 1
        rows.append({"image": str(Path(folder) / "images" / image["file_name"]), "labels": values})
    if not rows:
        raise ValueError(f"{folder} holds no such photograph: file names decide the part.")
    return rows


def encode_labelled(
    model: TaiDptModel, folder: str | Path, selection: bool | None = None, cache_dir: str | None = None
) -> ImageFeatures:
    """Features and partial labels of [`read_labelled`], encoded once and cached."""
    rows = read_labelled(folder, model.config.labels, selection)
    return ImageFeatures.encode(model, rows, cache_dir=cache_dir, dtype="float16")


def joined(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    """The photographs of all parts, one after the other."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.join(part)
    return whole
