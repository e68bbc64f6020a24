"""Class embeddings in chunks of classes, so that learning many classes needs memory for one chunk only.

The prompts of all classes go through the text tower in every step, and the backward pass wants their activations. Few
classes keep them. Of many, each chunk's are dropped and computed again when the backward pass comes to it: gradient
checkpointing (Chen et al., 2016, arXiv 1604.06174) over classes instead of layers. The class embeddings, the loss and
the gradient are the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

KEPT_CLASSES = 1024  # up to so many classes keep their activations
CACHE_CHUNK, DEVICE_CHUNK = 256, 1024  # classes at a time: what a CPU's caches serve best, what fills other devices


def encode_chunks(
    encode: Callable[[range], torch.Tensor],
    count: int,
    device: torch.device,
    chunk_size: int | None = None,
    recompute: bool = False,
) -> list[torch.Tensor]:
    """Encodes classes chunk by chunk, with gradients.

    Args:
        encode (`Callable`): gives the embeddings `(2, chunk, dim)` of a range of classes.
        count (`int`): number of classes.
        device (`torch.device`): where they are encoded.
        chunk_size (`int`, *optional*): classes at a time, computed again in the backward pass; by default they are if
            there are more than `KEPT_CLASSES`. As many as there are classes keeps everything, in one pass.
        recompute (`bool`, *optional*, defaults to `False`): computes every chunk again, however few classes there are.

    Returns:
        `list[torch.Tensor]`: embeddings `(2, chunk, dim)` of all chunks.

    Raises:
        ValueError: If the chunk size is below 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"`prompt_chunk_size` is {chunk_size}: give a number of classes, at least 1.")
    default = CACHE_CHUNK if device.type == "cpu" else DEVICE_CHUNK
    if recompute or (count > KEPT_CLASSES if chunk_size is None else chunk_size < count):
        return _encode_twice(encode, split_classes(count, chunk_size or default))
    # A compiler would write every chunk out, and it blocks loops for the caches itself.
    whole = chunk_size is not None or torch.compiler.is_compiling()
    return [encode(piece) for piece in split_classes(count, count if whole else default)]


def split_classes(count: int, size: int) -> list[range]:
    """All classes in ranges of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@torch.compiler.disable(recursive=False)  # what it calls is compiled once for all chunks
def _encode_twice(encode: Callable[[range], torch.Tensor], pieces: list[range]) -> list[torch.Tensor]:
    """Embeddings `(2, chunk, dim)` of each piece; their activations are dropped. Nothing is drawn at random there."""
    return [checkpoint(encode, piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]


__all__ = ["encode_chunks", "split_classes"]
