"""Context vectors to class embeddings, with the prefix that all prompts share computed once.

The prompt of class c is `[SOS] V1 .. VM <name tokens> . [EOT]` (paper, section 3.3). Under a causal text tower the
tokens before the first one that differs between classes have the same keys and values in every prompt: they are
computed once, and every class's tail attends to them. Tails are ragged: no padding goes through the linear layers.
Other text towers share nothing: every prompt goes through them whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from .backbones import TextSide
from .configuration_taidpt import TaiDptConfig

BRANCHES = 2  # global and local


@dataclass
class PromptLayout:
    """Where the tokens of a set of prompts are; the flat tail holds the tails of all classes, one after the other.

    Attributes:
        prefix_context (`int`): context vectors in the shared prefix, after the start token.
        start_id (`torch.Tensor` of shape `(1,)`): id of the start token.
        token_ids (`torch.Tensor` of shape `(tail,)`): token ids, 0 where a context vector is.
        context_index (`torch.Tensor` of shape `(tail,)`): number of the context vector, -1 where a token is.
        class_index (`torch.Tensor` of shape `(tail,)`): class that the element belongs to.
        positions (`torch.Tensor` of shape `(tail,)`): position in the prompt.
        padded_index (`torch.Tensor` of shape `(classes, longest)`): index into the flat tail, 0 past its end.
        flat_index (`torch.Tensor` of shape `(tail,)`): index into the padded tails, laid out one after the other.
        valid (`torch.Tensor` of shape `(classes, longest)`): false past the end of a tail.
        eot_index (`torch.Tensor` of shape `(classes,)`): index of the end-of-text token in the flat tail.
    """

    prefix_context: int
    start_id: torch.Tensor
    token_ids: torch.Tensor
    context_index: torch.Tensor
    class_index: torch.Tensor
    positions: torch.Tensor
    padded_index: torch.Tensor
    flat_index: torch.Tensor
    valid: torch.Tensor
    eot_index: torch.Tensor

    def to(self, device: torch.device) -> PromptLayout:
        """The same layout with its tensors on `device`."""
        return PromptLayout(**{k: v.to(device) if torch.is_tensor(v) else v for k, v in vars(self).items()})


def build_layout(config: TaiDptConfig, classes: range) -> PromptLayout:
    """Lays out the prompts of some classes.

    Args:
        config ([`TaiDptConfig`]): class names as token ids, number and position of the context vectors.
        classes (`range`): the classes to lay out.

    Returns:
        [`PromptLayout`]: on the CPU.

    Raises:
        ValueError: a prompt is longer than the text tower's positions; the class is named.
    """
    prefix_context = _prefix_context(config)
    max_length = config.clip_config.text_config.max_position_embeddings
    tails = prompt_tails(config, classes, prefix_context, 1 + prefix_context, max_length)
    lengths = [len(tail) for tail in tails]
    longest, starts = max(lengths), list(accumulate(lengths, initial=0))
    flat = [entry for tail in tails for entry in tail]
    # Plain lists until the end: compilers and exporters take the tensors as constants.
    return PromptLayout(
        prefix_context=prefix_context,
        start_id=torch.tensor([config.bos_token_id]),
        token_ids=torch.tensor([token for token, _ in flat]),
        context_index=torch.tensor([context for _, context in flat]),
        class_index=torch.tensor([index for index, tail in zip(classes, tails, strict=True) for _ in tail]),
        positions=torch.tensor([1 + prefix_context + step for tail in tails for step in range(len(tail))]),
        padded_index=torch.tensor(
            [
                [start + step if step < length else 0 for step in range(longest)]
                for start, length in zip(starts, lengths, strict=False)
            ]
        ),
        flat_index=torch.tensor([row * longest + step for row, tail in enumerate(tails) for step in range(len(tail))]),
        valid=torch.tensor([[step < length for step in range(longest)] for length in lengths]),
        eot_index=torch.tensor([end - 1 for end in starts[1:]]),
    )


def prompt_tails(
    config: TaiDptConfig, classes: range, prefix_context: int, before: int, max_length: int
) -> list[list[tuple[int, int]]]:
    """The prompts of some classes after the start token and the shared context vectors.

    Args:
        config ([`TaiDptConfig`]): class names as token ids, number and position of the context vectors.
        classes (`range`): the classes.
        prefix_context (`int`): context vectors in the shared prefix.
        before (`int`): tokens and context vectors before the tail.
        max_length (`int`): most tokens and context vectors of a prompt.

    Returns:
        `list[list[tuple[int, int]]]`: for each class its tokens as (id, -1) and context vectors as (0, number).

    Raises:
        ValueError: a prompt is longer than the text tower's positions; the class is named.
    """
    if config.class_input_ids is None:
        raise ValueError("`config.class_input_ids` is missing: build the model with `TaiDptModel.from_clip`.")
    tails = [_tail(config, index, prefix_context) for index in classes]
    for index, tail in zip(classes, tails, strict=True):
        if before + len(tail) > max_length:
            raise ValueError(
                f"The prompt of class {config.class_names[index][:60]!r} has {before + len(tail)} tokens, the text "
                f"tower takes {max_length}: shorten the name or use fewer context tokens."
            )
    return tails


def _prefix_context(config: TaiDptConfig) -> int:
    if config.class_specific_context:
        return 0
    return {"end": config.num_context_tokens, "middle": config.num_context_tokens // 2, "front": 0}[
        config.class_token_position
    ]


def _tail(config: TaiDptConfig, index: int, prefix_context: int) -> list[tuple[int, int]]:
    """The prompt of one class after the shared prefix, as (token id, -1) or (0, number of a context vector)."""
    length = config.num_context_tokens if config.context_lengths is None else config.context_lengths[index]
    position = config.class_token_position if config.context_positions is None else config.context_positions[index]
    before = {"end": length, "middle": length // 2, "front": 0}[position]
    context = [(0, number) for number in range(length)]
    name = [(token, -1) for token in config.class_input_ids[index]]
    suffix = [(token, -1) for token in (config.period_token_id, config.eos_token_id) if token is not None]
    return [*context[prefix_context:before], *name, *context[before:], *suffix]


class PromptLearner(nn.Module):
    """Holds the context vectors of both branches.

    Args:
        config ([`TaiDptConfig`]): number of context vectors, shared or one set per class.

    Attributes:
        global_context, local_context (`nn.Parameter`): `(num_context_tokens, width)`, or
            `(classes, num_context_tokens, width)` for class-specific contexts.
        shared_global_context, shared_local_context (`nn.Parameter`, *optional*): `(num_context_tokens, width)`, only
            in class-specific models with `config.shared_context`: for labels that the model does not know.
        gradient_checkpointing (`bool`): whether the backward pass computes activations again, chunk by chunk of
            classes, however few there are; see `class_embeddings.py`.
    """

    gradient_checkpointing = False  # set by `activation_checkpointing_enable` of transformers

    def __init__(self, config: TaiDptConfig) -> None:
        super().__init__()
        self.config = config
        shared = (config.num_context_tokens, config.clip_config.text_config.hidden_size)
        shape = (config.num_labels, *shared) if config.class_specific_context else shared
        self.global_context = nn.Parameter(torch.empty(shape, dtype=torch.float32))
        self.local_context = nn.Parameter(torch.empty(shape, dtype=torch.float32))
        self.shared_global_context: nn.Parameter | None = None
        self.shared_local_context: nn.Parameter | None = None
        if config.shared_context:
            self.shared_global_context = nn.Parameter(torch.empty(shared, dtype=torch.float32), requires_grad=False)
            self.shared_local_context = nn.Parameter(torch.empty(shared, dtype=torch.float32), requires_grad=False)
        self.num_classes = config.num_labels  # the configuration may be given others later
        self._layouts: dict[tuple, Any] = {}

    @property
    def contexts(self) -> tuple[nn.Parameter, nn.Parameter]:
        """The context vectors of both branches."""
        return self.global_context, self.local_context

    def forward(self) -> torch.Tensor:
        """The context vectors of both branches, `(2, num_context_tokens, width)` or `(2, classes, ..., width)`.

        Everything else is computed outside, so that hooks of accelerate and wrappers of PEFT, which go around a
        module's `forward`, decide which context vectors are used and on which device.
        """
        return torch.stack(self.contexts)

    def layout(self, side: TextSide, classes: range, device: torch.device) -> Any:
        """The layout of the prompts of some classes on `device`, cached between calls.

        Args:
            side ([`TextSide`]): the text tower.
            classes (`range`): the classes.
            device (`torch.device`): where the tensors are to be.

        Returns:
            [`PromptLayout`] where prompts share a prefix, else the tuple of [`lay_out_prompts`].

        Raises:
            ValueError: a prompt is longer than the text tower's positions; the class is named.
        """
        key = (classes.start, classes.stop, str(device))
        if torch.compiler.is_compiling():  # tensors made while tracing are not real ones
            return self._layouts[key] if key in self._layouts else self._build_layout(side, classes, device)
        if key not in self._layouts:
            with torch.inference_mode(False):  # tensors made in inference mode could not be trained with later
                self._layouts[key] = self._build_layout(side, classes, device)
        return self._layouts[key]

    def _build_layout(self, side: TextSide, classes: range, device: torch.device) -> Any:
        if side.shares_prefix:
            return build_layout(self.config, classes).to(device)
        return tuple(part.to(device) for part in lay_out_prompts(self.config, classes, side))


def encode_prompts(learner: PromptLearner, side: TextSide, classes: range) -> torch.Tensor:
    """Class embeddings of both branches.

    Args:
        learner ([`PromptLearner`]): the context vectors.
        side ([`TextSide`]): the frozen text tower.
        classes (`range`): the classes to encode.

    Returns:
        `torch.Tensor` of shape `(2, classes, dim)`: global and local embeddings, not normalised.
    """
    contexts = learner()  # (2, num_context_tokens, width) or (2, classes, num_context_tokens, width)
    encode = _encode_shared_prefix if side.shares_prefix else _encode_full_prompts
    return encode(learner, contexts, side, classes)


def _encode_shared_prefix(
    learner: PromptLearner, contexts: torch.Tensor, side: TextSide, classes: range
) -> torch.Tensor:
    """Class embeddings `(2, classes, dim)` under a causal tower, which sees the shared prefix once."""
    layout = learner.layout(side, classes, contexts.device)
    text_model = side.tower
    hidden = _embed(learner.config, contexts, text_model.embeddings, layout)  # (2, prefix + tail, width)
    prefix = 1 + layout.prefix_context
    *layers, last = text_model.encoder.layers
    for layer in layers:
        hidden = hidden + _attend_all(layer.self_attn, layer.layer_norm1(hidden), prefix, layout)
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))  # (2, prefix + tail, width)
    attended = _attend_ends(last.self_attn, last.layer_norm1(hidden), prefix, layout)  # (2, classes, width)
    eot = hidden.index_select(1, prefix + layout.eot_index) + attended  # (2, classes, width)
    eot = eot + last.mlp(last.layer_norm2(eot))  # (2, classes, width)
    return side.projection(text_model.final_layer_norm(eot))  # (2, classes, dim)


def _embed(config: TaiDptConfig, contexts: torch.Tensor, embeddings: nn.Module, layout: PromptLayout) -> torch.Tensor:
    """Token, context and position embeddings of the prefix and of all tails, `(2, prefix + tail, width)`."""
    first = torch.arange(1 + layout.prefix_context, device=contexts.device)  # (prefix,)
    # Called, never read: the weights of an offloaded tower exist only inside of a call.
    positions = embeddings.position_embedding(torch.cat([first, layout.positions]))  # (prefix + tail, width)
    contexts = contexts.to(positions)  # on the text tower's device, in its dtype
    start = embeddings.token_embedding(layout.start_id)  # (1, width)
    parts = [start.expand(BRANCHES, 1, -1)]  # (2, 1, width)
    number = layout.context_index.clamp(min=0)  # (tail,)
    if config.class_specific_context:
        tail_context = contexts[:, layout.class_index, number]  # (2, tail, width)
    else:
        parts.append(contexts[:, : layout.prefix_context])  # (2, prefix_context, width)
        tail_context = contexts[:, number]  # (2, tail, width)
    is_context = (layout.context_index >= 0)[:, None]  # (tail, 1)
    tokens = embeddings.token_embedding(layout.token_ids)  # (tail, width)
    parts.append(torch.where(is_context, tail_context, tokens))  # (2, tail, width)
    return torch.cat(parts, dim=1) + positions  # (2, prefix + tail, width)


def _attend_all(attention: nn.Module, hidden: torch.Tensor, prefix: int, layout: PromptLayout) -> torch.Tensor:
    """Causal attention of every token over the shared prefix and its own tail.

    Args:
        attention (`CLIPAttention`): projections of the layer.
        hidden (`torch.Tensor` of shape `(2, prefix + tail, width)`): normalised hidden states.
        prefix (`int`): length of the shared prefix.
        layout ([`PromptLayout`]): where each class's tail is.

    Returns:
        `torch.Tensor` of shape `(2, prefix + tail, width)`.
    """
    longest = layout.padded_index.shape[1]
    query, key, value = (
        _split_heads(proj(hidden), attention) for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
    )  # (2, heads, prefix + tail, head_dim)
    first = nn.functional.scaled_dot_product_attention(
        *(states[:, :, :prefix] for states in (query, key, value)), is_causal=True, scale=attention.scale
    )  # (2, heads, prefix, head_dim)
    # Past the end of a shorter tail any element serves: the causal mask hides it from the elements that count.
    causal = torch.ones(longest, longest, dtype=torch.bool, device=hidden.device).tril()  # (longest, longest)
    tails = _attend_tails(_pad_tails(query * attention.scale, prefix, layout), key, value, prefix, layout, causal)
    tails = tails.index_select(2, layout.flat_index)  # (2, heads, tail, head_dim)
    attended = torch.cat([first, tails], dim=2).transpose(1, 2).flatten(2)  # (2, prefix + tail, width)
    return attention.out_proj(attended)  # (2, prefix + tail, width)


def _attend_ends(attention: nn.Module, hidden: torch.Tensor, prefix: int, layout: PromptLayout) -> torch.Tensor:
    """As [`_attend_all`], for the end-of-text tokens alone: nothing else of the last layer is used.

    Returns:
        `torch.Tensor` of shape `(2, classes, width)`.
    """
    ends = hidden.index_select(1, prefix + layout.eot_index)  # (2, classes, width)
    query = _split_heads(attention.q_proj(ends) * attention.scale, attention).unsqueeze(3)
    # query: (2, heads, classes, 1, head_dim)
    key, value = (_split_heads(proj(hidden), attention) for proj in (attention.k_proj, attention.v_proj))
    attended = _attend_tails(query, key, value, prefix, layout, layout.valid[:, None])  # (2, heads, classes, head_dim)
    return attention.out_proj(attended.transpose(1, 2).flatten(2))  # (2, classes, width)


def _attend_tails(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, prefix: int, layout: PromptLayout, mask: torch.Tensor
) -> torch.Tensor:
    """Attention of queries of every class over the prefix, whose keys and values no class copies, and its own tail.

    Args:
        query (`torch.Tensor` of shape `(2, heads, classes, queries, head_dim)`): scaled queries.
        key (`torch.Tensor` of shape `(2, heads, prefix + tail, head_dim)`): keys of the prefix and the flat tail.
        value (`torch.Tensor` of shape `(2, heads, prefix + tail, head_dim)`): their values.
        prefix (`int`): length of the shared prefix.
        layout ([`PromptLayout`]): where each class's tail is.
        mask (`torch.Tensor` that broadcasts to `(classes, queries, longest)`): true where a query sees its tail.

    Returns:
        `torch.Tensor` of shape `(2, heads, classes * queries, head_dim)`.
    """
    own_key, own_value = _pad_tails(key, prefix, layout), _pad_tails(value, prefix, layout)
    # own_key, own_value: (2, heads, classes, longest, head_dim)
    shared = query.flatten(2, 3) @ key[:, :, :prefix].transpose(2, 3)  # (2, heads, classes * queries, prefix)
    own = (query @ own_key.transpose(3, 4)).masked_fill(~mask, float("-inf"))  # (2, heads, classes, queries, longest)
    scores = torch.cat([shared, own.flatten(2, 3)], dim=3)  # (2, heads, classes * queries, prefix + longest)
    weights = scores.softmax(dim=3, dtype=torch.float32).to(value.dtype)  # (2, heads, classes * queries, ...)
    attended = weights[..., :prefix] @ value[:, :, :prefix]  # (2, heads, classes * queries, head_dim)
    own_weights = weights[..., prefix:].unflatten(2, query.shape[2:4])  # (2, heads, classes, queries, longest)
    return attended + (own_weights @ own_value).flatten(2, 3)  # (2, heads, classes * queries, head_dim)


def _split_heads(states: torch.Tensor, attention: nn.Module) -> torch.Tensor:
    """`(2, tokens, width)` to `(2, heads, tokens, head_dim)`."""
    return states.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)


def _pad_tails(states: torch.Tensor, prefix: int, layout: PromptLayout) -> torch.Tensor:
    """`(2, heads, prefix + tail, head_dim)` to the tails as `(2, heads, classes, longest, head_dim)`."""
    rows = states.index_select(2, prefix + layout.padded_index.flatten())  # (2, heads, classes * longest, head_dim)
    return rows.unflatten(2, layout.padded_index.shape)  # (2, heads, classes, longest, head_dim)


def lay_out_prompts(config: TaiDptConfig, classes: range, side: TextSide) -> tuple[torch.Tensor, ...]:
    """Tokens and context vectors of some classes' prompts, padded on the right.

    Args:
        config ([`TaiDptConfig`]): class names as token ids, number and position of the context vectors.
        classes (`range`): the classes.
        side ([`TextSide`]): how long prompts may be and whether they are padded to that length.

    Returns:
        `tuple[torch.Tensor, ...]`: token ids, 0 where a context vector is, number of the context vector, -1 where a
        token is, and mask, 0 for padding, each `(classes, length)`; and the classes `(classes,)`.

    Raises:
        ValueError: a prompt is longer than the text tower's positions; the class is named.
    """
    start = [] if config.bos_token_id is None else [(config.bos_token_id, -1)]
    prompts = [start + tail for tail in prompt_tails(config, classes, 0, len(start), side.max_length)]
    length = side.max_length if side.pads_prompts else max(map(len, prompts))
    padding = (config.pad_token_id or 0, -1)
    padded = torch.tensor([prompt + [padding] * (length - len(prompt)) for prompt in prompts])  # (classes, length, 2)
    mask = torch.arange(length) < torch.tensor([len(prompt) for prompt in prompts])[:, None]  # (classes, length)
    return padded[..., 0], padded[..., 1], mask.long(), torch.tensor(list(classes))


def _encode_full_prompts(
    learner: PromptLearner, contexts: torch.Tensor, side: TextSide, classes: range
) -> torch.Tensor:
    """Class embeddings `(2, classes, dim)` under a tower that sees every prompt whole."""
    layout = learner.layout(side, classes, contexts.device)
    ids, numbers, mask, rows = layout  # (classes, length) thrice, (classes,)
    tokens = side.token_embedding(ids)  # (classes, length, width)
    contexts = contexts.to(tokens)  # on the text tower's device, in its dtype
    number = numbers.clamp(min=0)  # (classes, length)
    own = (rows[:, None], number) if learner.config.class_specific_context else (number,)
    vectors = contexts[(slice(None), *own)]  # (2, classes, length, width)
    embeds = torch.where((numbers >= 0)[..., None], vectors, tokens)  # (2, classes, length, width)
    pooled = side.encode_prompts(embeds.flatten(0, 1), mask.repeat(BRANCHES, 1))  # (2 * classes, dim)
    return pooled.unflatten(0, (BRANCHES, -1))  # (2, classes, dim)


__all__ = ["PromptLayout", "PromptLearner", "build_layout", "encode_prompts", "lay_out_prompts", "prompt_tails"]
