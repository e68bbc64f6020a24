"""What captions and labelled images have in common as training data; the trainer knows no more of either."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from transformers.utils import logging

from ..features.cache import KeptFeatures
from ..features.captions import CaptionFeatures
from ..features.device import DeviceFeatures
from .arguments import TaiDptTrainingArguments

logger = logging.get_logger(__name__)


class TrainingData(ABC):
    """Reads what a trainer is given, and makes batches of it.

    Args:
        model ([`TaiDptModel`]): the model that is trained, on its device.
        args ([`TaiDptTrainingArguments`]): columns, split, cache.

    Attributes:
        train_captions ([`CaptionFeatures`], *optional*): the training captions without templates; `None` of images.
        corpus_labels (`np.ndarray` of shape `(captions, classes)`): of all captions that are not held out, also of
            those that are not learned from; no rows of images.
        held_out (`int`): number of captions or images held out or given to evaluate on.
        on_device ([`DeviceFeatures`], *optional*): the features, where the device holds them.
    """

    kind: ClassVar[str]  # "caption" or "image", for messages
    metric: ClassVar[str]  # figure that chooses the checkpoint
    main_input_name: ClassVar[str]  # of a batch

    def __init__(self, model: Any, args: TaiDptTrainingArguments) -> None:
        self.model, self.args = model, args
        self.labels: list[str] = model.config.labels
        self.train_captions: CaptionFeatures | None = None
        self.corpus_labels = np.zeros((0, len(self.labels)), dtype=np.uint8)  # (captions, classes)
        self.held_out = 0
        self.on_device: DeviceFeatures | None = None

    def read(self, train_data: Any, eval_data: Any = None) -> tuple[Any, Any]:
        """Data to train on and to choose the checkpoint on.

        Args:
            train_data (*optional*): as the trainer's `train_dataset`.
            eval_data (*optional*): as the trainer's `eval_dataset`.

        Returns:
            `tuple`: training data and held-out data (a dictionary for a dictionary); `None` where there is none.

        Raises:
            ValueError: If there is nothing to learn from, or an option does not fit the kind of data.
        """
        self.check_options()
        train, held_out = None, self._read_eval_data(eval_data)
        if train_data is not None:
            train, share = self.read_train(train_data, eval_data is None)
            held_out = share if eval_data is None else held_out
        parts = held_out.values() if isinstance(held_out, dict) else [held_out]
        self.held_out = sum(len(part) for part in parts if part is not None)
        return train, held_out

    def _read_eval_data(self, data: Any) -> Any:
        if data is None:
            return None
        columns = (self.args.caption_column, self.args.image_column)  # a dictionary with one of them is one data set
        if isinstance(data, Mapping) and not any(name in data for name in columns):
            return {name: self.read_eval(part) for name, part in data.items()}
        return self.read_eval(data)

    @abstractmethod
    def check_options(self) -> None:
        """Raises a `ValueError` if an option does not fit this kind of data."""

    @abstractmethod
    def read_train(self, data: Any, holds_out: bool) -> tuple[Any, KeptFeatures | None]:
        """Data to train on, and with `holds_out` the share of it that is held out, if any."""

    @abstractmethod
    def read_eval(self, data: Any) -> KeptFeatures:
        """Features to evaluate on; those that are features already are taken as they are."""

    @abstractmethod
    def collate(self, items: Sequence[Any]) -> dict[str, torch.Tensor]:
        """A batch of items of what was read."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What was learned from, ready for JSON: numbers, and how many show or mention each class."""

    def hold(self, train_features: Any, eval_features: Any) -> None:
        """Copies features to the device where the arguments ask for it; does nothing unless overridden."""
        del train_features, eval_features

    @property
    def seed(self) -> int:
        """The seed of what is drawn from the data."""
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def count_classes(self, labels: np.ndarray) -> dict[str, int]:
        """Rows that show or mention each label, of labels `(rows, classes)`."""
        return {label: int(count) for label, count in zip(self.labels, (labels == 1).sum(axis=0), strict=True)}

    def warn_of_absent_classes(self, labels: np.ndarray, what: str, hint: str = "") -> None:
        """Says which classes `what`, as "no training image shows", holds for; labels `(rows, classes)`."""
        absent = [self.labels[column] for column in np.flatnonzero(~(labels == 1).any(axis=0))]
        if absent:
            logger.warning(f"{what} {len(absent)} of the {len(self.labels)} classes: {', '.join(absent)}.{hint}")


__all__ = ["TrainingData"]
