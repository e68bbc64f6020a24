"""Where CLIPs, tokenizers and prompts come from: folders and Hub repositories."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME, cached_file, logging

from .atomic import recover_folder
from .backbones import MODEL_CLASSES, DualEncoder, require_known_towers
from .configuration_checks import check_code, one_line
from .configuration_taidpt import TaiDptConfig
from .hub_errors import PlainError, plain_errors, prefer_cache
from .origins import HUB_ARGUMENTS, SHIPPED_BASES, WHEREVER, Origin, is_remote_code, origins, pinned, resolve_source
from .stored_weights import find_weight_files
from .tokenization_taidpt import clip_tokenizer

logger = logging.get_logger(__name__)

CLIP_VOCAB_SIZE = 49408
SAMPLE_SIZE = 16  # weights of a base by which it is known again
SAMPLE_TOLERANCE = 2e-2  # relative; twice what storing them in bfloat16 changes


def clip_class(config: Any) -> Any:
    """The model class of a CLIP's or another dual encoder's configuration.

    Raises:
        ValueError: the configuration is none of them, or one of its towers is not supported.
    """
    if config.model_type in MODEL_CLASSES:
        require_known_towers(config)
        return MODEL_CLASSES[config.model_type]
    raise ValueError(
        f"A `{config.model_type}` model is not a CLIP: give a checkpoint of {', '.join(MODEL_CLASSES)}, as "
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
    stored_in_half = str(stored).removeprefix("torch.") == "float16"
    if stored_in_half and not explicit and computes_on_cpu(arguments.get("device_map")):
        arguments = {key: value for key, value in arguments.items() if key != "torch_dtype"} | {"dtype": torch.float32}
    return arguments


def computes_on_cpu(device_map: Any) -> bool:
    """Whether a model that is loaded with this `device_map` computes on the CPU, wherever its weights are stored."""
    if device_map is None:
        return torch.get_default_device().type in ("cpu", "meta")
    places = list(device_map.values()) if isinstance(device_map, Mapping) else [device_map]
    names = {place if isinstance(place, int) else str(place).partition(":")[0] for place in places}
    if names & {"auto", "balanced", "balanced_low_0", "sequential"}:
        return not torch.accelerator.is_available()
    # parts in memory or on disk beside an accelerator are moved there to be computed
    return names <= {"cpu", "disk"} and (names != {"disk"} or not torch.accelerator.is_available())


def settle(name: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where everything of one model is read: a folder, or a repository at one commit.

    Args:
        name (`str`): folder, repository, or name of a base that ships with the package.
        arguments (`dict`): as of `from_pretrained`.

    Returns:
        `tuple[str, dict]`: the folder (with a `subfolder` joined) or repository, and arguments that name the commit,
        and the cache alone where the Hub gives no answer.

    Raises:
        OSError: the repository cannot be read.
    """
    folder = resolve_source(name)
    if os.path.isdir(folder):
        recover_folder(folder)
        subfolder = arguments.get("subfolder")
        rest = {key: value for key, value in arguments.items() if key not in ("subfolder", "revision")}
        return (os.path.join(folder, subfolder) if subfolder else name), rest
    return name, pinned(name, prefer_cache(arguments))


def load_own_config(name_or_path: str, arguments: dict[str, Any]) -> tuple[TaiDptConfig, dict[str, Any]]:
    """The configuration of a [`TaiDptModel`], with the options among the arguments of `from_pretrained`.

    Args:
        name_or_path (`str`): folder or repository.
        arguments (`dict`): as of `from_pretrained`; fields of the configuration replace the stored ones.

    Returns:
        `tuple[TaiDptConfig, dict]`: the configuration, and the arguments that are not for it.

    Raises:
        ValueError: there is no configuration, it is of another model, or it cannot be used.
        OSError: it cannot be read.
    """
    hub_arguments = {key: value for key, value in arguments.items() if key in HUB_ARGUMENTS}
    stored = _stored_config(name_or_path, hub_arguments)
    if stored["model_type"] != TaiDptConfig.model_type:
        raise ValueError(
            f"{name_or_path!r} is a `{str(stored['model_type'])[:80]}` checkpoint, not a `taidpt` one: start prompts "
            f"on a CLIP with `TaiDptModel.from_clip({name_or_path!r}, labels=[...])`."
        )
    for_weights = (*HUB_ARGUMENTS, "dtype", "torch_dtype")
    kept = {key: value for key, value in arguments.items() if key in for_weights}
    options = {key: value for key, value in arguments.items() if key not in for_weights}
    options["name_or_path"] = name_or_path
    config, rest = TaiDptConfig.from_dict(stored, return_unused_kwargs=True, **options)
    return config, rest | kept


def require_weights(origin: Origin) -> list[str]:
    """Paths of the weight files of a checkpoint.

    Raises:
        OSError: it has none as safetensors; others are never read.
    """
    files = find_weight_files(origin)
    if not files:
        raise PlainError(
            f"{origin.name!r} holds no {SAFE_WEIGHTS_NAME}: save or push the model again, weights in other formats "
            "are not read."
        )
    return files


def load_clip(name_or_path: str, **arguments: Any) -> DualEncoder:
    """Loads a CLIP from a folder or the Hub; of a [`TaiDptModel`] checkpoint, the CLIP inside.

    Args:
        name_or_path (`str`): folder, repository, or name of a base that ships with the package.
        **arguments: `revision`, `token`, `cache_dir`, `local_files_only`, `dtype` and so on, as `from_pretrained`.

    Returns:
        [`~transformers.CLIPModel`], [`CLIPResNetModel`] or another dual encoder, in eval mode.

    Raises:
        ValueError: the checkpoint is not a CLIP, or lacks weights.
        OSError: the folder or repository cannot be read.
    """
    hub_arguments = {key: value for key, value in arguments.items() if key in HUB_ARGUMENTS}
    name_or_path = resolve_source(name_or_path)
    with plain_errors(name_or_path, arguments.get("revision")):
        config = load_config(name_or_path, **hub_arguments)
        if is_prompts_config(config):
            # the class of this very package, also where it runs as remote code: no code of the base is needed
            model_class = importlib.import_module(f"{__package__}.modeling_taidpt").TaiDptModel
            return model_class.from_pretrained(name_or_path, **arguments).clip
        arguments = storage_dtype(config.dtype, arguments)
        model, info = clip_class(config).from_pretrained(name_or_path, output_loading_info=True, **arguments)
    require_complete(name_or_path, info)
    return model


def load_config(name_or_path: str, **hub_arguments: Any) -> Any:
    """The configuration of a dual encoder or of a [`TaiDptModel`]; no code of a repository is run.

    Args:
        name_or_path (`str`): folder or repository.
        **hub_arguments: `revision`, `token` and so on.

    Returns:
        The configuration.

    Raises:
        ValueError: the folder or repository holds none, or one that cannot be used.
        OSError: it cannot be read.
    """
    stored = _stored_config(name_or_path, hub_arguments)
    if stored["model_type"] == TaiDptConfig.model_type:  # in remote code the auto class does not know it
        return TaiDptConfig.from_dict(stored, name_or_path=name_or_path)
    return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False, **hub_arguments)


def _stored_config(name_or_path: str, hub_arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        stored = PreTrainedConfig.get_config_dict(name_or_path, **hub_arguments)[0]
    except (TypeError, AttributeError, LookupError, RecursionError):  # of JSON that is not an object, or too deep
        stored = None
    if not isinstance(stored, dict) or not stored.get("model_type"):
        raise ValueError(
            f"{name_or_path!r} holds no model: its {CONFIG_NAME} is absent, damaged or names no `model_type`; check "
            "the name, or save the model there again."
        )
    check_code(stored)  # of a base, too
    return stored


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
    base_arguments = {key: value for key, value in arguments.items() if key in (*WHEREVER, "dtype", "torch_dtype")}
    base_arguments["revision"] = config.base_model_revision or "main"
    if is_remote_code() and config.base_model_name_or_path in SHIPPED_BASES:
        raise PlainError(
            f"The prompts in {name_or_path!r} were learned on {config.base_model_name_or_path!r}, which comes with "
            "the package: install it (`pip install taidpt`)."
        )
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

    Raises:
        ValueError: there is one that cannot be used; another would make other pixels.
    """
    for origin in origins(config):
        try:
            processor = origin.load(AutoImageProcessor)
            if not hasattr(processor, "max_num_patches"):  # SigLIP 2's cuts patches, which the model does itself
                return processor
        except (OSError, ValueError) as error:
            if (found := origin.find(IMAGE_PROCESSOR_NAME)) is not None:  # another one would make other pixels
                if (same := _without_torchvision(found, config.image_size)) is not None:
                    return same
                raise ValueError(f"The image processor {found!r} cannot be used: {one_line(error)}") from error
            logger.info(f"{origin.name} has no image processor: {error}")
    family = config.clip_config.model_type
    if family in ("siglip", "siglip2", "tipsv2"):
        return square_image_processor(config.image_size, plain=family == "tipsv2")
    return clip_image_processor(config.image_size)


def _without_torchvision(file: str, image_size: int) -> Any:
    """TIPS v2's image processor, which transformers has for torchvision alone; `None` where it is another one."""
    try:
        settings = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(settings, dict) or settings.get("image_processor_type") != "Tipsv2ImageProcessor":
        return None
    processor = square_image_processor(image_size, plain=True)
    for name in processor.to_dict():
        if name in settings and name != "image_processor_type":
            setattr(processor, name, settings[name])
    return processor


def square_image_processor(size: int, plain: bool = False) -> Any:
    """SigLIP's image processor, which squeezes to a square.

    Args:
        size (`int`): side in pixels.
        plain (`bool`, *optional*, defaults to `False`): leaves pixels in [0, 1] and resizes bilinearly, as TIPS v2.
    """
    from transformers import SiglipImageProcessor

    options = {"do_normalize": False, "resample": PIL.Image.Resampling.BILINEAR} if plain else {}
    return SiglipImageProcessor(size={"height": size, "width": size}, **options)


def clip_image_processor(size: int) -> Any:
    """CLIP's image processor: short side to `size` pixels, bicubic, center crop, CLIP's mean and std."""
    from transformers import CLIPImageProcessor  # says at import that it would rather have torchvision

    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def find_tokenizer(
    sources: Sequence[Origin], vocab_size: int, tokenizer: PreTrainedTokenizerBase | str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a CLIP: the argument, else the first source that has one, else CLIP's BPE of the package.

    Args:
        sources (`Sequence[Origin]`): folders or repositories, tried in order.
        vocab_size (`int`): vocabulary of the text tower.
        tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): taken as it is, or loaded from there.

    Returns:
        [`~transformers.PreTrainedTokenizerBase`]: its ids fit the vocabulary.

    Raises:
        ValueError: no source has a tokenizer and the vocabulary is not CLIP's, the one asked for has no words, or the
            tokenizer is too large.
    """
    if isinstance(tokenizer, str):  # another repository: the token and the cache hold there, a revision does not
        arguments = {key: value for each in sources for key, value in each.arguments.items() if key in WHEREVER}
        with plain_errors(tokenizer):
            tokenizer = _load_tokenizer(Origin(tokenizer, arguments))
    for source in sources:
        if tokenizer is not None:
            break
        try:
            tokenizer = _load_tokenizer(source)
        except (OSError, ValueError) as error:
            logger.info(f"{source.name} has no tokenizer: {error}")
    if tokenizer is None and vocab_size != CLIP_VOCAB_SIZE:
        raise ValueError(
            f"No tokenizer was found beside {[source.name for source in sources]} and the text tower has {vocab_size} "
            f"tokens, not CLIP's {CLIP_VOCAB_SIZE}: pass `tokenizer=`."
        )
    tokenizer = clip_tokenizer() if tokenizer is None else tokenizer
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, the text tower {vocab_size}: pass the tokenizer of this CLIP."
        )
    return tokenizer


def _load_tokenizer(source: Origin) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or repository; where there is only a model, transformers makes one silently."""
    tokenizer = source.load(AutoTokenizer)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{source.name!r} has no tokenizer files: every word would be unknown.")
    return tokenizer


def is_prompts_config(config: Any) -> bool:
    """Whether a configuration is one of [`TaiDptModel`], also when remote code imported it under another name."""
    return getattr(config, "model_type", None) == TaiDptConfig.model_type


__all__ = [
    "clip_class",
    "clip_image_processor",
    "find_image_processor",
    "find_tokenizer",
    "is_prompts_config",
    "load_clip",
    "load_config",
    "load_own_config",
    "load_prompts_only",
    "require_complete",
    "require_weights",
    "sample_weights",
    "settle",
    "storage_dtype",
]
