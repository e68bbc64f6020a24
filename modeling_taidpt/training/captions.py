"""Captions made ready for training: labelled, split, with templates, encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..captions.corpus import read_captions
from ..captions.label_columns import multi_hot
from ..captions.labels import label_captions
from ..captions.synthetic import template_sentences
from ..features.captions import CaptionFeatures, collate_features
from ..features.device import DeviceFeatures, FeatureRows, fits_device
from .arguments import CAPTION_LOSSES, TaiDptTrainingArguments
from .data import TrainingData
from .sampling import AUTO, LEAST_HELD_OUT, caption_limit, sample_captions

logger = logging.get_logger(__name__)


class TrainingCaptions(TrainingData):
    """Reads the captions that a trainer is given.

    Args:
        model ([`TaiDptModel`]): the model that is trained, on its device.
        args ([`TaiDptTrainingArguments`]): columns, split, cache.
        tokenizer (`PreTrainedTokenizerBase`): the model's tokenizer.
        labeler (`Callable`): finds the classes that captions mention.
        max_captions_per_class (`int` or `"auto"`, *optional*): of a larger corpus as many are drawn; see
            [`caption_limit`].

    Attributes:
        sources (`list[str]`): where the training captions came from, for reports.
    """

    kind: ClassVar[str] = "caption"
    metric: ClassVar[str] = "caption_map"
    main_input_name: ClassVar[str] = "caption_embeds"

    def __init__(
        self,
        model: Any,
        args: TaiDptTrainingArguments,
        tokenizer: PreTrainedTokenizerBase,
        labeler: Callable[[list[str]], Any],
        max_captions_per_class: int | str | None = AUTO,
    ) -> None:
        super().__init__(model, args)
        self.tokenizer, self.labeler = tokenizer, labeler
        self.limit = caption_limit(max_captions_per_class, args, len(self.labels))
        self.sources: list[str] = []

    def collate(self, items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Makes a batch of cached features, or of their rows where the device holds them."""
        held = self.on_device
        if held is not None and isinstance(items, FeatureRows) and held.holds(items.features.shards):
            return held.batch(items, self.args.pad_to_multiple_of)
        return collate_features(items, self.args.pad_to_multiple_of)

    def hold(self, train_features: Any, eval_features: Any) -> None:
        """Copies the features to the device if `features_on_device` asks for it, or by default if there is room.

        Args:
            train_features (`Any`): what the trainer learns from.
            eval_features (`Any`): what it is evaluated on; a dictionary of several, one, or `None`.
        """
        several = eval_features.values() if isinstance(eval_features, dict) else [eval_features]
        if "inputs" in self.args.include_for_metrics:
            return  # features, not their rows, are handed to `compute_metrics`
        parts = [part.shards for part in (train_features, *several) if isinstance(part, CaptionFeatures)]
        wanted, device = self.args.features_on_device, self.args.device
        if parts and (fits_device(parts, device) if wanted is None else wanted):
            if self.on_device is None or not all(self.on_device.holds(part) for part in parts):
                self.on_device = DeviceFeatures(parts, device)
        else:
            self.on_device = None

    def check_options(self) -> None:
        """Raises a `ValueError` if the loss needs classes that are denied."""
        if self.args.loss not in CAPTION_LOSSES:
            raise ValueError(
                f"`loss` is {self.args.loss!r}, and captions deny no class: choose one of {', '.join(CAPTION_LOSSES)}."
            )

    def read_train(self, data: Any, holds_out: bool) -> tuple[CaptionFeatures, CaptionFeatures | None]:
        """Training captions with templates, and held-out captions.

        Args:
            data: as the trainer's `train_dataset`, or [`CaptionFeatures`].
            holds_out (`bool`): whether `args.validation_size` captions are held out.

        Returns:
            `tuple[CaptionFeatures, CaptionFeatures | None]`.

        Raises:
            ValueError: If no caption mentions a class, or all would be held out.
        """
        kept = data if isinstance(data, CaptionFeatures) else None
        captions, labels = self._read_labelled(data, self._limit(data)) if kept is None else self._check_features(kept)
        is_held_out = np.zeros(len(captions), dtype=bool)  # (captions,)
        if holds_out:
            is_held_out = _hold_out(captions, self.args.validation_size, self.seed)
            if is_held_out.all():
                size = self.args.validation_size
                raise ValueError(f"`validation_size={size}` holds out all {len(set(captions))} captions: lower it.")
        learned, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
        self.corpus_labels = labels[learned]  # (learned, classes)
        learned, held_out = self._sample(learned, held_out)
        if kept is None:
            rows = np.sort(
                np.concatenate([learned, held_out])
            )  # (read,) in the order of the corpus, as they are cached
            kept = self._encode([captions[row] for row in rows], labels[rows])
            learned, held_out = np.searchsorted(rows, learned), np.searchsorted(rows, held_out)
        features = kept.select(learned)
        share = kept.select(held_out) if len(held_out) else None
        self.sources = [Path(data).name] if isinstance(data, (str, Path)) else []
        hint = " Their prompts remain templates; synonyms help, in a table as {'couch': ['sofa', 'settee']}."
        self.warn_of_absent_classes(features.labels, "No training caption mentions", hint)
        self.train_captions = features
        if self.args.add_templates:
            sentences, one_hot = template_sentences(self.model.config.class_names, self.model.config.language)
            features = features.join(self._encode(sentences, one_hot))
        return features, share

    def _check_features(self, features: CaptionFeatures) -> tuple[list[int], np.ndarray]:
        """Of captions that are encoded what tells equal ones, and their labels `(captions, classes)`."""
        if features.labels.shape[1] != len(self.labels):
            raise ValueError(
                f"The captions have {features.labels.shape[1]} labels each and the model {len(self.labels)}: encode "
                "them with labels of the model, in its order."
            )
        return features.rows.tolist(), features.labels

    def _sample(self, learned: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows to learn from `(learned,)` and to measure on `(held out,)`, fewer where the corpus is large."""
        drawn = learned[sample_captions(self.corpus_labels, self.limit, self.seed)]  # (drawn,)
        if len(drawn) < len(learned):
            logger.warning(
                f"Learning from {len(drawn):,} of {len(learned):,} captions, drawn by class: {self.limit:,} of each, "
                "all of rarer ones. More would take longer to encode and hardly serve a run of so many steps; "
                "`max_captions_per_class` says how many."
            )
            most = max(LEAST_HELD_OUT, round(len(held_out) * len(drawn) / len(learned)))
            order = np.random.default_rng(self.seed).permutation(len(held_out))  # (held out,)
            held_out = np.sort(held_out[order[:most]])
        return drawn, held_out

    def describe(self) -> dict[str, Any]:
        """What was learned from, ready for JSON: numbers of captions, their sources, how many mention each class."""
        features, labels = self.train_captions, self.corpus_labels
        learned = 0 if features is None else len(features)
        return {
            "captions": learned,
            **({"corpus_captions": len(labels)} if learned < len(labels) else {}),
            "held_out": self.held_out,
            "sources": self.sources,
            "labeling": "the labels in the data" if self.args.label_column else f"{self.args.labeling_method!r}",
            "per_class": self.count_classes(labels),
        }

    def read_eval(self, data: Any) -> CaptionFeatures:
        """Features of captions to evaluate on."""
        if isinstance(data, CaptionFeatures):
            self._check_features(data)
            return data
        return self._encode(*self._read_labelled(data, None))

    def _read_labelled(self, data: Any, limit: int | None) -> tuple[list[str], np.ndarray]:
        """Captions that name a class, and their labels `(captions, classes)`."""
        table = read_captions(data, self.args.caption_column, self.args.label_column, limit)
        if table.labels is None:
            labels = label_captions(self.labeler, table.captions, self.labels)  # (captions, classes)
        else:
            labels = multi_hot(table.labels, self.labels, table.source, table.class_names)  # (captions, classes)
        labelled = np.flatnonzero(labels.any(axis=1))  # (labelled captions,)
        if len(labelled) < len(table.captions):
            logger.warning(
                f"{len(labelled):,} of {len(table.captions):,} captions of {table.source} mention a class; "
                f"{len(table.captions) - len(labelled):,} are dropped."
            )
        if not len(labelled):
            raise ValueError(
                f"None of the {len(table.captions)} captions of {table.source} mentions one of the {len(self.labels)} "
                f"classes ({', '.join(self.labels[:3])} ...): give the labeler synonyms, or other captions."
            )
        return [table.captions[index] for index in labelled], labels[labelled]

    def _limit(self, data: Any) -> int | None:
        """How many captions are read; a stream may have no end."""
        is_stream = isinstance(data, (datasets.IterableDataset, IterableDataset))
        if self.args.max_captions is not None or not is_stream or self.args.max_steps <= 0:
            return self.args.max_captions
        args = self.args
        return args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size

    def _encode(self, captions: list[str], labels: np.ndarray) -> CaptionFeatures:
        return CaptionFeatures.encode(
            self.model,
            captions,
            labels,
            tokenizer=self.tokenizer,
            cache_dir=self.args.feature_cache_dir,
            dtype=self.args.feature_dtype,
            bf16=self.args.bf16,
            progress=not self.args.disable_tqdm,
        )


def _hold_out(captions: Sequence[str], size: float, seed: int) -> np.ndarray:
    """Which captions are held out `(captions,)`: equal ones are all held out or all kept."""
    distinct = list(dict.fromkeys(captions))
    count = round(size * len(distinct)) if size < 1 else int(size)
    if size > 0:
        count = max(1, min(count, len(distinct)))
    order = np.random.default_rng(seed).permutation(len(distinct))  # (distinct captions,)
    held_out = {distinct[index] for index in order[:count]}
    return np.fromiter((caption in held_out for caption in captions), dtype=bool, count=len(captions))


__all__ = ["TrainingCaptions"]
