"""Frozen caption features: encoded once, cached in Arrow files, memory-mapped.

They depend on the text side of the CLIP, the tokenizer, the captions and the precision; see `cache.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..backbones import text_side
from ..captions.corpus import caption_texts
from .cache import FORMAT, Encoder, KeptFeatures, feature_cache_dir, write_missing
from .device import FeatureRows
from .fingerprints import corpus_fingerprint
from .prototypes import class_prototypes
from .shards import CAPTION_COLUMNS, FeatureShards

SHARD_SIZE = 8192  # captions per file; at 15 tokens of 512 dimensions, 250 MB in fp32


def default_cache_dir() -> Path:
    """Where features are cached unless told otherwise: beside the data sets, under `HF_HOME`."""
    return feature_cache_dir("caption")


class CaptionFeatures(KeptFeatures):
    """A data set of captions whose features a frozen CLIP has computed, with their labels.

    Make it with [`~CaptionFeatures.encode`]. An item is `{"caption_embeds": (dim,), "token_embeds": (length, dim),
    "labels": (classes,)}`; [`collate_features`] makes a batch of several.

    Args:
        shards (`FeatureShards`): features of distinct captions.
        rows (`np.ndarray` of shape `(captions,)`): the row of `shards` that each caption has.
        labels (`np.ndarray` of shape `(captions, classes)`): multi-hot labels.

    Example:
        >>> from modeling_taidpt import DEFAULT_CHECKPOINT, CaptionFeatures, CaptionLabeler, TaiDptModel
        >>> model = TaiDptModel.from_clip(DEFAULT_CHECKPOINT, labels=["dog", "cat"])
        >>> captions = ["A dog runs.", "A cat and a dog sleep."]
        >>> labels = CaptionLabeler(model.config.labels)(captions)  # (captions, classes)
        >>> features = CaptionFeatures.encode(model, captions, labels, progress=False)
        >>> features[0]["caption_embeds"].shape
        torch.Size([256])
    """

    kind: ClassVar[str] = "caption"
    columns: ClassVar[tuple[str, str]] = CAPTION_COLUMNS

    def __init__(self, shards: FeatureShards, rows: np.ndarray, labels: np.ndarray) -> None:
        """Keep the three.

        Raises:
            ValueError: If a label is neither 0 nor 1, or their number is not that of the captions.
        """
        super().__init__(shards, rows, labels)
        if self.labels.size and self.labels.max() > 1:
            row, column = np.argwhere(self.labels > 1)[0]
            raise ValueError(
                f"The label of caption {row} and class {column} is neither 0 nor 1: captions deny no class."
            )

    @classmethod
    def encode(
        cls,
        model: nn.Module,
        captions: Sequence[str],
        labels: np.ndarray,
        tokenizer: PreTrainedTokenizerBase | None = None,
        cache_dir: str | Path | None = None,
        dtype: str = "float32",
        batch_size: int | None = None,
        bf16: bool = False,
        shard_size: int = SHARD_SIZE,
        progress: bool = True,
    ) -> CaptionFeatures:
        """Encodes captions with the text side of a model, or opens what an earlier call has cached.

        Args:
            model ([`TaiDptModel`]): its frozen CLIP encodes; equal captions are encoded once.
            captions (`Sequence[str]` or what [`read_captions`] reads): the captions; what is longer than the text
                tower is cut, its end token kept.
            labels (`np.ndarray` of shape `(captions, classes)`): multi-hot labels.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): the model's own by default.
            cache_dir (`str`, *optional*): [`default_cache_dir`] by default.
            dtype (`str`, *optional*, defaults to `"float32"`): precision in the cache.
            batch_size (`int`, *optional*): captions of similar length encoded at a time; by default 128 on a CPU and
                1,024 on a GPU.
            bf16 (`bool`, *optional*, defaults to `False`): whether matrix products are computed in bfloat16.
            shard_size (`int`, *optional*): captions per file.
            progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

        Returns:
            [`CaptionFeatures`]: memory-mapped.
        """
        tokenizer = model.get_tokenizer(tokenizer)
        captions = caption_texts(captions)
        distinct = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        rows = np.fromiter((distinct[caption] for caption in captions), dtype=np.int64, count=len(captions))
        texts = list(distinct)
        settings = f"format {FORMAT}, {dtype}, {'bf16' if bf16 else 'full'}, {shard_size} captions a file"
        folder = Path(cache_dir or default_cache_dir()) / corpus_fingerprint(model, tokenizer, texts, settings)
        if batch_size is None:
            batch_size = 128 if model.device.type == "cpu" else 1024
        encoder = _CaptionEncoder(model, tokenizer, dtype, batch_size, bf16)
        return cls(write_missing(encoder, texts, folder, shard_size, progress, cls.kind), rows, labels)

    def __getitems__(self, indices: Sequence[int]) -> FeatureRows:
        """Return the items of a batch, which are read when they are looked at."""
        return FeatureRows(self, indices)

    def class_prototypes(
        self, max_captions: int | None = None, seed: int = 0, centering: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean global feature of the captions that mention each class; see `prototypes.class_prototypes`."""
        return class_prototypes(self, max_captions, seed, centering)


def collate_features(
    items: Sequence[dict[str, torch.Tensor]], pad_to_multiple_of: int | None = None
) -> dict[str, torch.Tensor]:
    """Makes a batch, padded to its longest caption.

    Args:
        items (`Sequence[dict]`): items of [`CaptionFeatures`].
        pad_to_multiple_of (`int`, *optional*): pads on to a multiple of this length, so that batches have few shapes.

    Returns:
        `dict[str, torch.Tensor]`: `caption_embeds` `(batch, dim)` and `token_embeds` `(batch, length, dim)` in fp32,
        zero where padded, `attention_mask` `(batch, length)`, `labels` `(batch, classes)`.
    """
    lengths = torch.tensor([len(item["token_embeds"]) for item in items])  # (batch,)
    token_embeds = nn.utils.rnn.pad_sequence([item["token_embeds"] for item in items], batch_first=True)
    missing = -token_embeds.shape[1] % (pad_to_multiple_of or 1)
    if missing:
        token_embeds = nn.functional.pad(token_embeds, (0, 0, 0, missing))  # (batch, length, dim)
    return {
        "caption_embeds": torch.stack([item["caption_embeds"] for item in items]).float(),  # (batch, dim)
        "token_embeds": token_embeds.float(),  # (batch, length, dim)
        "attention_mask": (torch.arange(token_embeds.shape[1]) < lengths[:, None]).long(),  # (batch, length)
        "labels": torch.stack([item["labels"] for item in items]).float(),  # (batch, classes)
    }


class _CaptionEncoder(Encoder):
    """Encodes texts with a frozen CLIP, those of similar length together."""

    columns = CAPTION_COLUMNS

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, dtype: str, batch_size: int, bf16: bool
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.dtype, self.batch_size, self.bf16 = getattr(torch, dtype), batch_size, bf16
        self.max_length = min(tokenizer.model_max_length, text_side(model.clip).max_length)

    def __call__(self, texts: list[str], bar: tqdm) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Global `(dim,)` and token `(length, dim)` features of each text, in the cache's precision."""
        ids = self.tokenizer(texts, truncation=True, max_length=self.max_length, verbose=False)["input_ids"]
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        features: list[tuple[torch.Tensor, torch.Tensor]] = [None] * len(ids)  # type: ignore[list-item]
        for start in range(0, len(order), self.batch_size):
            members = order[start : start + self.batch_size]
            rows = {"input_ids": [ids[index] for index in members]}
            options = {"padding_side": "right", "return_attention_mask": True}
            batch = self.tokenizer.pad(rows, return_tensors="pt", **options)
            pooled, tokens = self._encode(batch["input_ids"], batch["attention_mask"])
            for place, index in enumerate(members):
                # one token at least: towers without start and end see an empty text as one of padding
                features[index] = (pooled[place], tokens[place, : max(len(ids[index]), 1)])
            bar.update(len(members))
        return features

    @torch.inference_mode()
    def _encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            pooled, tokens = self.model.encode_captions(input_ids, attention_mask)
        return pooled.to("cpu", self.dtype), tokens.to("cpu", self.dtype)  # (batch, dim), (batch, length, dim)


__all__ = ["SHARD_SIZE", "CaptionFeatures", "collate_features", "default_cache_dir"]
