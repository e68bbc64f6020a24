"""Captions drawn by class from a corpus that is larger than a run needs."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from modeling_taidpt import CaptionFeatures, TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments
from modeling_taidpt.captions.labeler import CaptionLabeler
from modeling_taidpt.evaluation.score_fitting import calibrate_without_labels
from modeling_taidpt.training.sampling import caption_limit, sample_captions

from ..conftest import make_clip

LABELS = ["dog", "cat", "bus"]
CORPUS = [
    *(f"A dog number {number}." for number in range(60)),
    *(f"A dog and a cat number {number}." for number in range(8)),
    *(f"A bus number {number}." for number in range(12)),
]


@pytest.fixture
def make_trainer(tmp_path, tokenizer):
    def make(model=None, captions=CORPUS, most="auto", **options) -> TaiDptTrainer:
        model = model or TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=2)
        settings = {"max_steps": 2, "per_device_train_batch_size": 8, "feature_cache_dir": str(tmp_path / "cache")}
        settings |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "add_templates": False}
        args = TaiDptTrainingArguments(str(tmp_path / "run"), **{**settings, **options})
        return TaiDptTrainer(model, args, train_dataset=captions, max_captions_per_class=most)

    return make


def test_rare_classes_keep_all_and_frequent_ones_so_many():
    labels = CaptionLabeler(LABELS)(CORPUS)  # (captions, classes)
    kept = sample_captions(labels, 10, seed=1)
    assert labels[kept].sum(axis=0).tolist() == [18, 8, 10]  # ten of dogs alone, and the eight with cats
    assert (np.diff(kept) > 0).all() and set(range(60, 68)) <= set(kept.tolist())
    assert kept.tolist() == sample_captions(labels, 10, seed=1).tolist() != sample_captions(labels, 10, 2).tolist()
    assert sample_captions(labels, 68, seed=1).tolist() == list(range(80))  # as many as there are: nothing is drawn


def test_the_default_is_what_so_many_steps_see(tmp_path):
    def limit(most="auto", classes=25, **options):
        args = TaiDptTrainingArguments(str(tmp_path), per_device_train_batch_size=256, report_to="none", **options)
        return caption_limit(most, args, classes)

    assert limit(max_steps=400) == 1024 and limit(max_steps=400, classes=80) == 1000
    assert limit(max_steps=400, classes=5, gradient_accumulation_steps=2) == 10_240
    assert limit() is None and limit(None, max_steps=400) is None and limit(7) == 7  # epochs are of the whole corpus
    for wrong in (0, -1, "all", True, 2.5):
        with pytest.raises(ValueError, match="`max_captions_per_class` is"):
            limit(wrong)


def test_a_sampled_corpus_is_counted_whole(make_trainer, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(most=10, validation_size=0.1)
    counts = trainer.corpus_labels.sum(axis=0)
    assert len(trainer.corpus_labels) == 72 and counts[0] > 50
    assert len(trainer.train_dataset) == len(trainer.training_captions) < 35
    assert f"Learning from {len(trainer.train_dataset)} of 72 captions" in caplog.text
    assert len(trainer.eval_dataset) == 8  # drawn from the whole corpus, and few enough to keep all
    trainer.train()
    assert json.loads((tmp_path / "run" / "class_counts.json").read_text())["dog"] == counts[0]
    corpus = trainer.model.training_report["corpus"]
    assert (corpus["captions"], corpus["corpus_captions"]) == (len(trainer.train_dataset), 72)
    assert corpus["per_class"]["dog"] == counts[0]


def test_calibration_counts_all_captions(make_trainer):
    trainer = make_trainer(most=10)
    images = [np.full((8, 8, 3), 40 * shade, dtype=np.uint8) for shade in range(4)]
    figures = calibrate_without_labels(trainer.model, images, captions=trainer.corpus_labels)
    assert f"shares of labels from {len(trainer.corpus_labels)} captions" in trainer.model.config.score_calibration
    by_texts = calibrate_without_labels(trainer.model, images, captions=CORPUS)
    assert figures["expected_labels_per_image"] == pytest.approx(by_texts["expected_labels_per_image"], abs=0.05)


def test_a_small_corpus_says_nothing_of_sampling(make_trainer, caplog):
    trainer = make_trainer()
    assert len(trainer.train_dataset) == len(trainer.corpus_labels) and "Learning from" not in caplog.text
    assert "corpus_captions" not in trainer._data.describe()


def test_encoded_captions_are_learned_from_as_they_are(make_trainer, tmp_path):
    texts = make_trainer()
    labels = CaptionLabeler(LABELS)(CORPUS)
    features = CaptionFeatures.encode(texts.model, CORPUS, labels, cache_dir=tmp_path / "cache", progress=False)
    trainer = make_trainer(texts.model, features)
    assert trainer.training_captions.labels.tolist() == texts.training_captions.labels.tolist()
    assert len(trainer.eval_dataset) == len(texts.eval_dataset)
    assert trainer.train_dataset[0]["caption_embeds"].equal(texts.train_dataset[0]["caption_embeds"])
    trainer.train()
    wrong = CaptionFeatures(features.shards, features.rows, labels[:, :2])
    with pytest.raises(ValueError, match="2 labels each and the model 3"):
        make_trainer(texts.model, wrong)
