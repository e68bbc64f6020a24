"""Options of transformers' Trainer: they work as there, or are refused in one sentence before training."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from datasets import Dataset

from modeling_taidpt import TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments, mean_average_precision
from modeling_taidpt.captions.labeler import CaptionLabeler
from modeling_taidpt.losses import get_loss, smooth_labels
from modeling_taidpt.training.arguments import RANGES

from ..conftest import make_clip

LABELS = ["cat", "dog", "horse"]
CAPTIONS = [f"A {first} and a {second}, {n}." for n in range(4) for first in LABELS for second in LABELS]
HELD_OUT = ["A cat.", "Two dogs.", "A horse and a dog.", "A cat at night.", "A brown horse."]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def new_model(tokenizer):
    def make() -> TaiDptModel:
        torch.manual_seed(1)
        return TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=2)

    return make


@pytest.fixture
def new_trainer(tmp_path, cache, new_model):
    def make(trainer_options=None, **options) -> TaiDptTrainer:
        args = TaiDptTrainingArguments(
            str(tmp_path / "run"),
            **{
                "per_device_train_batch_size": 8,
                "per_device_eval_batch_size": 2,
                "max_steps": 4,
                "eval_strategy": "steps",
                "eval_steps": 2,
                "save_strategy": "steps",
                "save_steps": 2,
                "feature_cache_dir": str(cache),
                "add_templates": False,
                "disable_tqdm": True,
                "use_cpu": True,
                "report_to": "none",
                **options,
            },
        )
        given = {"model": new_model(), "train_dataset": CAPTIONS, "eval_dataset": HELD_OUT, **(trainer_options or {})}
        return TaiDptTrainer(args=args, **given)

    return make


def test_metrics_by_batch_are_those_of_all_at_once(new_trainer):
    seen = []

    def by_batch(prediction, compute_result):
        seen.append((prediction.predictions.shape, compute_result))
        return {"batches": len(seen)} if compute_result else {}

    whole = new_trainer().evaluate()
    batches = new_trainer({"compute_metrics": by_batch}, batch_eval_metrics=True)
    for found in (new_trainer(batch_eval_metrics=True).evaluate(), batches.evaluate()):
        for name in ("caption_map", "zero_shot_caption_map", "template_cosine", "loss"):
            assert found[f"eval_{name}"] == pytest.approx(whole[f"eval_{name}"])
    assert found["eval_batches"] == 3
    assert seen == [((2, 3), False), ((2, 3), False), ((1, 3), True)]
    assert batches.evaluate()["eval_caption_map"] == pytest.approx(whole["eval_caption_map"])  # nothing is left over
    with pytest.raises(ValueError, match="give it an argument `compute_result`"):
        new_trainer({"compute_metrics": lambda prediction: {}}, batch_eval_metrics=True)


@pytest.mark.parametrize("concatenated", [True, False])
@pytest.mark.parametrize("by_batch", [True, False])
@pytest.mark.parametrize("shape", ["classes", "tuple", "scores"])
def test_what_is_made_of_the_scores_goes_to_the_user_and_the_map_stays(new_trainer, shape, by_batch, concatenated):
    makers = {
        "classes": lambda scores, labels: scores.argmax(dim=1),
        "tuple": lambda scores, labels: (scores.argmax(dim=1), scores.max(dim=1).values),
        "scores": lambda scores, labels: scores.zero_(),  # in place
    }
    seen = []

    def users(prediction, compute_result=True):
        seen.append(prediction.predictions)
        return {"ours": 1.0}

    options = {"batch_eval_metrics": by_batch, "eval_do_concat_batches": concatenated}
    trainer = new_trainer({"preprocess_logits_for_metrics": makers[shape], "compute_metrics": users}, **options)
    found = trainer.evaluate()
    assert found["eval_caption_map"] == pytest.approx(new_trainer().evaluate()["eval_caption_map"])
    assert found["eval_ours"] == 1.0
    first = seen[0] if by_batch or concatenated else seen[0][0]
    count = 5 if concatenated and not by_batch else 2
    if shape == "tuple":
        assert [len(part) for part in first] == [count, count]
    else:
        assert first.shape == ((count,) if shape == "classes" else (count, 3))
    if not by_batch and concatenated:
        predicted = trainer.predict(HELD_OUT).predictions
        assert len(predicted[0] if shape == "tuple" else predicted) == 5


@pytest.mark.parametrize("on_device", [None, True])
def test_inputs_and_losses_are_included_for_metrics(new_trainer, on_device):
    seen = []

    def users(prediction):
        seen.append((prediction.inputs.shape, len(prediction.losses)))
        return {}

    options = {"include_for_metrics": ["inputs", "loss"], "features_on_device": on_device}
    trainer = new_trainer({"compute_metrics": users}, **options)
    trainer.train()
    assert seen[0] == ((5, 24), 5)
    assert trainer.model.main_input_name == "pixel_values"
    assert new_trainer(include_for_metrics=["inputs"]).train().global_step == 4


def test_the_first_of_several_evaluation_sets_chooses(new_trainer, caplog):
    sets = {"easy": HELD_OUT[:3], "hard": Dataset.from_dict({"caption": HELD_OUT})}
    trainer = new_trainer({"eval_dataset": sets})
    assert "The checkpoint is chosen by 'easy_caption_map'" in caplog.text
    metrics = trainer.train().metrics
    best = max(
        entry["eval_easy_caption_map"] for entry in trainer.state.log_history if "eval_easy_caption_map" in entry
    )
    assert trainer.state.best_metric == best
    assert {"easy_caption_map", "hard_caption_map", "hard_zero_shot_caption_map"} <= set(metrics)
    trainer = new_trainer({"eval_dataset": sets}, metric_for_best_model="eval_hard_loss", greater_is_better=False)
    assert trainer.train().global_step == 4
    assert len(list(trainer.get_eval_dataloader("hard"))) == 3


def test_raw_data_is_read_by_every_loader(new_trainer):
    trainer = new_trainer()
    expected = list(trainer.get_eval_dataloader())
    for raw in (HELD_OUT, Dataset.from_dict({"caption": HELD_OUT})):
        for loader in (trainer.get_eval_dataloader(raw), trainer.get_test_dataloader(raw)):
            found = list(loader)
            assert len(found) == len(expected) == 3
            assert torch.equal(found[2]["caption_embeds"], expected[2]["caption_embeds"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric_for_best_model": "accuracy"}, "'accuracy', which is not measured: choose one of caption_map, loss"),
        ({"prediction_loss_only": True}, "'caption_map', which is not measured: choose one of loss"),
        ({"train_sampling_strategy": "group_by_length"}, "choose 'random' or 'sequential'"),
        ({"neftune_noise_alpha": 5.0}, "`neftune_noise_alpha` is for embeddings of token ids"),
        ({"label_smoothing_factor": 0.1}, "does not go with loss='ranking': choose bce, focal, soft_ce"),
    ],
)
def test_what_cannot_work_is_said_before_training(new_trainer, options, words):
    with pytest.raises(ValueError, match=words):
        new_trainer(**options)


def test_no_number_is_absurd(tmp_path):
    """Whatever transformers takes: a training with them ends in NaN, in a traceback or never."""
    numbers = {
        entry.name
        for entry in fields(TaiDptTrainingArguments)
        if entry.init and isinstance(entry.default, (int, float)) and not isinstance(entry.default, bool)
    }
    assert {"learning_rate", "num_train_epochs", "weight_decay", "loss_weight", "validation_size"} < numbers
    for name in sorted(numbers | set(RANGES)):
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match=f"`{name}` is {value}: give a finite number"):
                TaiDptTrainingArguments(str(tmp_path / "run"), **{name: value})
    for name, (least, most) in RANGES.items():
        for value in (least - 1, 2 * most):
            with pytest.raises(ValueError, match=f"`{name}` is .*: give a number from"):
                TaiDptTrainingArguments(str(tmp_path / "run"), **{name: int(value)})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "chooses"),
    [
        ({}, True),
        ({"save_strategy": "best"}, True),
        ({"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 4}, True),
        ({"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 3}, False),
        ({"eval_strategy": "steps"}, False),
        ({"save_strategy": "no"}, False),
        ({"eval_strategy": "no"}, False),
        ({"save_strategy": "steps", "save_steps": 3}, False),
    ],
    ids=str,
)
def test_the_best_checkpoint_is_kept_where_all_are_scored(tmp_path, caplog, options, chooses):
    args = TaiDptTrainingArguments(str(tmp_path), report_to="none", **options)
    assert args.load_best_model_at_end is chooses
    assert ("the last one is kept" in caplog.text) == (not chooses and args.eval_strategy != "no")
    with pytest.raises(ValueError, match="requires the save and eval strategy to match"):
        TaiDptTrainingArguments(str(tmp_path), save_strategy="no", load_best_model_at_end=True)


@pytest.mark.filterwarnings("error:Label smoothing")  # transformers has none for many labels
@pytest.mark.parametrize("loss", ["bce", "focal", "soft_ce"])
def test_labels_are_smoothed(new_trainer, loss):
    trainer = new_trainer(loss=loss, label_smoothing_factor=0.2)
    batch = next(iter(trainer.get_eval_dataloader()))
    outputs = trainer.model(**{name: value for name, value in batch.items() if name != "labels"})
    soft = batch["labels"] * 0.8
    soft = soft + (0.2 * batch["labels"].sum(dim=1, keepdim=True) / 3 if loss == "soft_ce" else 0.1)
    expected = sum(get_loss(loss)(scores, soft) for scores in (outputs.logits_global, outputs.logits_local))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-6)
    assert smooth_labels(batch["labels"], 0.0, loss) is batch["labels"]


def test_a_model_of_model_init_learns_and_knows_what_a_given_one_does(new_trainer, new_model, tmp_path):
    options = {"caption_prototype_weight": 2.0, "learning_rate": 0.05}
    labeler = CaptionLabeler({"cat": ["kitten"], "dog": ["puppy"], "horse": ["pony"]})
    given = new_trainer({"labeler": labeler}, **options)
    made = new_trainer({"model": None, "model_init": new_model, "labeler": labeler}, **options)
    for trainer in (given, made):
        trainer.train()
    assert given.model.config.class_table == made.model.config.class_table is not None
    for name, value in given.model.prompt_learner.state_dict().items():
        assert torch.equal(value, made.model.prompt_learner.state_dict()[name])


def test_a_model_of_model_init_keeps_the_labels(new_trainer, tokenizer):
    labels = iter([LABELS, LABELS[::-1], LABELS[::-1]])
    init = {"model": None, "model_init": lambda: TaiDptModel.from_clip(make_clip(), next(labels), tokenizer)}
    with pytest.raises(ValueError, match="`model_init` made a model of other labels, or in another order"):
        new_trainer(init).train()


def test_class_0_of_one_label_a_row_is_learned(new_trainer):
    features = datasets_of_one_label()
    trainer = new_trainer({"train_dataset": features, "eval_dataset": features}, label_column="label")
    assert trainer.train_dataset.labels.sum(axis=0).tolist() == [4, 4, 4]
    scores = trainer.predict(features)
    assert np.asarray(scores.label_ids).sum(axis=0).tolist() == [4, 4, 4]
    assert scores.metrics["test_caption_map"] == pytest.approx(
        mean_average_precision(scores.predictions, scores.label_ids)["map"]
    )


def datasets_of_one_label() -> Dataset:
    from datasets import ClassLabel, Features, Value

    rows = {"caption": [f"picture {n}" for n in range(12)], "label": [n % 3 for n in range(12)]}
    return Dataset.from_dict(rows, Features({"caption": Value("string"), "label": ClassLabel(names=LABELS)}))


def test_the_base_s_recipe_is_the_default(new_model, tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    model = new_model()
    assert TaiDptTrainer(model, train_dataset=CAPTIONS).args.recipe == "paper"
    training = {"learning_rate": 0.25, "max_steps": 3}
    model.config.recommended_recipe = {"name": "of the base", "training": training}
    args = TaiDptTrainer(model, train_dataset=CAPTIONS).args
    assert (args.recipe, args.learning_rate, args.max_steps) == ("of the base", 0.25, 3)
