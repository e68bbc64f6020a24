"""Kept caption features in the memory of a device, gathered there batch by batch.

The features of COCO's 118,287 captions take 2 to 4 GB. Where the device has room for them, a batch goes there as row
numbers and a mask: a step then waits for no gathering on the host and for no copy of features.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .shards import FeatureShards, read_shard

ROWS = "feature_rows"  # what stands in a batch for the features themselves


class FeatureRows(Sequence):
    """The items of a batch, read when one of them is looked at, and once; reads as the list of them.

    Args:
        features (`KeptFeatures`): the data set.
        indices (`Sequence[int]`): its items.
    """

    def __init__(self, features: Any, indices: Sequence[int]) -> None:
        """Keep both."""
        self.features, self.indices = features, indices

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.indices)

    def __getitem__(self, place: Any) -> Any:
        """Return one item, or a list of them for a slice."""
        return self._items[place]

    @functools.cached_property
    def _items(self) -> list[dict[str, torch.Tensor]]:
        return [self.features[index] for index in self.indices]


class DeviceFeatures:
    """Features of the captions of several data sets on a device, every file once.

    Args:
        parts (`Sequence[FeatureShards]`): the files of the data sets.
        device (`torch.device`): where they are held, in the files' precision.
    """

    def __init__(self, parts: Sequence[FeatureShards], device: torch.device) -> None:
        """Copy the files to the device."""
        counts = {path: count for part in parts for path, count in zip(part.paths, part.counts, strict=True)}
        ends = np.cumsum(list(counts.values()))  # (files,)
        self._starts = {path: int(end) - count for (path, count), end in zip(counts.items(), ends, strict=True)}
        shards = [read_shard(path) for path in counts]  # mapped, not read
        self._lengths = np.concatenate([np.diff(shard.offsets) for shard in shards])  # (rows,)
        some, tokens = shards[0].pooled, int(self._lengths.sum())  # (rows of a file, dim)
        self.pooled = torch.empty(len(self._lengths), some.shape[1], dtype=some.dtype, device=device)  # (rows, dim)
        self.tokens = torch.empty(tokens, some.shape[1], dtype=some.dtype, device=device)  # (tokens, dim)
        row = token = 0
        for shard in shards:
            self.pooled[row : row + len(shard.pooled)].copy_(shard.pooled)
            self.tokens[token : token + len(shard.dense)].copy_(shard.dense)
            row, token = row + len(shard.pooled), token + len(shard.dense)
        begins = self._lengths.cumsum(dtype=np.int64) - self._lengths  # (rows,)
        self.begins = torch.from_numpy(begins).to(device)  # (rows,) place of the first token

    def holds(self, shards: FeatureShards) -> bool:
        """Whether all files of a data set are here."""
        return all(path in self._starts for path in shards.paths)

    def batch(self, items: FeatureRows, pad_to_multiple_of: int | None = None) -> dict[str, torch.Tensor]:
        """What goes to the device in the place of a batch of features; made on the host.

        Args:
            items ([`FeatureRows`]): items of a data set that is held.
            pad_to_multiple_of (`int`, *optional*): as in [`collate_features`].

        Returns:
            `dict[str, torch.Tensor]`: `feature_rows` `(batch,)`, `attention_mask` `(batch, length)`, `labels`
            `(batch, classes)`.
        """
        features, indices = items.features, np.asarray(items.indices)  # (batch,)
        shards: FeatureShards = features.shards
        ends = np.cumsum(shards.counts)  # (files,)
        shifts = np.array([self._starts[path] for path in shards.paths]) - (ends - shards.counts)  # (files,)
        rows = features.rows[indices]  # (batch,)
        rows = rows + shifts[np.searchsorted(ends, rows, side="right")]  # (batch,)
        lengths = self._lengths[rows]  # (batch,)
        longest = int(lengths.max())
        longest += -longest % (pad_to_multiple_of or 1)
        return {
            ROWS: torch.from_numpy(rows),  # (batch,)
            "attention_mask": torch.from_numpy(np.arange(longest) < lengths[:, None]).long(),  # (batch, length)
            "labels": torch.from_numpy(features.labels[indices]).float(),  # (batch, classes)
        }

    def gather(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch of features, as [`collate_features`] makes it, from what [`~DeviceFeatures.batch`] made.

        Args:
            inputs (`dict`): on the device; of anything else nothing is changed.

        Returns:
            `dict`: the batch; the host waits for nothing.
        """
        if ROWS not in inputs:
            return inputs
        rows, mask = inputs[ROWS], inputs["attention_mask"].bool()  # (batch,), (batch, length)
        places = self.begins[rows, None] + torch.arange(mask.shape[1], device=mask.device)  # (batch, length)
        tokens = self.tokens[places.masked_fill(~mask, 0)].float()  # (batch, length, dim)
        return {
            "caption_embeds": self.pooled[rows].float(),  # (batch, dim)
            "token_embeds": tokens.masked_fill_(~mask[:, :, None], 0),  # (batch, length, dim)
            **{name: value for name, value in inputs.items() if name != ROWS},
        }

    def __getstate__(self) -> dict:
        """Leave what is on the device out: a loader's worker needs lengths alone."""
        return {name: value for name, value in vars(self).items() if not torch.is_tensor(value)}


def fits_device(parts: Sequence[FeatureShards], device: torch.device) -> bool:
    """Whether a GPU has room: the files of the data sets take at most half of its free memory."""
    if device.type != "cuda":
        return False
    size = sum(path.stat().st_size for path in {path for part in parts for path in part.paths})
    return 2 * size <= torch.cuda.mem_get_info(device)[0]


__all__ = ["DeviceFeatures", "FeatureRows", "fits_device"]
