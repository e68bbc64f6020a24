"""OpenAI CLIP state dicts (ResNet or ViT) to `CLIPResNetModel` or transformers' `CLIPModel`.

Source of the key names: the published `clip/model.py` (`build_model`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from ..atomic import require_folder, staged_folder
from ..configuration_checks import check_towers, one_line
from ..configuration_taidpt import DAMAGED, CLIPResNetConfig
from ..hub import clip_image_processor
from ..modeling_clip_resnet import CLIPResNetModel
from ..stored_weights import old_weights
from ..tokenization_taidpt import clip_tokenizer
from .weight_files import read_weights, state_dict_of

_IGNORED = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # the last part of a key
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_NAMES = (
    ("token_embedding.", "text_model.embeddings.token_embedding."),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("visual.attnpool.", "vision_model.attention_pool."),
    ("visual.", "vision_model.trunk."),
)
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def convert_openai_clip(state_dict: Mapping[str, torch.Tensor]) -> CLIPModel | CLIPResNetModel:
    """Builds a CLIP of transformers from the weights that OpenAI published.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): keys as in OpenAI's `RN50.pt`, `ViT-B-16.pt` and so on, any dtype.

    Returns:
        [`~transformers.CLIPModel`] for ViT towers, [`CLIPResNetModel`] for ResNet towers, in fp32 and in eval mode.

    Raises:
        ValueError: `state_dict` is not one of an OpenAI CLIP; a key that is missing or left over is named.
    """
    if "text_projection" not in state_dict or "token_embedding.weight" not in state_dict:
        raise ValueError("This is not an OpenAI CLIP: `text_projection` or `token_embedding.weight` is missing.")
    is_vit = "visual.proj" in state_dict
    config_class, model_class = (CLIPConfig, CLIPModel) if is_vit else (CLIPResNetConfig, CLIPResNetModel)
    try:
        config = config_class(
            text_config=_text_config(state_dict),
            vision_config=_vit_config(state_dict) if is_vit else _resnet_config(state_dict),
            projection_dim=state_dict["text_projection"].shape[1],
        )
        check_towers(config.to_dict())
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in model_class(config).state_dict().items()}
        converted = {}
        for key, value in state_dict.items():
            if key.rpartition(".")[2] not in _IGNORED:
                converted.update(_convert_entry(key, value.float() if value.is_floating_point() else value))
    except KeyError as error:
        raise ValueError(f"This is not an OpenAI CLIP: the key {error} is missing.") from error
    except (*DAMAGED, RuntimeError) as error:
        raise ValueError(f"This is not an OpenAI CLIP: its shapes do not fit ({one_line(error)}).") from error
    _require_fit(expected, converted)
    model = model_class(config).eval()
    model.load_state_dict(converted)
    return model


def _require_fit(expected: Mapping[str, torch.Size], converted: Mapping[str, torch.Tensor]) -> None:
    """Raises a `ValueError` where weights are missing, left over or of another shape, before any are allocated."""
    missing, left = sorted(expected.keys() - converted.keys()), sorted(converted.keys() - expected.keys())
    if missing or left:
        raise ValueError(f"The state dict does not fit an OpenAI CLIP: missing {missing[:3]}, left over {left[:3]}.")
    for name, shape in expected.items():
        if converted[name].shape != shape:
            raise ValueError(
                f"The state dict does not fit an OpenAI CLIP: {name} has the shape {tuple(converted[name].shape)}, "
                f"{tuple(shape)} is needed."
            )


def convert_openai_checkpoint(
    checkpoint: str | Path, save_directory: str | Path | None = None
) -> CLIPModel | CLIPResNetModel:
    """Reads a file that OpenAI published, as `RN50.pt`, `RN101.pt` or `ViT-B-16.pt`.

    Args:
        checkpoint (`str` or `Path`): a TorchScript archive, as they are published, or a state dict of the same keys.
            Nothing in the file is run; see [`read_weights`].
        save_directory (`str` or `Path`, *optional*): folder for the model, CLIP's tokenizer and image processor;
            `TaiDptModel.from_clip` takes it.

    Returns:
        [`~transformers.CLIPModel`] for ViT towers, [`CLIPResNetModel`] for ResNet towers, in fp32 and in eval mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no OpenAI CLIP; a key that is missing or left over is named.
    """
    require_folder(save_directory)
    weights = read_weights(checkpoint)
    try:
        model = convert_openai_clip(state_dict_of(weights, checkpoint))
    except ValueError as error:
        raise ValueError(f"The weight file {str(checkpoint)!r}: {error}") from error
    if save_directory is not None:
        target = Path(save_directory)
        with staged_folder(target, lambda written: old_weights(target)) as folder:
            model.save_pretrained(folder)
            clip_tokenizer().save_pretrained(folder)
            clip_image_processor(model.config.vision_config.image_size).save_pretrained(folder)
    return model


def _count(state_dict: Mapping[str, torch.Tensor], pattern: str) -> int:
    return len({match.group(1) for key in state_dict if (match := re.match(pattern, key))})


def _text_config(state_dict: Mapping[str, torch.Tensor]) -> dict:
    width = state_dict["ln_final.weight"].shape[0]
    vocab_size = state_dict["token_embedding.weight"].shape[0]
    return {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": state_dict["text_projection"].shape[1],
        "num_hidden_layers": _count(state_dict, r"transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": state_dict["positional_embedding"].shape[0],
        "pad_token_id": vocab_size - 1,
        "bos_token_id": vocab_size - 2,
        "eos_token_id": vocab_size - 1,
    }


def _vit_config(state_dict: Mapping[str, torch.Tensor]) -> dict:
    width, _, patch_size, _ = state_dict["visual.conv1.weight"].shape
    grid = round((state_dict["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": state_dict["visual.proj"].shape[1],
        "num_hidden_layers": _count(state_dict, r"visual\.transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": max(1, width // 64),
        "image_size": grid * patch_size,
        "patch_size": patch_size,
    }


def _resnet_config(state_dict: Mapping[str, torch.Tensor]) -> dict:
    width = state_dict["visual.layer1.0.conv1.weight"].shape[0]
    grid = round((state_dict["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "layers": [_count(state_dict, rf"visual\.layer{stage}\.(\d+)\.") for stage in range(1, 5)],
        "width": width,
        "image_size": grid * 32,
        "projection_dim": state_dict["visual.attnpool.c_proj.weight"].shape[0],
    }


def _convert_entry(key: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """One entry under the names of transformers; a fused in-projection becomes three entries."""
    # A ViT has one convolution, `visual.conv1` of (width, 3, patch, patch); a ResNet's stem convolution is 3x3.
    if key == "visual.conv1.weight" and value.shape[-1] > 3:
        return {"vision_model.embeddings.patch_embedding.weight": value}
    if key in _TRANSPOSED:
        return {_TRANSPOSED[key]: value.T.contiguous()}  # (projection_dim, width)
    block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", key)
    if block is None:
        return {_plain_name(key): value}
    tower, index, name, kind = block.groups()
    prefix = f"{'vision_model' if tower else 'text_model'}.encoder.layers.{index}"
    if name == "attn.in_proj":
        parts = value.chunk(3)  # three of (width, width) or (width,)
        return {f"{prefix}.self_attn.{n}_proj.{kind}": part.clone() for n, part in zip("qkv", parts, strict=True)}
    return {f"{prefix}.{_BLOCK[name]}.{kind}": value}


def _plain_name(key: str) -> str:
    for old, new in _NAMES:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


__all__ = ["convert_openai_checkpoint", "convert_openai_clip"]
