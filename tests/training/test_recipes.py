"""Which recipe a training follows: what is given, then the base's own, then the paper's."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from transformers import HfArgumentParser

from modeling_taidpt import TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments
from modeling_taidpt.training.setup import set_up_training

from ..conftest import make_clip

RECIPE = {
    "name": "tiny",
    "model": {"class_specific_context": True, "context_init": "a photo of a"},
    "training": {"learning_rate": 0.5, "max_steps": 2, "optim": "adamw_torch", "per_device_train_batch_size": 8},
}
CAPTIONS = [f"A {name} number {number}." for name in ("dog", "cat") for number in range(20)]


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    """A CLIP that recommends a recipe, as a folder."""
    folder = tmp_path_factory.mktemp("base")
    clip = make_clip()
    clip.config.recommended_recipe = RECIPE
    clip.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def settled(base, tmp_path, train_dataset=None, **options) -> TaiDptTrainingArguments:
    model = TaiDptModel.from_clip(base, ["dog", "cat"])
    fixed = {"report_to": "none", "feature_cache_dir": str(tmp_path / "cache"), "use_cpu": True, "disable_tqdm": True}
    args = TaiDptTrainingArguments(str(tmp_path / "run"), **fixed, **options)
    return TaiDptTrainer(model, args, train_dataset=CAPTIONS if train_dataset is None else train_dataset).args


def test_python_and_command_take_the_same_recipe(base, tmp_path):
    model, args = set_up_training(base, ["dog", "cat"], tmp_path)
    own, ours = TaiDptModel.from_clip(base, ["dog", "cat"]), settled(base, tmp_path)
    assert own.config.class_specific_context and own.config.num_context_tokens == 4
    assert own.config.to_dict() == model.config.to_dict()
    names = (*RECIPE["training"], "recipe", "weight_decay", "optim_args", "loss", "lr_scheduler_type")
    assert {name: getattr(ours, name) for name in names} == {name: getattr(args, name) for name in names}
    assert ours.recipe == "tiny" and ours.optim_args is None  # momentum is of the paper's SGD
    args = TaiDptTrainer(own, train_dataset=CAPTIONS).args  # without any arguments, too
    assert (args.recipe, args.max_steps) == ("tiny", 2)


def test_what_is_given_wins(base, tmp_path):
    # 1e-4 is the default, and given all the same
    args = settled(base, tmp_path, learning_rate=1e-4, num_train_epochs=3, eval_strategy="no")
    assert (args.learning_rate, args.num_train_epochs, args.max_steps) == (1e-4, 3, -1)
    assert args.per_device_train_batch_size == 8 and args.recipe == "tiny" and not args.load_best_model_at_end
    assert settled(base, tmp_path, recipe="paper", per_device_train_batch_size=8).max_steps == -1
    model = TaiDptModel.from_clip(base, ["dog"], num_context_tokens=3)
    assert model.config.num_context_tokens == 3 and model.config.class_specific_context
    model = TaiDptModel.from_clip(base, ["dog"], recipe="paper")
    assert model.config.num_context_tokens == 16 and not model.config.class_specific_context
    model = TaiDptModel.from_clip(base, ["dog"], recipe={"model": {"num_context_tokens": 2}})
    assert model.config.num_context_tokens == 2 and not model.config.class_specific_context
    with pytest.raises(ValueError, match="`recipe` is 'best': give 'recommended', 'paper'"):
        TaiDptModel.from_clip(base, ["dog"], recipe="best")


def test_arguments_that_are_set_later_or_copied_are_given(tmp_path):
    args = TaiDptTrainingArguments(str(tmp_path), weight_decay=0.25)
    args.learning_rate = 0.125
    for each in (args, copy.copy(args), pickle.loads(pickle.dumps(args))):
        new = each.with_recipe(RECIPE)
        assert (new.learning_rate, new.weight_decay, new.max_steps, new.recipe) == (0.125, 0.25, 2, "tiny")
    copied = copy.copy(args)
    copied.max_steps = 5
    assert (copied.with_recipe(RECIPE).max_steps, args.with_recipe(RECIPE).max_steps) == (5, 2)


def test_a_parser_that_gives_all_arguments_gives_those_that_differ(tmp_path):
    command = ["--output_dir", str(tmp_path), "--weight_decay", "0.25"]
    (args,) = HfArgumentParser(TaiDptTrainingArguments).parse_args_into_dataclasses(command)
    new = args.with_recipe(RECIPE)
    assert (new.learning_rate, new.weight_decay, new.output_dir) == (0.5, 0.25, str(tmp_path))


def test_a_base_without_a_recipe_and_images_have_the_papers(base, tmp_path, tokenizer):
    model = TaiDptModel.from_clip(make_clip(), ["dog", "cat"], tokenizer)
    args = TaiDptTrainingArguments(str(tmp_path), per_device_train_batch_size=8, report_to="none")
    args = TaiDptTrainer(model, args, train_dataset=CAPTIONS).args
    assert (args.recipe, args.max_steps, args.optim_args) == ("paper", -1, "momentum=0.9")
    rows = [{"image": np.zeros((32, 32, 3), dtype=np.uint8), "labels": ["dog"]}] * 2
    assert settled(base, tmp_path, rows).recipe == "paper"
