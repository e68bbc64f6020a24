"""What the studies of views, transfer and supercategories share: labelled photographs, and scores as in the paper."""

from __future__ import annotations

import numpy as np
import torch
from embedded_base.labelled import read_labelled

from modeling_taidpt import TaiDptModel
from modeling_taidpt.pipelines.image_reading import open_encoded


def read_known(folder: str, labels: list[str], selection: bool) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Files, columns of the labels that the folder knows `(known,)`, and whether they are shown `(images, known)`."""
    rows = read_labelled(folder, labels, selection or None)
    table = np.array([row["labels"] for row in rows])  # (images, classes): 1 present, -1 absent, 0 not known
    columns = np.flatnonzero(table.any(axis=0))  # (known,)
    return [row["image"] for row in rows], columns, (table[:, columns] == 1).astype(np.int64)


@torch.no_grad()
def encode_photographs(model: TaiDptModel, processor, files: list[str]) -> dict[str, torch.Tensor]:
    """Global `(images, dim)` and dense `(images, height, width, dim)` features, as the model takes them."""
    parts = []
    for start in range(0, len(files), 32):
        images = [open_encoded(file).convert("RGB") for file in files[start : start + 32]]
        parts.append(model.encode_images(processor(images=images, return_tensors="pt")["pixel_values"]))
    pooled, dense = zip(*parts, strict=True)
    return {"image_embeds": torch.cat(pooled), "dense_embeds": torch.cat(dense)}


def plain_scores(model: TaiDptModel) -> TaiDptModel:
    """The model with scores as in the paper, without the standardisation that its checkpoint may have."""
    model.config.image_standardization, model.config.image_spatial_scale = None, 40.0
    return model
