"""What class embeddings depend on, as a digest: those that were kept serve as long as it is the same.

Tensors count by their content. Their version counters would be quicker to compare, and miss what is written through
`.data`, through NumPy or by an optimizer's own kernels. A model whose text side is not made of plain modules alone
(adapters, hooks, offloaded or quantized weights, subclasses) has no digest: its tensors do not say what it computes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .backbones import text_side
from .class_embeddings import has_open_block

OWN = f"{__package__}."
PLAIN_MODULES = ("torch.nn.modules.", "transformers.models.", "transformers.activations", OWN)
PLAIN_TENSORS = (torch.Tensor, nn.Parameter)
PLAIN_VALUES = (bool, int, float, str, type(None))
MOST_PER_CLASS = 8_000_000  # numbers; with fewer classes than that, encoding them is quicker than reading all weights


def class_digest(model: Any) -> bytes | None:
    """The digest behind [`TaiDptModel.class_digest`]."""
    config = model.config
    if config.class_embedding_source == "fixed" or has_open_block(model) or torch.compiler.is_compiling():
        return None
    side = text_side(model.clip)
    parts = [part for module in (model.prompt_learner, *side.modules) for part in module.modules()]
    tensors = [tensor for part in parts for tensor in (*part._parameters.items(), *part._buffers.items())]
    tensors = [(name, tensor) for name, tensor in tensors if tensor is not None]
    is_plain = type(model).__module__.startswith(OWN) and not _has_own_methods(model) and all(map(_is_plain, parts))
    is_here = all(type(tensor) in PLAIN_TENSORS and tensor.is_cpu for _, tensor in tensors)
    is_quicker = sum(tensor.numel() for _, tensor in tensors) <= MOST_PER_CLASS * config.num_labels
    if not is_plain or not is_here or not is_quicker or _has_global_hooks():
        return None
    text_config = config.clip_config.text_config
    digest = hashlib.sha256(json.dumps(text_config.to_dict(), sort_keys=True, default=str).encode())
    own = [getattr(config, name) for name in config.__dataclass_fields__ if name != "clip_config"]
    modules = [(type(part).__qualname__, _values(part)) for part in parts]
    digest.update(repr((own, text_config._attn_implementation, modules, _rounding())).encode())
    add_tensors(digest, tensors)
    return digest.digest()


def add_tensors(digest: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Adds the names, kinds and values of tensors to a digest of `hashlib`."""
    for name, tensor in tensors:
        header = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        digest.update(len(header).to_bytes(8, "little") + header)
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)  # (numbers,)
        digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")


def _is_plain(module: nn.Module) -> bool:
    """Whether what a module computes is said by its class, its plain attributes, its tensors and its configuration."""
    is_changed = module._forward_hooks or module._forward_pre_hooks or module.training or _has_own_methods(module)
    return type(module).__module__.startswith(PLAIN_MODULES) and not is_changed


def _has_own_methods(module: nn.Module) -> bool:
    """Whether methods of this one module were replaced, as accelerate's hooks do it with `forward`."""
    return any(callable(getattr(type(module), name, None)) for name in vars(module))


def _has_global_hooks() -> bool:
    registry = nn.modules.module
    return bool(registry._global_forward_hooks or registry._global_forward_pre_hooks)


def _values(module: nn.Module) -> dict[str, Any]:
    """Plain attributes of a module, as the scale of an attention."""
    return {name: value for name, value in vars(module).items() if isinstance(value, PLAIN_VALUES)}


def _rounding() -> tuple[Any, ...]:
    """What changes the last digits of a result, or its precision."""
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    return *autocast, torch.get_num_threads(), torch.get_float32_matmul_precision()


__all__ = ["add_tensors", "class_digest"]
