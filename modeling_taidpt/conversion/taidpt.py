"""Checkpoints of the published TaI-DPT code to [`TaiDptModel`].

Source of the key names: the published `trainers/Caption_distill_double.py` (`PromptLearner`); a training run writes
`prompt_learner/model-best.pth.tar` and `prompt_learner/model.pth.tar-<epoch>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..atomic import require_folder
from ..captions.class_tables import PRESETS, load_class_table
from ..modeling_clip_resnet import CLIPResNetModel
from ..modeling_taidpt import TaiDptModel
from .openai import convert_openai_checkpoint
from .weight_files import read_weights, state_dict_of

logger = logging.get_logger(__name__)

START_OF_SCALES = 3.0  # the published learner's scales are stored as logarithms, and stay there unless learned
MAX_LOG_SCALE = 10.0
NUSWIDE_IMAGE_SPATIAL_SCALE = 4.0


def convert_taidpt_checkpoint(
    checkpoint: str | Path,
    clip: str | Path | CLIPModel | CLIPResNetModel,
    labels: str | Sequence[str],
    save_directory: str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    **config: Any,
) -> TaiDptModel:
    """Builds a model from the contexts that the published code learned.

    The stored token vectors are ignored, prompts are laid out anew. Scales that a run learned
    (`IF_LEARN_SCALE`, `IF_LEARN_spatial_SCALE`) become the configuration's.

    Args:
        checkpoint (`str` or `Path`): `prompt_learner/model-best.pth.tar`, contexts shared or class-specific. Nothing
            in the file is run; see [`read_weights`].
        clip (`str` or `CLIPModel` or [`CLIPResNetModel`]): the CLIP that they were learned on: a Hub repository, a
            folder, a model, or OpenAI's own file, as `RN50.pt`.
        labels (`str` or `Sequence[str]`): class names as the run had them, in its order; or `"voc20"`, `"coco80"`
            or `"nuswide81"`, the names and order of the published code.
        save_directory (`str` or `Path`, *optional*): folder for the model, its tokenizer and image processor.
        tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): as for [`TaiDptModel.from_clip`].
        **config: as for [`TaiDptModel.from_clip`]; `class_token_position` where the run had another than `"end"`.
            `image_spatial_scale` is 4 by default for `"nuswide81"`, as in the published configuration, else 40.

    Returns:
        [`TaiDptModel`]: in eval mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no such contexts, or they do not fit the CLIP or the labels.
    """
    require_folder(save_directory)
    state = state_dict_of(read_weights(checkpoint), checkpoint)
    contexts = _read_contexts(state, str(checkpoint))
    if isinstance(labels, str):
        labels, config = _published_labels(labels, config)
    if contexts[0].dim() == 3 and len(contexts[0]) != len(labels):
        raise ValueError(
            f"The checkpoint {str(checkpoint)!r} holds contexts for {len(contexts[0])} classes and there are "
            f"{len(labels)} labels: give those of its run, in its order."
        )
    if isinstance(clip, (str, Path)) and Path(clip).is_file():
        clip = convert_openai_checkpoint(clip)
    options = _learned_scales(state) | config
    options |= {"num_context_tokens": contexts[0].shape[-2], "class_specific_context": contexts[0].dim() == 3}
    model = TaiDptModel.from_clip(clip, labels, tokenizer, **{"recipe": "paper"} | options)
    for name, context in zip(("global_context", "local_context"), contexts, strict=True):
        target = getattr(model.prompt_learner, name)
        if target.shape != context.shape:
            raise ValueError(
                f"The checkpoint {str(checkpoint)!r} holds contexts of width {context.shape[-1]}, the text tower has "
                f"{target.shape[-1]}: give the CLIP that they were learned on."
            )
        with torch.no_grad():
            target.copy_(context)
    if save_directory is not None:
        model.save_pretrained(save_directory)  # with its tokenizer and image processor
    return model


def _read_contexts(state: dict[str, Any], source: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Contexts of the global and of the local branch, `(length, width)` or `(classes, length, width)` each."""
    if "ctx_neg" in state:
        raise ValueError(
            f"The checkpoint {source!r} holds negative contexts (`ctx_neg`): it is one of DualCoOp, whose scores "
            "are not TaI-DPT's."
        )
    contexts = tuple(state.get(name) for name in ("ctx", "ctx_double"))
    for name, context in zip(("ctx", "ctx_double"), contexts, strict=True):
        if not isinstance(context, torch.Tensor) or context.dim() not in (2, 3):
            raise ValueError(
                f"The checkpoint {source!r} holds no `{name}` of two or three dimensions: give the "
                "`prompt_learner/model-best.pth.tar` of a published run."
            )
    if not all(context.is_floating_point() and context.isfinite().all() and context.numel() for context in contexts):
        raise ValueError(f"The checkpoint {source!r} holds contexts that are not finite numbers: it is damaged.")
    if contexts[0].shape != contexts[1].shape:
        raise ValueError(
            f"The checkpoint {source!r} holds `ctx` {tuple(contexts[0].shape)} and `ctx_double` "
            f"{tuple(contexts[1].shape)}: the two branches must have one shape."
        )
    return contexts[0].float(), contexts[1].float()


def _published_labels(preset: str, config: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    if preset not in PRESETS:
        raise ValueError(f"`labels` is {preset!r}: give a list of class names, or one of {', '.join(PRESETS)}.")
    if preset == "nuswide81":
        config = {"image_spatial_scale": NUSWIDE_IMAGE_SPATIAL_SCALE} | config
    return [entry["name"] for entry in load_class_table(preset)], config


def _learned_scales(state: dict[str, Any]) -> dict[str, float]:
    """Options of the scales that a run learned: those that left their start."""
    scales: dict[str, float] = {}
    for key, names in (
        ("temperature", ("logit_scale",)),
        ("spatial_T", ("text_spatial_scale", "image_spatial_scale")),
    ):
        value = state.get(key)
        if value is None:
            continue
        if value.numel() != 1 or not 0 <= float(value) < MAX_LOG_SCALE:
            raise ValueError(f"The scale `{key}` of the run is not one number from 0 to {MAX_LOG_SCALE:g}.")
        if float(value) != START_OF_SCALES:
            scales |= dict.fromkeys(names, float(value.float().exp()))
            logger.warning(f"The run learned its scale `{key}`: {' and '.join(names)} become {scales[names[0]]:.4g}.")
    return scales


__all__ = ["convert_taidpt_checkpoint"]
