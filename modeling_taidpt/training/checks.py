"""What a trainer wants of its arguments and its model before it starts."""

from __future__ import annotations

import copy
from typing import Any

from transformers import TrainingArguments
from transformers.utils import logging

from .arguments import TaiDptTrainingArguments

logger = logging.get_logger(__name__)


def checked_arguments(args: Any) -> TaiDptTrainingArguments:
    """The arguments as they are.

    Raises:
        TypeError: If they are of another class.
    """
    if isinstance(args, TaiDptTrainingArguments):
        return args
    what = "TrainingArguments of transformers" if isinstance(args, TrainingArguments) else type(args).__name__
    raise TypeError(f"`args` are {what}: make TaiDptTrainingArguments, with the same arguments.")


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


def without_selection(args: TaiDptTrainingArguments, kind: str) -> TaiDptTrainingArguments:
    """A copy of the arguments that evaluates nothing and keeps the last checkpoint."""
    logger.warning(f"No {kind}s are held out: nothing is evaluated and the last checkpoint is kept.")
    args = copy.copy(args)
    args.eval_strategy = type(args.eval_strategy)("no")
    args.load_best_model_at_end, args.do_eval = False, False
    if args.save_strategy == "best":
        args.save_strategy = type(args.save_strategy)("epoch")
    return args


__all__ = ["checked_arguments", "checked_model", "without_selection"]
