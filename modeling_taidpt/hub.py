"""Where CLIPs, tokenizers and prompts come from: folders and Hub repositories."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file, logging
from transformers.utils.hub import extract_commit_hash

from .backbones import IMAGE_SIDES, MODEL_CLASSES, DualEncoder
from .configuration_taidpt import TaiDptConfig
from .hub_errors import PlainError, plain_errors
from .tokenization_taidpt import ASSETS, clip_tokenizer

logger = logging.get_logger(__name__)

HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
CLIP_VOCAB_SIZE = 49408
SAMPLE_SIZE = 16  # weights of a base by which it is known again
SAMPLE_TOLERANCE = 2e-2  # relative; twice what storing them in bfloat16 changes


def clip_class(config: Any) -> Any:
    """The model class of a CLIP's or another dual encoder's configuration.

    Raises:
        ValueError: the configuration is none of them.
    """
    if config.model_type in MODEL_CLASSES:
        return MODEL_CLASSES[config.model_type]
    raise ValueError(
        f"A `{config.model_type}` model is no CLIP: give a checkpoint of {', '.join(MODEL_CLASSES)}, as "
        "openai/clip-vit-base-patch16."
    )


def storage_dtype(stored: torch.dtype | str | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """Adds `dtype` to loading arguments so that fp16 storage computes in fp32 on a CPU.

    Args:
        stored (`torch.dtype`, *optional*): dtype of the checkpoint.
        arguments (`dict`): keyword arguments of `from_pretrained`; an explicit `dtype` is obeyed.

    Returns:
        `dict`: the arguments, with `dtype=torch.float32` added where fp16 would run on a CPU.
    """
    explicit = arguments.get("dtype", arguments.get("torch_dtype")) not in (None, "auto")
    device_map = arguments.get("device_map")
    on_cpu = device_map is None or str(device_map) == "cpu"
    if not explicit and on_cpu and str(stored).removeprefix("torch.") == "float16":
        arguments = {key: value for key, value in arguments.items() if key != "torch_dtype"} | {"dtype": torch.float32}
    return arguments


def resolve_source(name_or_path: str) -> str:
    """The folder of a base that ships with the package, by its name; anything else as it is."""
    shipped = ASSETS / name_or_path
    return str(shipped) if not os.path.isdir(name_or_path) and (shipped / "config.json").is_file() else name_or_path


def portable_source(name_or_path: str | None) -> str | None:
    """What a checkpoint says of its base: a folder inside the package goes by its name, which holds anywhere."""
    if name_or_path and Path(name_or_path).resolve().parent == ASSETS.resolve():
        return Path(name_or_path).name
    return name_or_path or None


def find_optional_file(name_or_path: str, file_name: str, **hub_arguments: Any) -> str | None:
    """Path of a file of a folder or repository, `None` where it cannot be had."""
    try:
        return cached_file(
            name_or_path,
            file_name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **hub_arguments,
        )
    except OSError:
        return None


def require_safetensors(name_or_path: str, **hub_arguments: Any) -> None:
    """Raises an `OSError` where a folder or repository has no weights as safetensors; others are never read."""
    files = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    if not any(find_optional_file(name_or_path, file, **hub_arguments) for file in files):
        raise PlainError(
            f"{name_or_path!r} holds no {SAFE_WEIGHTS_NAME}: save or push the model again, weights in other formats "
            "are not read."
        )


def find_commit(name_or_path: str, **hub_arguments: Any) -> str | None:
    """The commit that a revision of a Hub repository stands for; `None` for a folder."""
    name_or_path = resolve_source(name_or_path)
    if os.path.isdir(name_or_path):
        return None
    return extract_commit_hash(cached_file(name_or_path, CONFIG_NAME, **hub_arguments), None)


def load_clip(name_or_path: str, **arguments: Any) -> DualEncoder:
    """Loads a CLIP from a folder or the Hub; of a [`TaiDptModel`] checkpoint, the CLIP inside.

    Args:
        name_or_path (`str`): folder, repository, or name of a base that ships with the package.
        **arguments: `revision`, `token`, `cache_dir`, `local_files_only`, `dtype` and so on, as `from_pretrained`.

    Returns:
        [`~transformers.CLIPModel`], [`CLIPResNetModel`] or another dual encoder, in eval mode.

    Raises:
        ValueError: the checkpoint is no CLIP, or lacks weights.
        OSError: the folder or repository cannot be read.
    """
    hub_arguments = {key: value for key, value in arguments.items() if key in HUB_ARGUMENTS}
    name_or_path = resolve_source(name_or_path)
    with plain_errors(name_or_path, arguments.get("revision")):
        config = AutoConfig.from_pretrained(name_or_path, **hub_arguments)
        if is_prompts_config(config):
            return AutoModel.from_pretrained(name_or_path, **arguments).clip
        arguments = storage_dtype(config.dtype, arguments)
        model, info = clip_class(config).from_pretrained(name_or_path, output_loading_info=True, **arguments)
    require_complete(name_or_path, info)
    return model


def require_complete(name_or_path: str, loading_info: dict[str, Any]) -> None:
    """Raises a `ValueError` when weights are missing, which transformers would fill with random numbers."""
    missing = sorted(loading_info["missing_keys"])
    mismatched = [entry[0] for entry in loading_info.get("mismatched_keys", [])]
    if missing or mismatched:
        raise ValueError(
            f"The checkpoint {name_or_path!r} does not hold the whole model: {len(missing) + len(mismatched)} weights "
            f"are missing or of another shape, the first is {(missing + mismatched)[0]!r}. Nothing was loaded."
        )


def load_prompts_only(name_or_path: str, config: TaiDptConfig, **arguments: Any) -> dict[str, torch.Tensor]:
    """Joins a prompts-only checkpoint with the CLIP that it was learned on.

    Args:
        name_or_path (`str`): folder or repository of the prompts.
        config ([`TaiDptConfig`]): its configuration, with `base_model_name_or_path` and revision.
        **arguments: as for `from_pretrained`.

    Returns:
        `dict[str, torch.Tensor]`: the state dict of the whole model.

    Raises:
        ValueError: no base is named, it has another width than the prompts, or other weights than theirs had.
        OSError: the base cannot be read.
    """
    if not config.base_model_name_or_path:
        raise ValueError(
            f"The checkpoint {name_or_path!r} holds prompts only and does not say on which CLIP they were learned: "
            "pass `base_model_name_or_path=` to from_pretrained, or set it in its config.json."
        )
    hub_arguments = {key: value for key, value in arguments.items() if key in HUB_ARGUMENTS}
    prompts = load_file(cached_file(name_or_path, SAFE_WEIGHTS_NAME, **hub_arguments))
    ours_alone = ("revision", "subfolder", "device_map", "max_memory", "offload_folder", "trust_remote_code")
    base_arguments = {key: value for key, value in arguments.items() if key not in ours_alone}
    base_arguments["revision"] = config.base_model_revision or "main"
    try:
        base = load_clip(config.base_model_name_or_path, **base_arguments)
    except OSError as error:
        raise PlainError(
            f"The base {config.base_model_name_or_path!r} of the prompts in {name_or_path!r} cannot be loaded "
            f"(`base_model_name_or_path=` of from_pretrained names another place): {error}"
        ) from error
    for tower in ("text_config", "vision_config"):
        ours, theirs = getattr(config.clip_config, tower), getattr(base.config, tower)
        if ours.model_type != theirs.model_type or ours.hidden_size != theirs.hidden_size:
            raise ValueError(
                f"The prompts in {name_or_path!r} were learned on a CLIP with `{tower}` {ours.model_type} of width "
                f"{ours.hidden_size}, {config.base_model_name_or_path!r} has {theirs.model_type} of width "
                f"{theirs.hidden_size}."
            )
    weights = base.state_dict()
    require_same_base(name_or_path, config, weights)
    return {f"clip.{key}": value for key, value in weights.items()} | prompts


def sample_weights(weights: Mapping[str, torch.Tensor]) -> list[float]:
    """A few weights of a CLIP by which it is known again: from matrices spread evenly over both towers.

    Args:
        weights (`Mapping[str, torch.Tensor]`): the state dict of the CLIP.

    Returns:
        `list[float]`: at most 16 numbers.
    """
    names = sorted(name for name, weight in weights.items() if weight.ndim >= 2)
    chosen = names[:: max(1, -(-len(names) // SAMPLE_SIZE))]
    return [float(weights[name].reshape(-1)[weights[name].numel() // 2]) for name in chosen]


def require_same_base(name_or_path: str, config: TaiDptConfig, weights: Mapping[str, torch.Tensor]) -> None:
    """Raises a `ValueError` when a base has other weights than the one that the prompts were learned on."""
    expected = getattr(config, "base_model_sample", None)
    if expected is None:
        return
    found = torch.tensor(sample_weights(weights))  # (at most 16,)
    same = len(found) == len(expected) and torch.allclose(
        found, torch.tensor(expected), rtol=SAMPLE_TOLERANCE, atol=1e-6
    )
    if not same:
        raise ValueError(
            f"The prompts in {name_or_path!r} were learned on other weights than "
            f"{config.base_model_name_or_path!r} holds at revision {config.base_model_revision or 'main'!r}: name the "
            "right base with `base_model_name_or_path=` and `base_model_revision=`, or learn the prompts anew."
        )


def find_image_processor(config: TaiDptConfig) -> Any:
    """The image processor of a model: beside its checkpoint, beside its CLIP, else the usual one at the CLIP's size.

    Args:
        config ([`TaiDptConfig`]): the model's configuration.

    Returns:
        An image processor of transformers.
    """
    for source in (config._name_or_path, config.base_model_name_or_path):
        if not source:
            continue
        try:
            processor = AutoImageProcessor.from_pretrained(resolve_source(source))
            if not hasattr(processor, "max_num_patches"):  # SigLIP 2's cuts patches, which the model does itself
                return processor
        except (OSError, ValueError) as error:
            logger.info(f"{source} has no image processor: {error}")
    if config.clip_config.model_type in IMAGE_SIDES:  # SigLIP's squeezes to a square
        from transformers import SiglipImageProcessor

        return SiglipImageProcessor(size={"height": config.image_size, "width": config.image_size})
    return clip_image_processor(config.image_size)


def clip_image_processor(size: int) -> Any:
    """CLIP's image processor: short side to `size` pixels, bicubic, centre crop, CLIP's mean and deviation."""
    from transformers import CLIPImageProcessor  # says at import that it would rather have torchvision

    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def find_tokenizer(
    sources: list[str | None],
    vocab_size: int,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    **arguments: Any,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a CLIP: the argument, else the first source that has one, else CLIP's BPE of the package.

    Args:
        sources (`list[str | None]`): folders or repositories, tried in order; empty ones are passed over.
        vocab_size (`int`): vocabulary of the text tower.
        tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): taken as it is, or loaded from there.
        **arguments: `revision`, `token` and so on.

    Returns:
        [`~transformers.PreTrainedTokenizerBase`]: its ids fit the vocabulary.

    Raises:
        ValueError: no source has a tokenizer and the vocabulary is not CLIP's, the one asked for has no words, or the
            tokenizer is too large.
    """
    if isinstance(tokenizer, str):
        tokenizer = _load_tokenizer(tokenizer, **arguments)
    for source in filter(None, sources):
        if tokenizer is not None:
            break
        try:
            tokenizer = _load_tokenizer(resolve_source(source), **arguments)
        except (OSError, ValueError) as error:
            logger.info(f"{source} has no tokenizer: {error}")
    if tokenizer is None and vocab_size != CLIP_VOCAB_SIZE:
        raise ValueError(
            f"No tokenizer was found beside {[s for s in sources if s]} and the text tower has {vocab_size} tokens, "
            f"not CLIP's {CLIP_VOCAB_SIZE}: pass `tokenizer=`."
        )
    tokenizer = clip_tokenizer() if tokenizer is None else tokenizer
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, the text tower {vocab_size}: pass the tokenizer of this CLIP."
        )
    return tokenizer


def _load_tokenizer(source: str, **arguments: Any) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or repository; where only a model lies, transformers makes one without a word."""
    tokenizer = AutoTokenizer.from_pretrained(source, **arguments)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{source!r} has no tokenizer files: every word would be unknown.")
    return tokenizer


def is_prompts_config(config: Any) -> bool:
    """Whether a configuration is one of [`TaiDptModel`], also when remote code imported it under another name."""
    return getattr(config, "model_type", None) == TaiDptConfig.model_type


__all__ = [
    "clip_class",
    "clip_image_processor",
    "find_commit",
    "find_image_processor",
    "find_optional_file",
    "find_tokenizer",
    "is_prompts_config",
    "load_clip",
    "load_prompts_only",
    "portable_source",
    "require_complete",
    "require_safetensors",
    "resolve_source",
    "sample_weights",
    "storage_dtype",
]
