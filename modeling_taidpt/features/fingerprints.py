"""Fingerprints of what caption features and image features depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from ..backbones import text_side
from ..class_state import add_tensors

# Fields that say where a configuration came from, or how code finds what is beside it.
ORIGINS = frozenset(
    (
        "transformers_version",
        "dtype",
        "torch_dtype",
        "architectures",
        "auto_map",
        "custom_pipelines",
        "processor_class",
    )
)
# Fields of TaiDptConfig that image features depend on.
IMAGE_OPTIONS = ("dense_features", "flip", "multi_crop", "pool_with_positions")


def corpus_fingerprint(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, captions: Iterable[str], settings: str = ""
) -> str:
    """Fingerprint of caption features: they are equal where it is.

    Args:
        model ([`TaiDptModel`]): the text side of its CLIP counts: weights, configuration, end-of-text token.
        tokenizer (`PreTrainedTokenizerBase`): its vocabulary and rules count.
        captions (`Iterable[str]`): the captions in their order.
        settings (`str`, *optional*): precision and whatever else counts.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    digest = hashlib.sha256(settings.encode())
    extra = {"taidpt_eos_token_id": model.config.eos_token_id}
    _add_side(digest, model.config.clip_config.text_config, extra, text_side(model.clip).modules)
    _add(digest, _tokenizer_rules(tokenizer))
    for caption in captions:
        _add(digest, caption.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def image_fingerprint(model: nn.Module, processor: Any, images: Iterable[bytes], settings: str = "") -> str:
    """Fingerprint of image features: they are equal where it is.

    Args:
        model ([`TaiDptModel`]): the image side of its CLIP counts: weights, configuration, how features are taken.
        processor: an image processor of transformers; its settings count.
        images (`Iterable[bytes]`): the content of the images in their order.
        settings (`str`, *optional*): precision and whatever else counts.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    digest = hashlib.sha256(settings.encode())
    config, clip = model.config, model.clip
    options = {name: getattr(config, name, False) for name in IMAGE_OPTIONS}
    projection: Any = getattr(clip, "visual_projection", None)  # a convolutional tower projects inside its pool
    _add_side(digest, config.clip_config.vision_config, options, [clip.vision_model, projection])
    _add(digest, json.dumps(processor.to_dict(), sort_keys=True, default=str).encode())
    for image in images:
        _add(digest, image)
    return digest.hexdigest()[:32]


def model_fingerprint(model: nn.Module, processor: Any) -> str:
    """Fingerprint of what the scores of images depend on: they are equal where it is.

    Args:
        model (`PreTrainedModel`): its configuration and all its weights count.
        processor: an image processor of transformers; its settings count.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    settings = processor.to_dict() if hasattr(processor, "to_dict") else {"type": type(processor).__qualname__}
    digest = hashlib.sha256(json.dumps(_without_origin(settings), sort_keys=True, default=str).encode())
    _add(digest, json.dumps(_without_origin(model.config.to_dict()), sort_keys=True, default=str).encode())
    _add_weights(digest, [model])
    return digest.hexdigest()[:32]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint of a tokenizer's vocabulary and rules: 32 hexadecimal digits."""
    return hashlib.sha256(_tokenizer_rules(tokenizer)).hexdigest()[:32]


def _add(digest: Any, data: bytes) -> None:
    """Adds some bytes and their number, so that no two sequences run together."""
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)


def _add_side(digest: Any, config: Any, extra: dict[str, Any], modules: list[Any]) -> None:
    """Adds the configuration and the weights of one side of a CLIP."""
    options = {key: value for key, value in config.to_dict().items() if not _is_origin(key)} | extra
    _add(digest, json.dumps(options, sort_keys=True, default=str).encode())
    _add_weights(digest, modules)


def _add_weights(digest: Any, modules: list[Any]) -> None:
    """Adds the names, kinds and values of all tensors, and what else changes what the modules compute."""
    for module in filter(None, modules):
        _add(digest, repr([state for part in module.modules() for state in _switches(part)]).encode())
        add_tensors(digest, sorted(module.state_dict().items()))


def _switches(module: nn.Module) -> list[Any]:
    """Adapters that a layer of PEFT has switched on, and hooks, which nobody can compare: by their identity."""
    adapters = [getattr(module, name, None) for name in ("active_adapters", "disable_adapters", "merged_adapters")]
    hooks = [id(hook) for hooks in (module._forward_pre_hooks, module._forward_hooks) for hook in hooks.values()]
    return [*filter(None, adapters), *hooks]


def _without_origin(options: Any) -> Any:
    """The options of a configuration and of those inside it that say what a model computes."""
    if isinstance(options, dict):
        return {key: _without_origin(value) for key, value in options.items() if not _is_origin(str(key))}
    return options


def _is_origin(key: str) -> bool:
    """Whether an option says where a model came from or how it is run, not what it computes."""
    return key.startswith("_") or key in ORIGINS


def _tokenizer_rules(tokenizer: PreTrainedTokenizerBase) -> bytes:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        text = backend.to_str()
        rules = text.partition('"added_tokens"')[2] or text  # before it stands the padding of the last call
    else:
        options = {"vocab": tokenizer.get_vocab(), "options": tokenizer.init_kwargs}
        rules = type(tokenizer).__name__ + json.dumps(options, sort_keys=True, default=str)
    return f"{tokenizer.model_max_length} {rules}".encode()


__all__ = ["corpus_fingerprint", "image_fingerprint", "model_fingerprint", "tokenizer_fingerprint"]
