"""Hidden states and attention weights of the tower that encodes images or captions, where a call asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import nn


class Record:
    """What the layers of a tower give while images or captions are encoded, where it is asked for.

    Args:
        wants_hidden_states (`bool`, *optional*, defaults to `False`): keeps hidden states.
        wants_attentions (`bool`, *optional*, defaults to `False`): keeps attention weights.

    Attributes:
        hidden_states, attentions (`tuple[torch.Tensor, ...]`, *optional*): of the first pass; `None` if not wanted.
    """

    def __init__(self, wants_hidden_states: bool = False, wants_attentions: bool = False) -> None:
        self.wants_hidden_states, self.wants_attentions = wants_hidden_states, wants_attentions
        self.hidden_states: tuple[torch.Tensor, ...] | None = None
        self.attentions: tuple[torch.Tensor, ...] | None = None
        self.indices: Sequence[int] | None = None

    @classmethod
    def of_flags(
        cls, config: Any, output_hidden_states: bool | Sequence[int] | None, output_attentions: bool | None
    ) -> Record:
        """A record of what a call asks for, else the configuration, as in transformers; indices ask for some."""
        flags = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        states, weights = (getattr(config, name, False) if flag is None else flag for name, flag in flags.items())
        record = cls(bool(states), bool(weights))
        record.indices = states if isinstance(states, Sequence) else None
        return record

    @property
    def chosen_hidden_states(self) -> tuple[torch.Tensor | None, ...] | None:
        """Hidden states, with `None` in the place of those that were not asked for."""
        states = self.hidden_states
        if states is None or self.indices is None:
            return states
        chosen = {index % len(states) for index in self.indices}
        return tuple(state if index in chosen else None for index, state in enumerate(states))

    def __bool__(self) -> bool:
        return self.wants_hidden_states or self.wants_attentions

    @property
    def options(self) -> dict[str, bool]:
        """Keyword arguments of a tower of transformers; none where nothing is wanted."""
        options = {"output_hidden_states": self.wants_hidden_states, "output_attentions": self.wants_attentions}
        return options if self else {}

    def keep(self, outputs: Any) -> None:
        """Keeps what a tower of transformers returned."""
        if self.wants_hidden_states and self.hidden_states is None:
            self.hidden_states = outputs.hidden_states
        if self.wants_attentions and self.attentions is None:
            self.attentions = outputs.attentions

    @contextmanager
    def of_layers(self, layers: Sequence[nn.Module], with_input: bool = True) -> Iterator[None]:
        """Keeps what layers give that are called one by one, outside of their tower.

        Args:
            layers (`Sequence[nn.Module]`): in the order in which they are called.
            with_input (`bool`, *optional*, defaults to `True`): hidden states begin with what the first one takes.
        """
        if not self or self.hidden_states is not None or self.attentions is not None:
            yield
            return
        states: list[torch.Tensor] = []
        weights: list[torch.Tensor] = []
        thread = get_ident()  # hooks see the calls of all threads

        def keep_states(layer: nn.Module, inputs: tuple, output: Any) -> None:
            if get_ident() == thread:
                first = [inputs[0]] if with_input and not states else []
                states.extend([*first, output[0] if isinstance(output, tuple) else output])

        def keep_weights(attention: nn.Module, inputs: tuple, output: Any) -> None:
            if get_ident() == thread and isinstance(output, tuple) and output[1] is not None:
                weights.append(output[1])

        # one name or the other, by family; the blocks of a convolutional tower have neither
        parts = [getattr(layer, "self_attn", getattr(layer, "attention", None)) for layer in layers]
        attentions = [part for part in parts if part is not None]
        handles = [layer.register_forward_hook(keep_states) for layer in layers if self.wants_hidden_states]
        handles += [part.register_forward_hook(keep_weights) for part in attentions if self.wants_attentions]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self.hidden_states = tuple(states) if self.wants_hidden_states else None
        self.attentions = tuple(weights) if self.wants_attentions else None


__all__ = ["Record"]
