"""Frozen caption features: encoded once, kept in Arrow files, memory-mapped.

The cache is a folder per corpus, named by a fingerprint of everything that the features depend on: the text side of
the CLIP, the tokenizer, the captions and the precision. It holds one file per `SHARD_SIZE` captions; each is written
under another name and renamed when it is whole, so an encoding that was killed goes on after its last whole file.
Labels are not kept: they may change without the features changing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from filelock import FileLock
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .feature_shards import FeatureShards, read_shard, write_shard
from .fingerprints import corpus_fingerprint

logger = logging.get_logger(__name__)

SHARD_SIZE = 8192  # captions per file; at 15 tokens of 512 dimensions, 250 MB in fp32
FORMAT = 1  # of the files, part of the fingerprint


def default_cache_dir() -> Path:
    """Where features are kept unless told otherwise: beside the data sets, under `HF_HOME`."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "taidpt_caption_features"


class CaptionFeatures(torch.utils.data.Dataset):
    """A data set of captions whose features a frozen CLIP has computed, with their labels.

    Make it with [`~CaptionFeatures.encode`]. An item is `{"caption_embeds": (dim,), "token_embeds": (length, dim),
    "labels": (classes,)}`; [`collate_features`] makes a batch of several.

    Args:
        shards (`FeatureShards`): features of distinct captions.
        rows (`np.ndarray` of shape `(captions,)`): the row of `shards` that each caption has.
        labels (`np.ndarray` of shape `(captions, classes)`): multi-hot labels.
    """

    def __init__(self, shards: FeatureShards, rows: np.ndarray, labels: np.ndarray) -> None:
        """Keep the three."""
        if len(rows) != len(labels):
            raise ValueError(f"There are {len(rows)} captions and {len(labels)} rows of labels: give one per caption.")
        self.shards = shards
        self.rows = np.asarray(rows, dtype=np.int64)  # (captions,)
        self.labels = np.asarray(labels, dtype=np.uint8)  # (captions, classes)

    @classmethod
    def encode(
        cls,
        model: nn.Module,
        captions: Sequence[str],
        labels: np.ndarray,
        tokenizer: PreTrainedTokenizerBase | None = None,
        cache_dir: str | Path | None = None,
        dtype: str = "float32",
        batch_size: int = 128,
        bf16: bool = False,
        shard_size: int = SHARD_SIZE,
        progress: bool = True,
    ) -> CaptionFeatures:
        """Encodes captions with the text side of a model, or opens what an earlier call has kept.

        Args:
            model ([`TaiDptModel`]): its frozen CLIP encodes; equal captions are encoded once.
            captions (`Sequence[str]`): the captions; what is longer than the text tower is cut, its end token kept.
            labels (`np.ndarray` of shape `(captions, classes)`): multi-hot labels.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): the model's own by default.
            cache_dir (`str`, *optional*): [`default_cache_dir`] by default.
            dtype (`str`, *optional*, defaults to `"float32"`): precision in the cache.
            batch_size (`int`, *optional*, defaults to 128): captions of similar length encoded at a time.
            bf16 (`bool`, *optional*, defaults to `False`): whether matrix products are computed in bfloat16.
            shard_size (`int`, *optional*): captions per file.
            progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

        Returns:
            [`CaptionFeatures`]: memory-mapped.
        """
        tokenizer = model.get_tokenizer(tokenizer)
        distinct = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        rows = np.fromiter((distinct[caption] for caption in captions), dtype=np.int64, count=len(captions))
        texts = list(distinct)
        settings = f"format {FORMAT}, {dtype}, {'bf16' if bf16 else 'full'}, {shard_size} captions a file"
        folder = Path(cache_dir or default_cache_dir()) / corpus_fingerprint(model, tokenizer, texts, settings)
        encoder = _Encoder(model, tokenizer, dtype, batch_size, bf16)
        paths = _encode_missing(encoder, texts, folder, shard_size, progress)
        counts = [len(texts[start : start + shard_size]) for start in range(0, len(texts), shard_size)]
        return cls(FeatureShards(paths, counts), rows, labels)

    def __len__(self) -> int:
        """Return the number of captions."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return the features and labels of one caption."""
        caption_embeds, token_embeds = self.shards[int(self.rows[index])]
        labels = torch.from_numpy(self.labels[index])  # (classes,)
        return {"caption_embeds": caption_embeds, "token_embeds": token_embeds, "labels": labels}

    def select(self, indices: Sequence[int] | np.ndarray) -> CaptionFeatures:
        """The captions at `indices`, on the same files."""
        indices = np.asarray(indices, dtype=np.int64)
        return CaptionFeatures(self.shards, self.rows[indices], self.labels[indices])

    def join(self, other: CaptionFeatures) -> CaptionFeatures:
        """These captions, then those of `other`."""
        rows = np.concatenate([self.rows, other.rows + len(self.shards)])  # (captions of both,)
        labels = np.concatenate([self.labels, other.labels])  # (captions of both, classes)
        return CaptionFeatures(self.shards.join(other.shards), rows, labels)

    def class_prototypes(
        self, max_captions: int | None = None, seed: int = 0, centering: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean global feature of the captions that name each class.

        Args:
            max_captions (`int`, *optional*): most captions per class, drawn with the seed.
            seed (`int`, *optional*, defaults to 0): seed of the draw.
            centering (`float`, *optional*, defaults to 0.0): how much of the normalised mean of all these captions is
                taken off each prototype; what all captions share says nothing about a class.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: prototypes `(classes, dim)`, L2-normalised fp32, zero for a class that
            no caption names; and whether some caption does `(classes,)`.
        """
        chosen = self.labels.astype(bool)  # (captions, classes)
        if max_captions is not None:
            generator = np.random.default_rng(seed)
            for column in np.flatnonzero(chosen.sum(axis=0) > max_captions):
                members = np.flatnonzero(chosen[:, column])
                chosen[:, column] = False
                chosen[generator.choice(members, max_captions, replace=False), column] = True
        used = np.flatnonzero(chosen.any(axis=1))  # (used captions,)
        sums = torch.zeros(chosen.shape[1], self.shards.dim, dtype=torch.float64)  # (classes, dim)
        total = torch.zeros(self.shards.dim, dtype=torch.float64)  # (dim,)
        for start in range(0, len(used), SHARD_SIZE):
            block = used[start : start + SHARD_SIZE]
            features = torch.stack([self.shards[int(row)][0] for row in self.rows[block]])  # (block, dim)
            sums += torch.from_numpy(chosen[block]).double().T @ features.double()  # (classes, dim)
            total += features.double().sum(dim=0)  # (dim,)
        present = torch.from_numpy(chosen.any(axis=0))  # (classes,)
        prototypes = nn.functional.normalize(sums, dim=-1)  # (classes, dim)
        shared = centering * nn.functional.normalize(total, dim=-1) * present[:, None]  # (classes, dim)
        return nn.functional.normalize(prototypes - shared, dim=-1).float(), present


def collate_features(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Makes a batch, padded to its longest caption.

    Args:
        items (`Sequence[dict]`): items of [`CaptionFeatures`].

    Returns:
        `dict[str, torch.Tensor]`: `caption_embeds` `(batch, dim)` and `token_embeds` `(batch, length, dim)` in fp32,
        zero where padded, `attention_mask` `(batch, length)`, `labels` `(batch, classes)`.
    """
    lengths = torch.tensor([len(item["token_embeds"]) for item in items])  # (batch,)
    token_embeds = nn.utils.rnn.pad_sequence([item["token_embeds"] for item in items], batch_first=True)
    return {
        "caption_embeds": torch.stack([item["caption_embeds"] for item in items]).float(),  # (batch, dim)
        "token_embeds": token_embeds.float(),  # (batch, length, dim)
        "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),  # (batch, length)
        "labels": torch.stack([item["labels"] for item in items]).float(),  # (batch, classes)
    }


class _Encoder:
    """Encodes texts with a frozen CLIP, those of similar length together."""

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, dtype: str, batch_size: int, bf16: bool
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.dtype, self.batch_size, self.bf16 = getattr(torch, dtype), batch_size, bf16
        text_config = model.config.clip_config.text_config
        self.max_length = min(tokenizer.model_max_length, text_config.max_position_embeddings)

    def __call__(self, texts: list[str], bar: tqdm) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Global `(dim,)` and token `(length, dim)` features of each text, in the cache's precision."""
        ids = self.tokenizer(texts, truncation=True, max_length=self.max_length, verbose=False)["input_ids"]
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        features: list[tuple[torch.Tensor, torch.Tensor]] = [None] * len(ids)  # type: ignore[list-item]
        for start in range(0, len(order), self.batch_size):
            members = order[start : start + self.batch_size]
            batch = self.tokenizer.pad({"input_ids": [ids[index] for index in members]}, return_tensors="pt")
            pooled, tokens = self._encode(batch["input_ids"], batch["attention_mask"])
            for place, index in enumerate(members):
                features[index] = (pooled[place], tokens[place, : len(ids[index])])
            bar.update(len(members))
        return features

    @torch.inference_mode()
    def _encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            pooled, tokens = self.model.encode_captions(input_ids, attention_mask)
        return pooled.to("cpu", self.dtype), tokens.to("cpu", self.dtype)  # (batch, dim), (batch, length, dim)


def _encode_missing(encoder: _Encoder, texts: list[str], folder: Path, shard_size: int, progress: bool) -> list[Path]:
    """Writes the files of a corpus that are not there yet; one process at a time works on a corpus."""
    starts = range(0, len(texts), shard_size)
    paths = [folder / f"captions-{number:05d}-of-{len(starts):05d}.arrow" for number in range(len(starts))]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        for leftover in folder.glob("*.tmp"):  # of an encoding that was killed
            leftover.unlink(missing_ok=True)
        missing = [
            (path, texts[start : start + shard_size])
            for path, start in zip(paths, starts, strict=True)
            if not _is_whole(path, len(texts[start : start + shard_size]))
        ]
        if not missing:
            logger.info(f"Caption features of {len(texts)} captions are taken from {folder}.")
            return paths
        total = sum(len(part) for _, part in missing)
        logger.info(f"Encoding {total} captions into {folder}.")
        with tqdm(total=total, desc="Encoding captions", unit="caption", disable=not progress) as bar:
            for path, part in missing:
                write_shard(path, encoder(part, bar))
    return paths


def _is_whole(path: Path, count: int) -> bool:
    """Whether a file holds the features of `count` captions."""
    if not path.is_file() or os.path.getsize(path) == 0:
        return False
    try:
        return len(read_shard(path).offsets) == count + 1
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        logger.warning(f"The file {path} of the caption cache is damaged and is written again: {error}")
        return False


__all__ = ["SHARD_SIZE", "CaptionFeatures", "collate_features", "default_cache_dir"]
