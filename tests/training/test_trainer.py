"""Training from captions: the paper's recipe, the loss, selection, resumption, reports, errors."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from dataclasses import fields

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import HfArgumentParser, TrainerCallback, TrainingArguments

from modeling_taidpt.captions.labeler import CaptionLabeler
from modeling_taidpt.captions.labels import model_labeler
from modeling_taidpt.captions.synthetic import template_sentences
from modeling_taidpt.evaluation.metrics import mean_average_precision
from modeling_taidpt.features.captions import CaptionFeatures, collate_features
from modeling_taidpt.losses import RankingLoss
from modeling_taidpt.modeling_taidpt import TaiDptModel
from modeling_taidpt.training.prototype_loss import prototype_term
from modeling_taidpt.training.schedules import epoch_learning_rate
from modeling_taidpt.training.trainer import TaiDptTrainer, TaiDptTrainingArguments

from ..conftest import make_clip

LABELS = ["dog", "cat", "horse", "car"]
PLACES = ["on the beach", "in a garden", "near the old house", "under a tree", "at night"]
CAPTIONS = [
    *(f"A {label} {place}." for label, place in itertools.product(LABELS, PLACES)),
    *(f"A {first} and a {second} {PLACES[0]}." for first, second in itertools.permutations(LABELS, 2)),
    "An empty street.",
    "Nobody is here.",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def new_model(tokenizer):
    def make(seed: int = 3, **config) -> TaiDptModel:
        clip = make_clip()
        torch.manual_seed(seed)
        options = {"num_context_tokens": 4, "base_model_name_or_path": "some/clip", **config}
        return TaiDptModel.from_clip(clip, labels=LABELS, tokenizer=tokenizer, **options)

    return make


@pytest.fixture
def arguments(tmp_path, cache):
    def make(output: str = "run", **options) -> TaiDptTrainingArguments:
        defaults = {
            "per_device_train_batch_size": 8,
            "num_train_epochs": 3,
            "learning_rate": 0.05,
            "feature_cache_dir": str(cache),
            "validation_size": 0.25,
            "add_templates": False,
            "disable_tqdm": True,
            "use_cpu": True,
            "report_to": "none",
            "logging_steps": 1,
            "dataloader_pin_memory": False,
        }
        return TaiDptTrainingArguments(str(tmp_path / output), **{**defaults, **options})

    return make


@pytest.fixture
def new_trainer(new_model, arguments):
    def make(output: str = "run", captions=CAPTIONS, model=None, trainer_options=None, **options) -> TaiDptTrainer:
        dataset = Dataset.from_dict({"caption": captions}) if isinstance(captions, list) else captions
        return TaiDptTrainer(
            model or new_model(), arguments(output, **options), train_dataset=dataset, **(trainer_options or {})
        )

    return make


def contexts(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.prompt_learner.named_parameters()}


def assert_same_contexts(first, second):
    for name in first:
        assert torch.equal(first[name], second[name]), name


# ---------------------------------------------------------------------- recipe


def test_the_defaults_are_the_recipe_of_the_paper(tmp_path):
    args = TaiDptTrainingArguments(str(tmp_path))
    assert (args.learning_rate, args.num_train_epochs, args.per_device_train_batch_size) == (1e-4, 20, 512)
    assert (args.optim.value, args.optim_args, args.weight_decay) == ("sgd", "momentum=0.9", 5e-4)
    assert (args.lr_scheduler_type, args.warmup_learning_rate) == ("epoch_cosine", 1e-5)
    assert args.dataloader_drop_last is True
    assert (args.loss, args.loss_weight, args.caption_prototype_weight, args.add_templates) == ("ranking", 1, 0, True)
    assert args.max_grad_norm == 0  # the published code clips nothing
    assert args.metric_for_best_model == "caption_map"
    assert args.greater_is_better is True


def test_the_learning_rate_of_each_epoch_is_that_of_the_paper():
    rates = [epoch_learning_rate(epoch, 20, 1e-4) for epoch in range(20)]
    assert rates[0] == 1e-5
    assert rates[1:] == [0.5 * 1e-4 * (1 + math.cos(math.pi * (epoch - 1) / 20)) for epoch in range(1, 20)]


def test_the_optimizer_takes_the_schedule_momentum_and_weight_decay(new_trainer):
    rates = []

    class Recorder(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs):
            groups = [group for group in optimizer.param_groups if group["params"]]
            assert len(groups) == 1
            assert (groups[0]["momentum"], groups[0]["weight_decay"]) == (0.9, 5e-4)
            assert len(groups[0]["params"]) == 2  # the contexts, nothing else
            rates.append(groups[0]["lr"])

    trainer = new_trainer(num_train_epochs=4, trainer_options={"callbacks": [Recorder()]})
    trainer.train()
    steps = len(trainer.train_dataset) // 8
    assert steps >= 2
    expected = [epoch_learning_rate(epoch, 4, 0.05) for epoch in range(4) for _ in range(steps)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert expected[0] == 1e-5


def test_schedules_and_optimizers_of_transformers_replace_the_paper_s(new_trainer):
    trainer = new_trainer(lr_scheduler_type="linear", optim="adamw_torch", num_train_epochs=1)
    assert trainer.args.optim_args is None
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx(np.linspace(0.05, 0, len(rates) + 1)[:-1])
    assert type(trainer.optimizer.optimizer).__name__ == "AdamW"


def test_arguments_come_from_a_command_line_and_from_a_recipe(tmp_path):
    command = ["--output_dir", str(tmp_path), "--lr_scheduler_type", "cosine", "--loss", "asl", "--max_captions", "5"]
    args = HfArgumentParser(TaiDptTrainingArguments).parse_args_into_dataclasses(command)[0]
    assert (args.lr_scheduler_type.value, args.loss, args.max_captions) == ("cosine", "asl", 5)
    training = {"optim": "adamw_torch", "caption_prototype_weight": 10.0}
    recipe = {"model": {"num_context_tokens": 4}, "training": training}
    args = TaiDptTrainingArguments.from_recipe(recipe, output_dir=str(tmp_path), learning_rate=1e-3)
    assert (args.optim.value, args.caption_prototype_weight, args.learning_rate) == ("adamw_torch", 10, 1e-3)
    assert args.describe_recipe().startswith("Recipe: custom (adamw_torch")
    assert args.num_train_epochs == 20
    with pytest.raises(ValueError, match="'momentum' in the recipe"):
        TaiDptTrainingArguments.from_recipe({"training": {"momentum": 0.9}}, output_dir=str(tmp_path))
    with pytest.raises(ValueError, match="no 'training' arguments"):
        TaiDptTrainingArguments.from_recipe({}, output_dir=str(tmp_path))


def test_training_arguments_of_our_own_are_few():
    ours = {entry.name for entry in fields(TaiDptTrainingArguments)} - {
        entry.name for entry in fields(TrainingArguments)
    }
    assert len(ours) <= 24, sorted(ours)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"loss": "hinge"}, "`loss` is 'hinge': choose one of ranking"),
        ({"loss_on": "text"}, "`loss_on` is 'text': choose one of both"),
        ({"shots": 0}, "`shots` is 0"),
        ({"known_labels": 1.1}, "`known_labels` is 1.1"),
        ({"feature_dtype": "int8"}, "`feature_dtype`"),
        ({"labeling_method": "magic"}, "`labeling_method`"),
        ({"validation_size": 1.5}, "`validation_size`"),
        ({"max_captions": 0}, "`max_captions`"),
    ],
)
def test_an_impossible_option_is_named(tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        TaiDptTrainingArguments(str(tmp_path), **option)


# ---------------------------------------------------------------------- loss


def one_batch(trainer, count=6):
    return collate_features([trainer.train_dataset[index] for index in range(count)])


def plain_ranking(logits, labels):
    """The published computation: a cube of all pairs."""
    pairs = (1 - logits[:, :, None] + logits[:, None, :]).clamp(min=0)
    return (pairs * labels[:, :, None] * (1 - labels[:, None, :])).sum(dim=(1, 2)).mean()


def test_the_loss_is_that_of_the_captions_themselves(new_trainer):
    trainer = new_trainer(validation_size=0, loss_weight=0.5)
    batch = one_batch(trainer)
    model = trainer.model.train()
    loss = trainer.compute_loss(model, batch)
    tokens = trainer.tokenizer(CAPTIONS[:6], padding=True, return_tensors="pt")
    outputs = model(**tokens)
    both = (outputs.logits_global, outputs.logits_local)
    expected = sum(plain_ranking(logits, batch["labels"]) for logits in both)
    assert loss.item() == pytest.approx(0.5 * expected.item(), rel=1e-5)
    ours = torch.autograd.grad(loss, list(model.prompt_learner.parameters()))
    theirs = torch.autograd.grad(0.5 * expected, list(model.prompt_learner.parameters()))
    for gradient, reference in zip(ours, theirs, strict=True):
        # In norm: single entries near zero carry the rounding of sums in another order.
        assert (gradient - reference).norm() <= 1e-4 * reference.norm()


def test_the_prototype_term_pulls_class_embeddings_to_mean_caption_features(new_trainer):
    trainer = new_trainer(validation_size=0, loss_weight=0, caption_prototype_weight=2.0, add_templates=True)
    trainer._prepare_prototypes()
    model = trainer.model.train()
    loss = trainer.compute_loss(model, one_batch(trainer))
    labelled = trainer.train_dataset.labels[: len(CAPTIONS) - 2]
    pooled = torch.stack([trainer.train_dataset[index]["caption_embeds"] for index in range(len(labelled))])
    expected = 0.0
    for column, (global_embedding, local_embedding) in enumerate(zip(*model.encode_classes(), strict=True)):
        mean = pooled[torch.from_numpy(labelled[:, column] == 1)].mean(dim=0)  # templates do not count
        for embedding in (global_embedding, local_embedding):
            expected += 2 * (1 - torch.cosine_similarity(embedding, mean, dim=0)).item() / len(LABELS)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.prompt_learner.parameters())


def test_a_class_without_captions_has_no_part_in_the_prototype_term():
    embeddings = torch.nn.functional.normalize(torch.randn(3, 5), dim=-1).requires_grad_()
    prototypes = torch.nn.functional.normalize(torch.randn(2, 2, 5), dim=-1)
    term = prototype_term(embeddings, embeddings, prototypes, torch.tensor([True, False, True]))
    term.backward()
    assert not embeddings.grad[1].any()
    assert embeddings.grad[0].any()


def test_a_subclass_changes_batches_and_adds_to_the_loss(new_model, arguments):
    class Halved(TaiDptTrainer):
        def augment_features(self, batch):
            return {**batch, "caption_embeds": batch["caption_embeds"] / 2}

        def extra_loss(self, outputs):
            assert outputs.class_embeddings[0].shape == (len(LABELS), 24)
            return 3 * outputs.class_embeddings[0].sum()

    data = Dataset.from_dict({"caption": CAPTIONS})
    plain, changed = (
        kind(new_model(), arguments(max_steps=1), train_dataset=data) for kind in (TaiDptTrainer, Halved)
    )
    batch = next(iter(plain.get_train_dataloader()))
    halved = {**batch, "caption_embeds": batch["caption_embeds"] / 2}
    expected = plain.compute_loss(plain.model, halved) + 3 * plain.model.encode_classes()[0].sum()
    changed.current_gradient_accumulation_steps = 1  # set in train()
    loss = changed.training_step(changed.model, dict(batch))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_captions_per_class_are_reported(new_trainer, tmp_path):
    new_trainer(max_steps=1, validation_size=0).train()
    counts = json.loads((tmp_path / "run" / "class_counts.json").read_text())
    assert counts == {"dog": 11, "cat": 11, "horse": 11, "car": 11}


def test_every_loss_by_name_and_a_function_of_one_s_own(new_trainer):
    for name in ("bce", "focal", "asl", "soft_ce"):
        trainer = new_trainer(loss=name, max_steps=1)
        assert math.isfinite(trainer.train().training_loss)
        assert type(trainer.loss_function) is not RankingLoss

    def seven(outputs, labels, num_items_in_batch):
        return outputs.logits.sum() * 0 + 7

    trainer = new_trainer(max_steps=1, trainer_options={"compute_loss_func": seven})
    assert trainer.train().training_loss == pytest.approx(7)


def test_gradient_accumulation_gives_the_step_of_the_whole_batch(new_trainer):
    runs = {}
    for name, size, steps in (("whole", 8, 1), ("parts", 4, 2)):
        trainer = new_trainer(
            name,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            lr_scheduler_type="constant",
            validation_size=0,
        )
        trainer.train()
        runs[name] = contexts(trainer.model)
    for name, value in runs["whole"].items():
        torch.testing.assert_close(runs["parts"][name], value, atol=1e-6, rtol=1e-5)


def test_bf16_keeps_contexts_and_loss_in_fp32(new_trainer):
    trainer = new_trainer(bf16=True, max_steps=2, lr_scheduler_type="constant")
    before = contexts(trainer.model)
    assert math.isfinite(trainer.train().training_loss)
    for name, value in contexts(trainer.model).items():
        assert value.dtype == torch.float32
        assert not torch.equal(value, before[name])
    with trainer.compute_loss_context_manager():
        assert trainer.compute_loss(trainer.model.train(), one_batch(trainer)).dtype == torch.float32


# ---------------------------------------------------------------------- data


def test_templates_are_mixed_among_the_captions(new_trainer):
    trainer = new_trainer(add_templates=True, validation_size=0)
    named = len(CAPTIONS) - 2
    assert len(trainer.train_dataset) == named + 89 * len(LABELS)
    assert trainer.train_dataset.labels[named:].sum(axis=0).tolist() == [89] * len(LABELS)
    sentences, one_hot = template_sentences(["hot_dog", "cat"])
    assert sentences[:9] == ["a photo of a hot dog."] * 9
    assert len(sentences) == 178
    assert one_hot[:89].tolist() == [[1, 0]] * 89


def test_captions_without_a_class_are_dropped_and_held_out_ones_are_not_trained_on(new_trainer):
    repeated = [*CAPTIONS, *CAPTIONS]
    trainer = new_trainer(captions=repeated, validation_size=10)
    assert len(trainer.eval_dataset) == 20  # ten texts, each there twice
    assert len(trainer.train_dataset) == 2 * (len(CAPTIONS) - 2) - 20
    assert not set(trainer.eval_dataset.rows) & set(trainer.train_dataset.rows)
    again = new_trainer(captions=repeated, validation_size=10)
    assert np.array_equal(again.eval_dataset.rows, trainer.eval_dataset.rows)
    other = new_trainer(captions=repeated, validation_size=10, seed=1)
    assert not np.array_equal(other.eval_dataset.rows, trainer.eval_dataset.rows)


def test_labels_may_come_from_a_column(new_trainer):
    captions = Dataset.from_dict({"text": ["One.", "Two.", "Three."], "objects": [["cat"], ["dog", "car"], []]})
    trainer = new_trainer(captions=captions, caption_column="text", label_column="objects", validation_size=0)
    assert trainer.train_dataset.labels.tolist() == [[0, 1, 0, 0], [1, 0, 0, 1]]


def test_files_and_streams_are_read(new_trainer, tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(CAPTIONS))
    from_file = new_trainer(captions=path, validation_size=0)
    stream = Dataset.from_dict({"caption": CAPTIONS}).to_iterable_dataset()
    from_stream = new_trainer(captions=stream, validation_size=0)
    assert np.array_equal(from_file.train_dataset.labels, from_stream.train_dataset.labels)
    assert len(new_trainer(captions=stream, validation_size=0, max_captions=9).train_dataset) == 9
    assert len(new_trainer(captions=stream, validation_size=0, max_steps=2).train_dataset) == 16


def test_the_second_run_encodes_nothing(new_trainer, monkeypatch):
    new_trainer(validation_size=7)

    def fail(*args, **kwargs):
        raise AssertionError("captions were encoded again")

    monkeypatch.setattr("modeling_taidpt.features.captions._CaptionEncoder._encode", fail)
    new_trainer(validation_size=3, seed=5)


def test_a_class_that_no_caption_mentions_is_a_warning(new_trainer, caplog):
    new_trainer(captions=[caption for caption in CAPTIONS if "horse" not in caption])
    assert caplog.messages[0] == "21 of 23 captions of the data set mention a class; 2 are dropped."
    assert caplog.messages[1].startswith(
        "No training caption mentions 1 of the 4 classes: horse. Their prompts remain templates; synonyms help"
    )


def test_the_checkpoint_knows_synonyms_and_labels_that_no_caption_named(new_trainer, tmp_path):
    table = {"dog": ["puppy"], "cat": ["kitten"], "car": ["taxi"], "horse": ["pony"]}
    trainer = new_trainer(
        captions=[caption for caption in CAPTIONS if "horse" not in caption],
        trainer_options={"labeler": CaptionLabeler(table)},
        add_templates=True,
        num_train_epochs=1,
    )
    names = trainer.model.config.labels
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    config = TaiDptModel.from_pretrained(tmp_path / "saved").config
    origins = {label: "learned" for label in names} | {"horse": "template"}
    assert config.label_origin == origins
    assert set(config.class_table["synonyms"]["horse"]) == {"horse", "pony"}
    found = model_labeler(config)(["a puppy and a pony", "kittens"])  # (captions, classes)
    assert [[names[column] for column in row.nonzero()[0]] for row in found] == [
        [name for name in names if name in ("dog", "horse")],
        ["cat"],
    ]


# ---------------------------------------------------------------------- errors


def test_what_cannot_be_trained_is_said_in_one_sentence(new_trainer, new_model, arguments, clip, tokenizer):
    with pytest.raises(ValueError, match="None of the 2 captions of the data set mentions one of the 4 classes"):
        new_trainer(captions=["A bird.", "A fish."])
    with pytest.raises(ValueError, match="no column 'text'"):
        new_trainer(caption_column="text")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        new_trainer(captions="nowhere.txt")
    with pytest.raises(ValueError, match="do not fill one batch of 512"):
        new_trainer(per_device_train_batch_size=512).train()
    with pytest.raises(ValueError, match="holds out all"):
        new_trainer(validation_size=500)
    with pytest.raises(ValueError, match="give `train_dataset`"):
        TaiDptTrainer(new_model(), arguments(eval_strategy="no", load_best_model_at_end=False)).train()
    with pytest.raises(ValueError, match="no whole checkpoint"):
        new_trainer("nothing").train(resume_from_checkpoint=True)
    with pytest.raises(TypeError, match="make TaiDptTrainingArguments"):
        TaiDptTrainer(new_model(), TrainingArguments("x", use_cpu=True))
    with pytest.raises(ValueError, match="there is nothing to learn"):
        TaiDptTrainer(TaiDptModel.zero_shot(clip, LABELS, tokenizer=tokenizer), arguments())
    with pytest.raises(ValueError, match="no model to train"):
        TaiDptTrainer(args=arguments())


# ---------------------------------------------------------------------- selection and report


def test_the_checkpoint_with_the_best_map_of_held_out_captions_is_kept(new_trainer):
    trainer = new_trainer(num_train_epochs=4, learning_rate=2.0)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "eval_caption_map" in entry]
    scores = [(entry["eval_caption_map"], entry["step"]) for entry in entries[:4]]
    assert len({score for score, _ in scores}) > 1  # otherwise nothing was chosen
    best_score, best_step = max(scores, key=lambda pair: (pair[0], -pair[1]))
    assert trainer.state.best_metric == best_score
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best_step}")
    stored = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    assert torch.equal(trainer.model.prompt_learner.global_context, stored["prompt_learner.global_context"])


def plain_caption_map(trainer, embeddings):
    """MAP of the held-out captions by the formulas of the paper."""
    scores = []
    for index in range(len(trainer.eval_dataset)):
        item = trainer.eval_dataset[index]
        similarity = item["token_embeds"] @ embeddings[1].T
        local = (4 * similarity * (50 * similarity).softmax(dim=0)).sum(dim=0)
        scores.append(0.5 * 4 * embeddings[0] @ item["caption_embeds"] + 0.5 * local)
    return mean_average_precision(torch.stack(scores), trainer.eval_dataset.labels)["map"]


def test_the_report_is_measured_on_held_out_captions_and_stored(new_trainer, tmp_path):
    trainer = new_trainer(num_train_epochs=2, save_strategy="no", load_best_model_at_end=False)
    metrics = trainer.train().metrics
    learned = [embeddings.detach() for embeddings in trainer.model.encode_classes()]
    template = trainer.model.encode_templates(["a photo of a {}."])
    assert metrics["caption_map"] == pytest.approx(plain_caption_map(trainer, learned), abs=1e-3)
    assert metrics["zero_shot_caption_map"] == pytest.approx(plain_caption_map(trainer, [template] * 2), abs=1e-3)
    cosine = torch.stack([(embeddings * template).sum(dim=-1).mean() for embeddings in learned]).mean()
    assert metrics["template_cosine"] == pytest.approx(float(cosine), abs=1e-5)
    stored = json.loads((tmp_path / "run" / "all_results.json").read_text())
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    for name in ("caption_map", "zero_shot_caption_map", "template_cosine"):
        assert stored[name] == metrics[name]
        assert any(entry.get(name) == metrics[name] for entry in state["log_history"])


def test_worse_prompts_are_said_to_be_worse(new_trainer, monkeypatch):
    trainer = new_trainer()
    warnings = []
    monkeypatch.setattr("modeling_taidpt.training.trainer.logger.warning", warnings.append)
    monkeypatch.setattr(trainer, "_score_zero_shot", lambda features: 100.1)
    trainer.report()
    assert len(warnings) == 1
    assert re.match(
        r"The learned prompts are worse than the template 'a photo of a {}\.' on \d+ held-out", warnings[0]
    )


def test_images_are_measured_but_choose_nothing(new_trainer):
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": [index % 4]} for index in range(10)
    ]
    trainer = new_trainer(num_train_epochs=1, trainer_options={"image_eval_dataset": rows})
    metrics = trainer.train().metrics
    pixels, labels = torch.stack([row["pixel_values"] for row in rows]), torch.eye(4)[torch.arange(10) % 4]
    with torch.no_grad():
        learned = trainer.model(pixel_values=pixels).logits
        zero_shot = TaiDptModel.zero_shot(trainer.model.clip, LABELS, tokenizer=trainer.tokenizer)
        template = zero_shot(pixel_values=pixels).logits
    assert metrics["image_map"] == pytest.approx(mean_average_precision(learned, labels)["map"], abs=1e-3)
    assert metrics["zero_shot_image_map"] == pytest.approx(mean_average_precision(template, labels)["map"], abs=1e-3)
    assert trainer.args.metric_for_best_model == "caption_map"
    assert sum("image_map" in entry for entry in trainer.state.log_history) == 1


def test_photographs_go_through_the_image_processor(new_trainer):
    from PIL import Image

    rows = [{"image": Image.new("RGB", (50, 40), (index * 60, 0, 0)), "labels": [LABELS[index]]} for index in range(4)]
    trainer = new_trainer(trainer_options={"image_eval_dataset": rows})
    assert set(trainer.evaluate_images()) == {"image_map", "zero_shot_image_map"}
    with pytest.raises(ValueError, match="no column 'labels' but image"):
        trainer.evaluate_images([{"image": rows[0]["image"]}])


def test_held_out_captions_of_one_s_own_and_none_at_all(new_trainer):
    trainer = new_trainer(
        num_train_epochs=1, trainer_options={"eval_dataset": Dataset.from_dict({"caption": CAPTIONS[::3]})}
    )
    assert len(trainer.train_dataset) == len(CAPTIONS) - 2
    assert "caption_map" in trainer.train().metrics
    assert "eval_caption_map" in trainer.evaluate(["A dog.", "A cat.", "A fish."])
    trainer = new_trainer("none", num_train_epochs=1, validation_size=0)
    assert trainer.eval_dataset is None
    metrics = trainer.train().metrics
    assert "template_cosine" in metrics
    assert "caption_map" not in metrics


# ---------------------------------------------------------------------- checkpoints


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["sgd", "adamw_torch"])
def test_training_goes_on_after_a_kill_bit_for_bit(new_trainer, new_model, optimizer):
    options = {"optim": optimizer, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    options |= {"eval_strategy": "steps", "load_best_model_at_end": False}
    straight = new_trainer("straight", **options)
    start = contexts(straight.model)
    straight.train()
    killed = new_trainer("killed", trainer_options={"callbacks": [KillAt(5)]}, **options)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    # A checkpoint whose writing was killed lacks the state, which is written last; it is passed over.
    half = straight.args.output_dir.replace("straight", "killed") + "/checkpoint-5"
    killed._save_checkpoint(killed.model, None)
    os.remove(half + "/trainer_state.json")
    resumed = new_trainer("killed", model=new_model(seed=99), **options)
    assert not torch.equal(contexts(resumed.model)["global_context"], start["global_context"])
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == straight.state.global_step
    assert_same_contexts(contexts(straight.model), contexts(resumed.model))
    losses = [[e["loss"] for e in trainer.state.log_history if "loss" in e] for trainer in (straight, resumed)]
    assert losses[0] == losses[1]
    assert not torch.equal(contexts(straight.model)["global_context"], start["global_context"])


def test_the_same_seed_gives_the_same_prompts(new_trainer):
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trainer = new_trainer(name, num_train_epochs=2, seed=seed, validation_size=0)
        trainer.train()
        runs.append(contexts(trainer.model))
    assert_same_contexts(runs[0], runs[1])
    assert not torch.equal(runs[0]["global_context"], runs[2]["global_context"])


def test_checkpoints_hold_the_contexts_alone(new_trainer, new_model, tmp_path):
    trainer = new_trainer(num_train_epochs=1)
    trainer.train()
    folder = tmp_path / "run" / f"checkpoint-{trainer.state.global_step}"
    stored = load_file(folder / "model.safetensors")
    assert set(stored) == {"prompt_learner.global_context", "prompt_learner.local_context"}
    config = json.loads((folder / "config.json").read_text())
    assert config["prompts_only"] is True
    assert trainer.model.config.prompts_only is False
    other = new_trainer("other", model=new_model(num_context_tokens=6))
    with pytest.raises(ValueError, match="does not fit the model"):
        other.train(resume_from_checkpoint=str(folder))


def test_the_saved_model_is_whole_or_prompts_only(new_trainer, tmp_path):
    trainer = new_trainer(num_train_epochs=1)
    trainer.save_model(str(tmp_path / "whole"))
    loaded = TaiDptModel.from_pretrained(tmp_path / "whole")
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = trainer.model.eval()(pixel_values=pixels).logits
        torch.testing.assert_close(loaded(pixel_values=pixels).logits, expected, atol=1e-6, rtol=0)
    assert_same_contexts(contexts(loaded), contexts(trainer.model))
    assert (tmp_path / "whole" / "tokenizer.json").is_file()
    trainer.args.save_prompts_only = True
    trainer.save_model(str(tmp_path / "prompts"))
    assert all(not name.startswith("clip.") for name in load_file(tmp_path / "prompts" / "model.safetensors"))


def test_the_frozen_clip_stays_as_it_was(new_trainer):
    trainer = new_trainer(num_train_epochs=1)
    before = {name: value.clone() for name, value in trainer.model.clip.state_dict().items()}
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.clip.state_dict().items())


@pytest.mark.parametrize("config", [{"class_specific_context": True}, {"class_token_position": "middle"}])
def test_other_prompts_learn_too(new_trainer, new_model, config):
    last = {"save_strategy": "no", "load_best_model_at_end": False}
    trainer = new_trainer(model=new_model(**config), num_train_epochs=2, learning_rate=2e-3, **last)
    batch = one_batch(trainer, len(trainer.train_dataset))
    losses = [float(trainer.compute_loss(trainer.model.eval(), batch).detach())]
    assert "caption_map" in trainer.train().metrics
    losses.append(float(trainer.compute_loss(trainer.model.eval(), batch).detach()))
    assert losses[1] < losses[0] - 0.01


def test_tensorboard_gets_the_report(new_trainer, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    new_trainer(num_train_epochs=1, report_to="tensorboard").train()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    names = set(events.Tags()["scalars"])
    assert {"train/loss", "eval/caption_map", "train/zero_shot_caption_map", "train/template_cosine"} <= names


def test_a_labeler_of_one_s_own_and_features_made_before(new_trainer, cache):
    labeler = CaptionLabeler({"dog": ["beach"], "cat": [], "horse": [], "car": []})
    trainer = new_trainer(trainer_options={"labeler": labeler}, validation_size=0)
    assert trainer.train_dataset.labels[0].tolist() == [1, 0, 0, 0]
    assert trainer.train_dataset.labels[5].tolist() == [1, 1, 0, 0]  # "A cat on the beach."
    assert isinstance(trainer.train_dataset, CaptionFeatures)


def test_the_log_names_the_recipe(new_trainer, monkeypatch):
    lines = []
    monkeypatch.setattr("modeling_taidpt.training.trainer.logger.warning", lines.append)
    new_trainer(max_steps=1).train()
    assert lines[0] == ("Recipe: paper (sgd, learning rate 0.05, epoch_cosine, 1 steps, batch 8, 1 x ranking loss).")
