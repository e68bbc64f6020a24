"""Labelled images made ready for training: drawn, labels hidden, encoded once unless they are augmented.

Sources: the few-shot and the partial-label settings of arXiv 2211.12739, section 4.4, and of the published code,
`trainers/Caption_dual.py` and `configs/trainers/Caption_dual/rn101.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from transformers.utils import logging

from ..captions.label_columns import ABSENT, UNKNOWN
from ..data.collator import ImageCollator
from ..data.few_shot import sample_few_shot
from ..data.image_rows import LabelledImages, holds_images, read_images
from ..data.partial_labels import drop_labels, read_partial_labels
from ..features.images import ImageFeatures, collate_images
from ..hub import find_image_processor
from .arguments import TaiDptTrainingArguments
from .data import TrainingData

logger = logging.get_logger(__name__)

# What `TaiDptTrainingArguments.from_recipe` takes. "few_shot" has the BCE loss on both scores and the optimizer of the
# published code; "partial_labels" is DualCoOp's recipe as published with TaI-DPT.
IMAGE_RECIPES: dict[str, dict[str, Any]] = {
    "few_shot": {
        "name": "few-shot",
        "model": {"num_context_tokens": 16},
        "training": {
            "loss": "bce",
            "learning_rate": 2e-3,
            "num_train_epochs": 50,
            "per_device_train_batch_size": 64,
            "dataloader_drop_last": False,
        },
    },
    "partial_labels": {
        "name": "partial labels",
        "model": {"prompt_pair": "positive_negative", "class_specific_context": True, "num_context_tokens": 16},
        "training": {
            "loss": "partial_asl",
            "loss_on": "local",
            "learning_rate": 2e-3,
            "num_train_epochs": 50,
            "per_device_train_batch_size": 64,
            "dataloader_drop_last": False,
        },
    },
    "linear_head": {
        "name": "linear head",
        "model": {},
        "training": {
            "loss": "bce",
            "loss_on": "merged",
            "optim": "adamw_torch",
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "num_train_epochs": 50,
            "per_device_train_batch_size": 64,
            "dataloader_drop_last": False,
        },
    },
}


def is_image_data(data: Any, image_column: str = "image") -> bool:
    """Whether data to learn from are images: cached features, or what [`holds_images`] knows."""
    return isinstance(data, ImageFeatures) or holds_images(data, image_column)


class TrainingImages(TrainingData):
    """Reads the labelled images that a trainer is given.

    Args:
        model ([`TaiDptModel`]): the model that is trained, on its device.
        args ([`TaiDptTrainingArguments`]): columns, shots, share of known labels, cache.
        image_processor (*optional*): makes pixels; the model's by default.
        transform (`Callable`, *optional*): changes each image anew every time it is seen; nothing is cached then.
    """

    kind: ClassVar[str] = "image"
    metric: ClassVar[str] = "held_out_map"
    main_input_name: ClassVar[str] = "image_embeds"

    def __init__(
        self,
        model: Any,
        args: TaiDptTrainingArguments,
        image_processor: Any = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(model, args)
        self.transform = transform
        self.processor = image_processor or find_image_processor(model.config)
        self.column = "labels" if args.label_column is None else args.label_column
        self.train_labels = np.zeros((0, len(self.labels)), dtype=np.int8)  # (images, classes)

    def check_options(self) -> None:
        """Raises a `ValueError` if an option needs captions."""
        if self.args.caption_prototype_weight:
            raise ValueError("`caption_prototype_weight` needs captions: leave it out for labelled images.")

    def describe(self) -> dict[str, Any]:
        """What was learned from, ready for JSON: numbers of images, and how many are known to show each class."""
        labels = self.train_labels  # (images, classes)
        return {"images": len(labels), "held_out": self.held_out, "per_class": self.count_classes(labels)}

    def read_eval(self, data: Any) -> ImageFeatures:
        """Features of images to evaluate on, with full labels: what is unknown counts as absent."""
        features = self._encode(data)
        return features.with_labels((features.labels == 1).astype(np.int8))

    def collate(self, items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Makes a batch of cached features, or of images that are transformed."""
        if "image_embeds" in items[0]:
            return collate_images(items)  # type: ignore[arg-type]
        return ImageCollator(self.processor, self.transform)(items)

    def read_train(self, data: Any, holds_out: bool) -> tuple[Any, None]:
        """Training images, encoded unless they are augmented; of images none are held out by default.

        Args:
            data: as the trainer's `train_dataset`.
            holds_out (`bool`): not looked at.

        Returns:
            `tuple`: [`ImageFeatures`] or a data set of images, and `None`.

        Raises:
            ValueError: If there are no images, or labels do not fit the loss.
        """
        if self.transform is None or isinstance(data, ImageFeatures):
            features = self._encode(data)
            rows, labels = self._choose(features.labels)
            return features.select(rows).with_labels(labels), None
        images = read_images(data, self.args.image_column)
        rows, labels = self._choose(images.labels(self.labels, self.column))
        return LabelledImages(images, labels, rows), None

    def _choose(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on, and their labels `(rows, classes)`."""
        args = self.args
        if args.partial_label_file is not None:
            labels = read_partial_labels(args.partial_label_file, *labels.shape)  # (images, classes)
        rows = np.arange(len(labels))  # (images,)
        if args.shots is not None:
            sample = sample_few_shot(labels, args.shots, self.seed, self.labels)
            logger.warning(sample.report(self.labels))
            rows = sample.indices  # (drawn,)
        labels = labels[rows]  # (rows, classes)
        if args.known_labels is not None:
            labels = drop_labels(labels, args.known_labels, self.seed)  # (rows, classes)
        elif args.loss == "partial_asl" and args.partial_label_file is None and not (labels == ABSENT).any():
            labels = drop_labels(labels, 1.0)  # full labels: 0 says absent
        if args.loss == "partial_asl":
            known = float((labels != UNKNOWN).mean())
            logger.warning(f"{100 * known:.1f} % of the labels of {len(rows)} images are known.")
        elif (labels == ABSENT).any():
            if (labels == UNKNOWN).any():
                raise ValueError(f"Some labels are unknown, and `loss={args.loss!r}` needs all: take 'partial_asl'.")
            labels = (labels == 1).astype(np.int8)  # (rows, classes)
        self.warn_of_absent_classes(labels, "No training image shows")
        self.train_labels = labels
        return rows, labels

    def _encode(self, data: Any) -> ImageFeatures:
        if isinstance(data, ImageFeatures):
            if data.labels.shape[1] != len(self.labels):
                raise ValueError(f"The images have {data.labels.shape[1]} labels each, the model {len(self.labels)}.")
            return data
        return ImageFeatures.encode(
            self.model,
            data,
            self.processor,
            image_column=self.args.image_column,
            label_column=self.column,
            cache_dir=self.args.feature_cache_dir,
            dtype=self.args.feature_dtype,
            bf16=self.args.bf16,
            progress=not self.args.disable_tqdm,
        )


__all__ = ["IMAGE_RECIPES", "TrainingImages", "is_image_data"]
