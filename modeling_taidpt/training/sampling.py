"""Which captions of a large corpus are learned from: so many of each class, all of the rare ones.

A run of so many steps sees so many captions. What a corpus holds beyond that is encoded in vain, and encoding is most
of the time that a run takes on a CPU.
"""

from __future__ import annotations

import numpy as np

from ..captions.statistics import class_counts, select_by_rarest_class
from .arguments import TaiDptTrainingArguments

AUTO = "auto"
VIEWS = 4  # how often a caption is seen at least in a run, where a corpus is larger than it needs
LEAST_PER_CLASS = 1000
LEAST_HELD_OUT = 2000  # captions, where so many are held out


def caption_limit(limit: int | str | None, args: TaiDptTrainingArguments, classes: int) -> int | None:
    """How many captions of a class are learned from.

    Args:
        limit (`int` or `"auto"`, *optional*): as the user chose it.
        args ([`TaiDptTrainingArguments`]): steps and batches of the run.
        classes (`int`): number of classes.

    Returns:
        `int`, *optional*: `None` for all. Of `"auto"` a run of so many steps sees each caption about four times, and
        it is at least 1,000; a run of epochs takes all captions.

    Raises:
        ValueError: If it is something else than a positive whole number, `"auto"` or `None`.
    """
    if limit is None:
        return None
    if limit == AUTO:
        seen = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return max(LEAST_PER_CLASS, seen // VIEWS // classes) if args.max_steps > 0 else None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"`max_captions_per_class` is {limit!r}: give a whole number, at least 1, 'auto', or None.")
    return limit


def sample_captions(labels: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    """Draws captions by class: each is given to the rarest class that it mentions, and a class keeps so many.

    So a class of at most `limit` captions keeps all of them.

    Args:
        labels (`np.ndarray` of shape `(captions, classes)`): multi-hot labels; each caption has one.
        limit (`int`, *optional*): captions given to a class; `None` keeps all.
        seed (`int`): draws them.

    Returns:
        `np.ndarray` of shape `(kept,)`: indices, rising.
    """
    if limit is None or not len(labels) or class_counts(labels).max() <= limit:
        return np.arange(len(labels))
    return select_by_rarest_class(labels, limit, seed)


__all__ = ["AUTO", "caption_limit", "sample_captions"]
