"""Learning from labelled images: few-shot, partial labels, linear head; cached or augmented; options and bad input."""

from __future__ import annotations

import logging

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import CLIPImageProcessor

from modeling_taidpt import TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments
from modeling_taidpt.features.images import ImageFeatures
from modeling_taidpt.losses import get_loss
from modeling_taidpt.training.images import IMAGE_RECIPES

LABELS = ["red", "green", "blue"]
PROCESSOR = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def photographs(count=24, seed=0):
    """Pictures whose labels are the colours that are strong in them."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        present = generator.random(3) < 0.4
        present[index % 3] = True
        pixels = generator.integers(0, 60, (32, 32, 3)) + 180 * present * generator.random((32, 32, 1))
        rows.append({"image": Image.fromarray(pixels.astype(np.uint8)), "labels": np.flatnonzero(present).tolist()})
    return rows


@pytest.fixture
def new_trainer(clip, tmp_path):
    def make(recipe, train=None, model=None, image_transform=None, eval_dataset=None, model_options=None, **options):
        options = {"max_steps": 3, "learning_rate": 0.02, "report_to": "none", "disable_tqdm": True, **options}
        defaults = {"output_dir": str(tmp_path / "out"), "feature_cache_dir": str(tmp_path / "cache")}
        args = TaiDptTrainingArguments.from_recipe(IMAGE_RECIPES[recipe], **{**defaults, **options})
        if model is None:
            torch.manual_seed(0)
            keys = {**IMAGE_RECIPES[recipe]["model"], "num_context_tokens": 2, **(model_options or {})}
            model = TaiDptModel.from_clip(clip, LABELS, **keys)
        return TaiDptTrainer(
            model=model,
            args=args,
            train_dataset=photographs() if train is None else train,
            eval_dataset=eval_dataset,
            image_processor=PROCESSOR,
            image_transform=image_transform,
        )

    return make


def test_few_shot_loss_is_bce_on_both_scores_of_the_images(new_trainer):
    trainer = new_trainer("few_shot")
    assert isinstance(trainer.train_dataset, ImageFeatures)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(6)])
    pixels = PROCESSOR(images=[row["image"] for row in photographs()[:6]], return_tensors="pt")["pixel_values"]
    outputs = trainer.model.train()(pixel_values=pixels)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(outputs.logits_global, batch["labels"]) + bce(outputs.logits_local, batch["labels"])
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    grads = [torch.autograd.grad(value, list(trainer.model.prompt_learner.parameters())) for value in (loss, expected)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_few_shot_draws_and_says_so(new_trainer, caplog):
    logging.getLogger("transformers").propagate = True
    with caplog.at_level("WARNING"):
        trainer = new_trainer("few_shot", shots=2, seed=5)
    assert len(trainer.train_dataset) == 6
    assert "6 images drawn with seed 5, up to 2 for each of 3 classes." in caplog.text
    before = trainer.model.prompt_learner.global_context.detach().clone()
    trainer.train()
    assert not torch.equal(trainer.model.prompt_learner.global_context, before)
    other = new_trainer("few_shot", shots=2, seed=5, data_seed=6)
    assert other.train_dataset.rows.tolist() != trainer.train_dataset.rows.tolist()


def test_partial_labels_train_both_contexts_and_scales_on_the_local_score(new_trainer, tmp_path):
    trainer = new_trainer("partial_labels", known_labels=0.5)
    labels = trainer.train_dataset.labels
    assert (labels != 0).sum() == round(0.5 * labels.size)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(8)])
    loss = trainer.compute_loss(trainer.model, batch)
    outputs = trainer.model(image_embeds=batch["image_embeds"], dense_embeds=batch["dense_embeds"])
    expected = get_loss("partial_asl")(outputs.logits_local, torch.from_numpy(labels[:8]))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert len(before) == 3
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "Learned from labelled images." in card
    assert "- Images: 24; 0 more" in card
    assert "presence of the class" in card
    assert "text alone" not in card
    loaded = TaiDptModel.from_pretrained(tmp_path / "saved").state_dict()
    for name, value in before.items():
        assert not torch.equal(loaded[name], value)
        assert torch.equal(loaded[name], trainer.model.state_dict()[name])


def test_full_labels_deny_and_files_are_read(new_trainer, tmp_path):
    full = new_trainer("partial_labels").train_dataset.labels  # nothing hidden: 0 says absent
    assert set(np.unique(full)) == {-1, 1}
    hidden = np.where(np.arange(24)[:, None] % 2, full, 0)
    np.savetxt(tmp_path / "train_proportion_0.5.txt", hidden, fmt="%d", delimiter=",")
    path = str(tmp_path / "train_proportion_0.5.txt")
    assert np.array_equal(new_trainer("partial_labels", partial_label_file=path).train_dataset.labels, hidden)
    with pytest.raises(ValueError, match="has 24 rows for 5 images"):
        new_trainer("partial_labels", photographs(5), partial_label_file=path)
    rows = [{**row, "labels": labels.tolist()} for row, labels in zip(photographs(), full, strict=True)]
    assert set(np.unique(new_trainer("few_shot", rows).train_dataset.labels)) == {0, 1}  # all known: BCE can serve
    rows[3]["labels"][1] = 0
    with pytest.raises(ValueError, match="Some labels are unknown, and `loss='bce'` needs all"):
        new_trainer("few_shot", rows)


def test_linear_head_learns_alone_and_fits_the_training_images(new_trainer, clip):
    base = TaiDptModel.zero_shot(clip, LABELS)
    before = base.class_embeddings_global.clone()
    options = {"max_steps": 60, "learning_rate": 0.1}
    trainer = new_trainer("linear_head", model=base.with_linear_head(), eval_dataset=photographs(), **options)
    start = trainer.evaluate()["eval_held_out_map"]
    trainer.train()
    figures = trainer.evaluate()
    assert figures["eval_held_out_map"] > max(start, 90)
    assert figures["eval_zero_shot_held_out_map"] == pytest.approx(start, abs=1e-3)  # the head started as the scores
    assert torch.equal(trainer.model.class_embeddings_global, before)
    with pytest.raises(ValueError, match="learned on 'merged' scores"):
        new_trainer("few_shot", model=base.with_linear_head())
    with pytest.raises(ValueError, match="fixed, there is nothing to learn"):
        new_trainer("few_shot", model=base)


def test_augmented_pictures_are_seen_anew_and_unaugmented_ones_encoded_once(new_trainer, monkeypatch):
    seen = []

    def mirror(picture):
        seen.append(picture.size)
        return ImageOps.mirror(picture)

    trainer = new_trainer("few_shot", shots=2, image_transform=mirror)
    assert len(trainer.train_dataset) == 6
    trainer.train()
    assert len(seen) == 3 * 6  # three steps, each an epoch
    batch = trainer.data_collator([trainer.train_dataset[0]])
    row = photographs()[int(trainer.train_dataset.rows[0])]
    plain = PROCESSOR(images=[ImageOps.mirror(row["image"])], return_tensors="pt")["pixel_values"]
    assert torch.allclose(batch["pixel_values"], plain, atol=1e-5)  # fused steps round in another order
    cached = new_trainer("few_shot")
    monkeypatch.setattr(cached.model, "encode_images", None)  # nothing is encoded any more
    cached.train()


def test_held_out_images_choose_the_checkpoint(new_trainer):
    table = datasets.Dataset.from_list(photographs(9, seed=1))
    options = {"max_steps": 4, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    trainer = new_trainer("few_shot", eval_dataset=table, **options)
    assert trainer.args.metric_for_best_model == "held_out_map"
    metrics = trainer.train().metrics
    assert {"held_out_map", "zero_shot_held_out_map", "template_cosine"} <= set(metrics)
    assert trainer.state.best_metric == pytest.approx(metrics["held_out_map"])


def test_training_goes_on_bit_for_bit(new_trainer, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "known_labels": 0.5}
    options |= {"eval_strategy": "no", "load_best_model_at_end": False}
    whole = new_trainer("partial_labels", output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    again = new_trainer("partial_labels", output_dir=str(tmp_path / "again"), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert torch.equal(again.model.log_scales, whole.model.log_scales)
    assert torch.equal(again.model.prompt_learner.local_context, whole.model.prompt_learner.local_context)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": []}, "it is empty"),
        ({"caption_prototype_weight": 1.0}, "needs captions"),
        ({"train": [{"image": Image.new("RGB", (40, 40)), "labels": ["violet"]}]}, "'violet' in row 0"),
    ],
)
def test_bad_input_is_one_sentence(new_trainer, options, message):
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        new_trainer("few_shot", **options)
    assert "\n" not in str(raised.value)


def test_captions_deny_no_class(clip, tmp_path):
    model = TaiDptModel.from_clip(clip, LABELS, num_context_tokens=2)
    table = datasets.Dataset.from_dict({"caption": ["a red door", "a green car"]})
    args = TaiDptTrainingArguments(str(tmp_path), loss="partial_asl")
    with pytest.raises(ValueError, match="captions deny no class: choose one of ranking"):
        TaiDptTrainer(model=model, args=args, train_dataset=table)
