"""From what a person asks for (base, labels, recipe, settings) to a model and training arguments."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from transformers import HfArgumentParser, set_seed
from transformers.utils import logging

from ..configuration_taidpt import TaiDptConfig
from ..data.recipes import check_protocol, read_recipe
from ..hub import load_config
from ..hub_errors import plain_errors
from ..modeling_taidpt import TaiDptModel
from ..origins import HUB_ARGUMENTS, resolve_source
from ..visual_classifier import attach_classifier
from .arguments import PAPER_RECIPE, RECOMMENDED, TaiDptTrainingArguments

logger = logging.get_logger(__name__)


class _Parser(HfArgumentParser):
    """Reads the values of training arguments; says what is wrong instead of ending the process."""

    def error(self, message: str) -> Any:
        """Raise what argparse would print."""
        raise ValueError(f"Training arguments: {message.rstrip('.')}.")


def set_up_training(
    base: str,
    labels: Sequence[str],
    output_dir: str | Path,
    recipe: str | Mapping[str, Any] = RECOMMENDED,
    settings: Mapping[str, Any] | None = None,
    **hub_arguments: Any,
) -> tuple[TaiDptModel, TaiDptTrainingArguments]:
    """Makes an untrained model and the arguments to train it with.

    The random generators are seeded with the arguments' `seed` first, so that the prompts start alike every time.

    Args:
        base (`str`): CLIP to learn prompts on: folder, Hub repository, or name of a base that ships.
        labels (`Sequence[str]`): the labels, in the order of the logits.
        output_dir (`str` or `Path`): folder of the run.
        recipe (`str` or `Mapping`, *optional*, defaults to `"recommended"`): `"recommended"` is the base's own where
            it has one, else the paper's; `"paper"`; a JSON or YAML file, or a name, see [`read_recipe`]; or
            `{"model": {...}, "training": {...}}`.
        settings (`Mapping`, *optional*): fields of [`TaiDptTrainingArguments`] and [`TaiDptConfig`] that win over the
            recipe's; texts are read as on a command line ("1e-3", "true", "0.3,0.5").
        **hub_arguments: `revision`, `token` and so on, for the base; `descriptions` of the labels, see
            [`TaiDptModel.from_clip`].

    Returns:
        `tuple[TaiDptModel, TaiDptTrainingArguments]`.

    Raises:
        FileNotFoundError: If the recipe is a file that does not exist.
        ValueError: If a setting or an entry of the recipe is none, or has a value that it cannot have.
        OSError: If the base cannot be read.
    """
    recipe = find_recipe(recipe, base, **hub_arguments)
    training, options = split_settings(settings or {})
    recipe = {"training": {}} | recipe
    arguments = TaiDptTrainingArguments.from_recipe(recipe, output_dir=str(output_dir), **training)
    set_seed(arguments.seed)  # the prompts start at random
    model = TaiDptModel.from_clip(
        base, labels, **{"recipe": {"model": recipe.get("model", {})}} | options, **hub_arguments
    )
    return model, arguments


def find_recipe(
    recipe: str | Mapping[str, Any], base: str, protocol: str | None = None, **hub_arguments: Any
) -> dict[str, Any]:
    """The recipe of a name, a file or a base.

    Args:
        recipe (`str` or `Mapping`): as for [`set_up_training`].
        base (`str`): the CLIP.
        protocol (`str`, *optional*): of a recipe that has several; see [`read_recipe`].
        **hub_arguments: `revision`, `token` and so on, for the base.

    Returns:
        `dict`: `{"name": ..., "model": {...}, "training": {...}}`, and of a file what else it holds.

    Raises:
        FileNotFoundError: If there is no such file or name.
        OSError: If the base cannot be read.
        ValueError: If the file is not a recipe.
    """
    if isinstance(recipe, Mapping):
        return dict(recipe)
    if recipe in (RECOMMENDED, PAPER_RECIPE):
        check_protocol(protocol, repr(recipe))
    if recipe == RECOMMENDED:
        hub_arguments = {key: value for key, value in hub_arguments.items() if key in HUB_ARGUMENTS}
        with plain_errors(base, hub_arguments.get("revision")):
            config = load_config(resolve_source(base), **hub_arguments)
        found = getattr(config, "recommended_recipe", None)
        return {"name": "the base's own"} | found if found else {"name": PAPER_RECIPE, "training": {}}
    if recipe == PAPER_RECIPE:
        return {"name": PAPER_RECIPE, "training": {}}
    return read_recipe(recipe, protocol)


def split_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts settings into training arguments and model options, and reads those that are texts.

    Args:
        settings (`Mapping`): values by name.

    Returns:
        `tuple[dict, dict]`: fields of [`TaiDptTrainingArguments`], and of [`TaiDptConfig`].

    Raises:
        ValueError: If a name is neither, or a text cannot be read as its value.
    """
    arguments = {entry.name for entry in fields(TaiDptTrainingArguments) if entry.init}
    known = arguments | set(TaiDptConfig.__dataclass_fields__) | {"context_init", "language"}
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f": do you mean {close[0]!r}?" if close else "."
            raise ValueError(f"{name!r} is not a field of TaiDptTrainingArguments or TaiDptConfig{hint}")
    training = {name: value for name, value in settings.items() if name in arguments}
    texts = {name: value for name, value in training.items() if isinstance(value, str)}
    training |= _parse_arguments(texts) if texts else {}
    options = {name: value for name, value in settings.items() if name not in arguments}
    read: Callable[[Any], Any] = yaml.safe_load
    return training, {name: read(value) if isinstance(value, str) else value for name, value in options.items()}


def _parse_arguments(texts: Mapping[str, str]) -> dict[str, Any]:
    hints = get_type_hints(TaiDptTrainingArguments)
    command = []
    for name, text in texts.items():
        is_list = "list[" in str(hints[name]) and "str |" not in str(hints[name])
        command += [f"--{name}", *text.split(",")] if is_list else [f"--{name}={text}"]
    namespace = _Parser(TaiDptTrainingArguments).parse_args(command)
    return {name: getattr(namespace, name) for name in texts}


def settled_arguments(args: TaiDptTrainingArguments, model: Any, learns_images: bool) -> TaiDptTrainingArguments:
    """The arguments with a recipe: of `"recommended"` that of the model's base where it has one, else the paper's.

    Args:
        args ([`TaiDptTrainingArguments`]): as the user gave them; what is given in them wins over the recipe.
        model ([`TaiDptModel`]): the model to train.
        learns_images (`bool`): whether it learns from labelled images, for which no base has a recipe.

    Returns:
        [`TaiDptTrainingArguments`]: new ones, or those that have a recipe as they are.
    """
    if args.recipe != RECOMMENDED:
        return args
    found = None if learns_images else getattr(model.config, "recommended_recipe", None)
    return args.with_recipe(found or {"name": PAPER_RECIPE, "training": {}})


def checked_model(model: Any, args: TaiDptTrainingArguments) -> Any:
    """The model as it is.

    Raises:
        TypeError: If it has no prompts.
        ValueError: If there is none, or nothing in it can be learned as the arguments say.
    """
    if model is None:
        raise ValueError("There is no model to train: start one with `TaiDptModel.from_clip(clip, labels=[...])`.")
    if not hasattr(model, "encode_captions"):
        raise TypeError(f"A {type(model).__name__} has no prompts: start with `TaiDptModel.from_clip`.")
    if model.config.class_embedding_source == "fixed" and not model.config.linear_head:
        raise ValueError(
            "The model's class embeddings are fixed, there is nothing to learn: start with `TaiDptModel.from_clip`."
        )
    if model.config.linear_head and args.loss_on != "merged":
        raise ValueError(f"`loss_on` is {args.loss_on!r}, and a linear head is learned on 'merged' scores: set that.")
    return model


def forget_fits(model: Any) -> Any:
    """Drops what was fitted to the scores of prompts that will be learned further, and says so.

    Args:
        model ([`TaiDptModel`]): its visual classifier and its probabilities go if its context vectors are trainable.

    Returns:
        [`TaiDptModel`]: the same.
    """
    config, learner = model.config, getattr(model, "prompt_learner", None)
    if learner is None or not any(parameter.requires_grad for parameter in learner.parameters()):
        return model
    stale = []
    if model.visual_classifier is not None:
        attach_classifier(model, None)
        stale.append("its visual classifier (`taidpt adapt`)")
    if config.score_calibration is not None:
        config.score_scale, config.score_bias = 1.0, 0.0
        config.score_thresholds = config.score_calibration = None
        stale.append("its probabilities (`taidpt calibrate`)")
    if stale:
        logger.warning(f"The prompts of the model change: {' and '.join(stale)} are left out, fit them again.")
    return model


__all__ = ["checked_model", "find_recipe", "forget_fits", "set_up_training", "settled_arguments", "split_settings"]
