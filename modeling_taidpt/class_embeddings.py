"""Class embeddings in chunks of classes, so that learning many classes needs memory for one chunk only.

The prompts of all classes go through the text tower in every step, and the backward pass wants their activations. Few
classes keep them. Many are encoded without, and each chunk once more when the backward pass comes to it: gradient
checkpointing (Chen et al., 2016, arXiv 1604.06174) over classes instead of layers, as the gradient cache of
contrastive learning does it over a batch (Gao et al., 2021, arXiv 2101.06983). Loss and gradient are the same but for
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.autograd.function import once_differentiable

KEPT_CLASSES = 1024  # up to so many classes keep their activations
CACHE_CHUNK, DEVICE_CHUNK = 256, 512  # classes at a time: what a CPU's caches serve best, what fills other devices


def encode_chunks(
    encode: Callable[[range], torch.Tensor],
    count: int,
    contexts: Sequence[torch.Tensor],
    chunk_size: int | None = None,
    recompute: bool = False,
) -> torch.Tensor:
    """Encodes classes chunk by chunk, with gradients.

    Args:
        encode (`Callable`): gives the embeddings `(2, chunk, dim)` of a range of classes.
        count (`int`): number of classes.
        contexts (`Sequence[torch.Tensor]`): the context vectors, the only parameters that may want gradients.
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
    default = CACHE_CHUNK if contexts[0].device.type == "cpu" else DEVICE_CHUNK
    if recompute or (count > KEPT_CLASSES if chunk_size is None else chunk_size < count):
        return _encode_twice(encode, split_classes(count, chunk_size or default), contexts)
    # A compiler would write every chunk out, and it blocks loops for the caches itself.
    whole = chunk_size is not None or torch.compiler.is_compiling()
    parts = [encode(piece) for piece in split_classes(count, count if whole else default)]
    return torch.cat(parts, dim=1)  # (2, classes, dim)


def split_classes(count: int, size: int) -> list[range]:
    """All classes in ranges of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@torch.compiler.disable  # chunks differ in shape, and the backward pass is not compiled with them
def _encode_twice(
    encode: Callable[[range], torch.Tensor], pieces: list[range], contexts: Sequence[torch.Tensor]
) -> torch.Tensor:
    with torch.no_grad():
        embeddings = torch.cat([encode(piece) for piece in pieces], dim=1)  # (2, classes, dim)
    return recompute_gradients(embeddings, encode, pieces, contexts)


def recompute_gradients(
    embeddings: torch.Tensor,
    encode: Callable[[range], torch.Tensor],
    pieces: list[range],
    contexts: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Embeddings that are there already, with the gradients of encoding them again, piece by piece.

    Args:
        embeddings (`torch.Tensor` of shape `(2, classes, dim)`): what `encode` gives.
        encode (`Callable`): gives the embeddings `(2, piece, dim)` of a range of classes; draws nothing at random.
        pieces (`list[range]`): all classes, in order.
        contexts (`Sequence[torch.Tensor]`): the context vectors, the only parameters that may want gradients.

    Returns:
        `torch.Tensor` of shape `(2, classes, dim)`.
    """
    return _Recomputed.apply(embeddings, encode, pieces, *contexts)


class _Recomputed(torch.autograd.Function):
    """Given embeddings going forward, the gradients of a fresh computation going back."""

    @staticmethod
    def forward(ctx, embeddings, encode, pieces, *contexts):
        ctx.encode, ctx.pieces, ctx.contexts = encode, pieces, contexts
        kind = embeddings.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        ctx.autocast = {"device_type": kind, "enabled": enabled, "dtype": dtype}
        return embeddings.clone()  # (2, classes, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        wanted = [context for context in ctx.contexts if context.requires_grad]
        totals = [torch.zeros_like(context) for context in wanted]
        for piece in ctx.pieces:
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                embeddings = ctx.encode(piece)  # (2, piece, dim)
            parts = torch.autograd.grad(embeddings, wanted, grad[:, piece.start : piece.stop])
            for total, part in zip(totals, parts, strict=True):
                total += part
        grads = iter(totals)
        return (None, None, None, *(next(grads) if context.requires_grad else None for context in ctx.contexts))


class ClassEmbeddingCache:
    """Class embeddings computed once in eval mode.

    A change is noticed by the version counters and addresses of all parameters, and for the context vectors, which may
    be changed through `.data` as well, by comparing their values.
    """

    def __init__(self) -> None:
        self._key: tuple | None = None
        self._contexts: list[torch.Tensor] = []
        self._embeddings: torch.Tensor | None = None

    def get(
        self,
        compute: Callable[[], torch.Tensor],
        contexts: Sequence[torch.Tensor],
        parameters: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """Returns kept embeddings, or computes and keeps them.

        Args:
            compute (`Callable[[], torch.Tensor]`): gives the embeddings `(2, classes, dim)` with gradients.
            contexts (`Sequence[torch.Tensor]`): the context vectors, the only parameters that may want gradients.
            parameters (`Sequence[torch.Tensor]`): the frozen parameters that the embeddings depend on.

        Returns:
            `torch.Tensor` of shape `(2, classes, dim)`. Under grad mode its backward pass computes the embeddings
            again, so that gradients are those of a fresh computation.
        """
        key = tuple((tensor.data_ptr(), tensor.dtype, _version(tensor)) for tensor in (*contexts, *parameters))
        embeddings = self._embeddings if key == self._key and self._same_values(contexts) else None
        if embeddings is None:
            with torch.no_grad():
                embeddings = compute()  # (2, classes, dim)
            self._key, self._embeddings = key, embeddings
            self._contexts = [context.detach().clone() for context in contexts]
        if torch.is_grad_enabled() and any(context.requires_grad for context in contexts):
            return recompute_gradients(embeddings, lambda _: compute(), [range(embeddings.shape[1])], contexts)
        return embeddings

    def _same_values(self, contexts: Sequence[torch.Tensor]) -> bool:
        return all(torch.equal(old, new) for old, new in zip(self._contexts, contexts, strict=True))


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


__all__ = ["ClassEmbeddingCache", "encode_chunks", "recompute_gradients", "split_classes"]
