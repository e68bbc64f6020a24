"""Class embeddings in chunks of classes, so that learning many classes needs memory for one chunk only.

The prompts of all classes go through the text tower in every step, and the backward pass wants their activations. Few
classes keep them. Many are encoded without, and each chunk once more when the backward pass comes to it: gradient
checkpointing (Chen et al., 2016, arXiv 1604.06174) over classes instead of layers, as the gradient cache of
contrastive learning does it over a batch (Gao et al., 2021, arXiv 2101.06983). Loss and gradient are the same but for
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.autograd.function import once_differentiable

KEPT_CLASSES = 1024  # up to so many classes keep their activations
CACHE_CHUNK, DEVICE_CHUNK = 256, 512  # classes at a time: what a CPU's caches serve best, what fills other devices


def encode_chunks(
    encode: Callable[[range], torch.Tensor],
    count: int,
    learned: Sequence[torch.Tensor],
    chunk_size: int | None = None,
    recompute: bool = False,
) -> torch.Tensor:
    """Encodes classes chunk by chunk, with gradients.

    Args:
        encode (`Callable`): gives the embeddings `(2, chunk, dim)` of a range of classes.
        count (`int`): number of classes.
        learned (`Sequence[torch.Tensor]`): the context vectors, and all other parameters that may want gradients.
        chunk_size (`int`, *optional*): classes at a time, computed again in the backward pass; by default they are if
            there are more than `KEPT_CLASSES`. As many as there are classes keeps everything, in one pass.
        recompute (`bool`, *optional*, defaults to `False`): computes every chunk again, however few classes there are.

    Returns:
        `torch.Tensor` of shape `(2, classes, dim)`.

    Raises:
        ValueError: If the chunk size is below 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"`prompt_chunk_size` is {chunk_size}: give a number of classes, at least 1.")
    default = CACHE_CHUNK if learned[0].device.type == "cpu" else DEVICE_CHUNK
    if recompute or (count > KEPT_CLASSES if chunk_size is None else chunk_size < count):
        return _encode_twice(encode, split_classes(count, chunk_size or default), learned)
    # A compiler would write every chunk out, and it blocks loops for the caches itself.
    whole = chunk_size is not None or torch.compiler.is_compiling()
    parts = [encode(piece) for piece in split_classes(count, count if whole else default)]
    return torch.cat(parts, dim=1)  # (2, classes, dim)


def split_classes(count: int, size: int) -> list[range]:
    """All classes in ranges of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@torch.compiler.disable  # chunks differ in shape, and the backward pass is not compiled with them
def _encode_twice(
    encode: Callable[[range], torch.Tensor], pieces: list[range], learned: Sequence[torch.Tensor]
) -> torch.Tensor:
    with torch.no_grad():
        embeddings = torch.cat([encode(piece) for piece in pieces], dim=1)  # (2, classes, dim)
    return recompute_gradients(embeddings, encode, pieces, learned)


def recompute_gradients(
    embeddings: torch.Tensor,
    encode: Callable[[range], torch.Tensor],
    pieces: list[range],
    learned: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Embeddings that are there already, with the gradients of encoding them again, piece by piece.

    Args:
        embeddings (`torch.Tensor` of shape `(2, classes, dim)`): what `encode` gives.
        encode (`Callable`): gives the embeddings `(2, piece, dim)` of a range of classes; draws nothing at random.
        pieces (`list[range]`): all classes, in order.
        learned (`Sequence[torch.Tensor]`): the context vectors, and all other parameters that may want gradients.

    Returns:
        `torch.Tensor` of shape `(2, classes, dim)`.
    """
    return _Recomputed.apply(embeddings, encode, pieces, *learned)


class _Recomputed(torch.autograd.Function):
    """Given embeddings going forward, the gradients of a fresh computation going back."""

    @staticmethod
    def forward(ctx, embeddings, encode, pieces, *learned):
        ctx.encode, ctx.pieces, ctx.learned = encode, pieces, learned
        kind = embeddings.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        ctx.autocast = {"device_type": kind, "enabled": enabled, "dtype": dtype}
        return embeddings.clone()  # (2, classes, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        wanted = [parameter for parameter in ctx.learned if parameter.requires_grad]
        totals = [torch.zeros_like(parameter) for parameter in wanted]
        for piece in ctx.pieces:
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                embeddings = ctx.encode(piece)  # (2, piece, dim)
            grads = grad[:, piece.start : piece.stop]  # (2, piece, dim)
            parts = torch.autograd.grad(embeddings, wanted, grads, allow_unused=True)
            for total, part in zip(totals, parts, strict=True):
                if part is not None:
                    total += part
        grads = iter(totals)
        return (None, None, None, *(next(grads) if parameter.requires_grad else None for parameter in ctx.learned))


# Models whose class embeddings are computed once in the blocks that are open, each with what was computed. A context
# variable belongs to one thread (or task): no other one sees it.
_OPEN: ContextVar[dict[int, dict[tuple, torch.Tensor]]] = ContextVar("cached class embeddings", default={})  # noqa: B039


@contextmanager
def cached_class_embeddings(model: Any) -> Iterator[None]:
    """The block behind [`TaiDptModel.cached_class_embeddings`]."""
    token = _OPEN.set({**_OPEN.get(), id(model): {}})
    try:
        yield
    finally:
        _OPEN.reset(token)


def has_open_block(model: Any) -> bool:
    """Whether the class embeddings of a model are held by a block that is open in this thread."""
    return id(model) in _OPEN.get()


def get_or_compute(model: Any, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Class embeddings of a model: those of an open block, else computed, with gradients.

    Args:
        model ([`TaiDptModel`]): the model.
        compute (`Callable[[], torch.Tensor]`): gives the embeddings `(2, classes, dim)`.

    Returns:
        `torch.Tensor` of shape `(2, classes, dim)`: from an open block without gradients.
    """
    # Compilers cannot look context variables up; what they make computes anew.
    cached = None if torch.compiler.is_compiling() else _OPEN.get().get(id(model))
    if cached is None:
        return compute()
    kind = model.device.type
    key = (model.dtype, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
    if key not in cached:
        # normal tensors, whatever mode the first call in the block is in
        with torch.inference_mode(False), torch.no_grad():
            cached[key] = compute()  # (2, classes, dim)
    return cached[key]


__all__ = [
    "cached_class_embeddings",
    "encode_chunks",
    "get_or_compute",
    "has_open_block",
    "recompute_gradients",
    "split_classes",
]
