"""Keeps class embeddings until a parameter that they depend on changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .prompt_chunks import recompute_gradients


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


__all__ = ["ClassEmbeddingCache"]
