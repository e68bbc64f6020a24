"""Frozen image features: encoded once, cached in Arrow files, memory-mapped; see `cache.py`.

They serve where no augmentation is used: every epoch then sees the same features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from ..data.image_rows import ImageRows, read_images
from ..hub import find_image_processor
from ..pipelines.processor_checks import check_processor
from .cache import FORMAT, Encoder, KeptFeatures, feature_cache_dir, write_missing
from .fingerprints import image_fingerprint
from .shards import IMAGE_COLUMNS

SHARD_SIZE = 1024  # images per file; at 49 cells of 1024 dimensions, 200 MB in fp32


class ImageFeatures(KeptFeatures):
    """A data set of labelled images whose features a frozen CLIP has computed.

    Make it with [`~ImageFeatures.encode`]. An item is `{"image_embeds": (dim,), "dense_embeds": (height, width, dim),
    "labels": (classes,)}`, height and width in cells; [`collate_images`] makes a batch of several.

    Args:
        shards (`FeatureShards`): features of the images.
        rows (`np.ndarray` of shape `(images,)`): the row of `shards` that each image has.
        labels (`np.ndarray` of shape `(images, classes)`): 0 or 1, or partial labels -1, 0 or 1 (0 unknown).

    Example:
        >>> from modeling_taidpt import DEFAULT_CHECKPOINT, ImageFeatures, TaiDptModel
        >>> model = TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT)
        >>> rows = [{"image": "examples/images/cat.jpg", "labels": ["cat"]}]
        >>> features = ImageFeatures.encode(model, rows, progress=False)
        >>> features[0]["dense_embeds"].shape  # (height, width, dim)
        torch.Size([8, 8, 256])
    """

    kind: ClassVar[str] = "image"
    columns: ClassVar[tuple[str, str]] = IMAGE_COLUMNS
    label_dtype: ClassVar[Any] = np.int8

    @classmethod
    def encode(
        cls,
        model: nn.Module,
        dataset: Any,
        image_processor: Any = None,
        image_column: str = "image",
        label_column: str | None = "labels",
        cache_dir: str | Path | None = None,
        dtype: str = "float32",
        batch_size: int = 32,
        bf16: bool = False,
        shard_size: int = SHARD_SIZE,
        progress: bool = True,
        skip_unreadable: bool = False,
    ) -> ImageFeatures:
        """Encodes images with the image side of a model, or opens what an earlier call has cached.

        Args:
            model ([`TaiDptModel`]): its frozen CLIP encodes.
            dataset (`Dataset` or what [`read_images`] reads): rows of `image` (an image, its bytes, or a path) or
                `pixel_values`, and `labels`.
            image_processor (*optional*): an image processor of transformers; the model's own by default.
            image_column (`str`, *optional*, defaults to `"image"`): column of the images.
            label_column (`str`, *optional*, defaults to `"labels"`): column of the labels: multi-hot rows, indices or
                names, or rows of -1, 0 and 1; `None` where there are none (all labels are then 0). With a column
                `unknown` beside it, labels are partial; see [`partial_label_matrix`].
            cache_dir (`str`, *optional*): `taidpt_image_features` in the cache of `datasets` by default.
            dtype (`str`, *optional*, defaults to `"float32"`): precision in the cache.
            batch_size (`int`, *optional*, defaults to 32): images encoded at a time.
            bf16 (`bool`, *optional*, defaults to `False`): whether matrix products are computed in bfloat16.
            shard_size (`int`, *optional*): images per file.
            progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.
            skip_unreadable (`bool`, *optional*, defaults to `False`): leaves out images that cannot be read.

        Returns:
            [`ImageFeatures`]: memory-mapped.

        Raises:
            ValueError: If there are no images, a column is missing, an image cannot be read, a label is wrong, or
                images have different numbers of cells; the row is named.
        """
        images = read_images(dataset, image_column)
        labels = images.labels(model.config.labels, label_column)  # (images, classes)
        processor = image_processor or find_image_processor(model.config)
        check_processor(processor, model.config._name_or_path or type(model).__name__)
        settings = f"format {FORMAT}, {dtype}, {'bf16' if bf16 else 'full'}, {shard_size} images a file"
        settings += ", unreadable ones left out" if skip_unreadable else ""
        contents = (_content(images, index, skip_unreadable) for index in range(len(images)))
        folder = Path(cache_dir or feature_cache_dir(cls.kind)) / image_fingerprint(
            model, processor, contents, settings
        )
        encoder = _ImageEncoder(model, processor, images, dtype, batch_size, bf16, skip_unreadable)
        shards = write_missing(encoder, range(len(images)), folder, shard_size, progress, cls.kind)
        features = cls(shards, np.arange(len(images)), labels)
        if not skip_unreadable:
            return features
        # features of length 1 are never all 0: these are places of images that could not be read
        readable = [index for index in range(len(images)) if bool(shards[index][0].any())]
        return features if len(readable) == len(images) else features.select(readable)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return the features and labels of one image."""
        item = super().__getitem__(index)
        pooled, dense = item["image_embeds"], item["dense_embeds"]  # (dim,), (height * width, dim)
        if len(pooled) == dense.shape[1]:
            item["dense_embeds"] = dense.unflatten(0, self.shards.grid)  # (height, width, dim)
        else:  # of several views, one after the other
            item["image_embeds"] = pooled.unflatten(0, (-1, dense.shape[1]))  # (views, dim)
            item["dense_embeds"] = dense.unflatten(0, (-1, *self.shards.grid))  # (views, height, width, dim)
        return item

    def with_labels(self, labels: np.ndarray) -> ImageFeatures:
        """The same images with other labels `(images, classes)`, as of [`drop_labels`]."""
        return ImageFeatures(self.shards, self.rows, labels)


def collate_images(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Makes a batch.

    Args:
        items (`Sequence[dict]`): items of [`ImageFeatures`].

    Returns:
        `dict[str, torch.Tensor]`: in fp32, `image_embeds` `(batch, dim)`, `dense_embeds`
        `(batch, height, width, dim)` and `labels` `(batch, classes)`.
    """
    return {name: torch.stack([item[name] for item in items]).float() for name in (*IMAGE_COLUMNS, "labels")}


def _content(images: ImageRows, index: int, skip_unreadable: bool) -> bytes:
    """What an image is made of; nothing where it cannot be read and is to be left out."""
    try:
        return images.content(index)
    except ValueError:
        if not skip_unreadable:
            raise
        return b""


class _ImageEncoder(Encoder):
    """Encodes images with a frozen CLIP."""

    columns = IMAGE_COLUMNS

    def __init__(
        self,
        model: Any,
        processor: Any,
        images: ImageRows,
        dtype: str,
        batch_size: int,
        bf16: bool,
        skip_unreadable: bool = False,
    ) -> None:
        self.model, self.processor, self.images = model, processor, images
        self.dtype, self.batch_size, self.bf16 = getattr(torch, dtype), batch_size, bf16
        self.skip_unreadable = skip_unreadable

    def __call__(self, items: list[int], bar: tqdm) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Pooled `(dim,)` and dense `(cells, dim)` features of each image, in the cache's precision."""
        features: list[tuple[torch.Tensor, torch.Tensor]] = []
        for start in range(0, len(items), self.batch_size):
            members = items[start : start + self.batch_size]
            settings = self.model.config.view_settings()
            pixels, unreadable = self._read(members, settings)
            if len({tuple(image.shape) for image in pixels}) > 1:
                raise ValueError("The processor makes images of different sizes: use one that crops them to one size.")
            pooled, dense = self._encode(torch.stack(pixels), unreadable)
            features += zip(pooled, dense, strict=True)
            bar.update(len(members))
        return features

    def _read(self, members: list[int], settings: dict[str, Any]) -> tuple[list[torch.Tensor], list[int]]:
        """Pixels `(3, height, width)` of each image, and which of them are a blank in place of one."""
        pixels: list[torch.Tensor] = []
        unreadable = []
        for place, index in enumerate(members):
            try:
                pixels.append(self.images.pixels(index, self.processor, settings))
            except ValueError:
                if not self.skip_unreadable:
                    raise
                size = (self.model.config.image_size,) * 2
                blank = self.processor(images=[Image.new("RGB", size)], return_tensors="pt", **settings)
                pixels.append(blank["pixel_values"][0])
                unreadable.append(place)
        return pixels, unreadable

    @torch.inference_mode()
    def _encode(self, pixel_values: torch.Tensor, blanks: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of a batch; those of blanks are 0."""
        size = self.model.config.image_size
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            pooled, dense = self.model.encode_images(
                pixel_values.to(self.model.device), pixel_values.shape[-2:] != (size, size)
            )
        pooled[blanks], dense[blanks] = 0, 0
        grid = (dense.shape[-3], dense.shape[-2])
        if self.grid not in (None, grid):
            raise ValueError(f"Images have {self.grid} and {grid} cells: use a processor that crops them to one size.")
        self.grid = grid
        # of several views: (batch, views * dim) and (batch, views * cells, dim)
        return pooled.flatten(1).to("cpu", self.dtype), dense.flatten(1, -2).to("cpu", self.dtype)


__all__ = ["SHARD_SIZE", "ImageFeatures", "collate_images"]
