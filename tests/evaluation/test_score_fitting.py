"""Fitting a model's scores to captions and images at hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_taidpt import TaiDptModel
from modeling_taidpt.evaluation.score_fitting import (
    calibrate,
    calibrate_without_labels,
    fit_caption_bank,
    fit_score_statistics,
    fit_score_thresholds,
)
from modeling_taidpt.features.images import ImageFeatures

LABELS = ["dog", "cat", "horse"]
CAPTIONS = ["a dog", "a cat on a mat", "a dog and a cat", "two horses", "a street", "a horse and a dog"]


@pytest.fixture
def model(clip, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=2)


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(8)]


def test_caption_bank_and_statistics_of_captions_alone(model):
    fit_caption_bank(model, CAPTIONS, size=3)
    assert model.config.image_standardization == "captions"
    assert model.caption_bank.features.shape == (model.config.caption_bank_size, 24)
    mean = (model.caption_bank.log_weights.exp()[:, None] * model.caption_bank.features).sum(dim=0)
    assert torch.allclose(mean, model.encode_texts(CAPTIONS).mean(dim=0), atol=1e-3)
    fit_score_statistics(model, captions=CAPTIONS)
    assert model.config.score_statistics["source"] == "6 captions"
    tokens = model.get_tokenizer()(CAPTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = model(**tokens, standardize=True)
    for logits in (scores.logits_global, scores.logits_local):
        assert torch.allclose(logits.mean(dim=0), torch.zeros(3), atol=0.05)
        assert torch.allclose(logits.std(dim=0), torch.ones(3), atol=0.05)


def test_without_captions_the_bank_is_of_everyday_things(model, caplog):
    fit_caption_bank(model, size=20, caption_bank_temperature=12.0)
    assert 10 < model.config.caption_bank_size <= 20
    assert model.config.caption_bank_temperature == 12.0
    assert "give some thousand" not in caplog.text
    fit_caption_bank(model, [f"a photo of a {label}." for label in LABELS])
    assert "A bank of 3 captions takes off what tells labels apart" in caplog.text


def test_statistics_of_images(model, images):
    fit_score_statistics(model, images)
    scores = model(image_embeds=None, pixel_values=_pixels(model, images))
    assert torch.allclose(scores.logits_local.mean(dim=0), torch.zeros(3), atol=1e-3)
    assert torch.allclose(scores.logits_local.std(dim=0), torch.ones(3), atol=1e-3)
    with pytest.raises(ValueError, match="one of the two"):
        fit_score_statistics(model)


def _pixels(model, images):
    from modeling_taidpt.hub import find_image_processor

    with torch.no_grad():
        return find_image_processor(model.config)(images=images, return_tensors="pt")["pixel_values"]


@torch.no_grad()
def test_labelled_images_give_probabilities_and_thresholds(model, images, tmp_path):
    logits = model(pixel_values=_pixels(model, images)).logits
    present = logits > logits.median()  # separable but for one pair
    present[0] = ~present[0]
    names = [[label for label, here in zip(LABELS, row, strict=True) if here] for row in present.tolist()]
    figures = calibrate(model, images, names)
    assert figures["ece"] < figures["ece_before"]
    assert figures["f1"] > 80
    config = model.config
    assert len(config.score_thresholds) == 3
    assert config.score_calibration == "8 labelled images"
    assert model.probabilities(logits.double()).mean().item() == pytest.approx(
        present.double().mean().item(), abs=0.05
    )
    model.save_pretrained(tmp_path / "saved")
    loaded = TaiDptModel.from_pretrained(tmp_path / "saved").config
    for name in ("score_scale", "score_bias", "score_thresholds", "score_calibration"):
        assert getattr(loaded, name) == getattr(config, name)
    # unknown labels are left out: those of the last four images
    partial = torch.where(present, 1, -1)
    partial[4:] = 0
    calibrate(model, images, partial.tolist(), per_class=True)
    half = calibrate(TaiDptModel(config, clip=model.clip), images[:4], present[:4].long().tolist(), per_class=True)
    assert half["f1"] > 0
    with pytest.raises(ValueError, match="8 images and labels for 1"):
        calibrate(model, images, [["dog"]])


@torch.no_grad()
def test_unlabelled_images_and_captions(model, images, tmp_path):
    model.config.class_table = {"synonyms": {"dog": ["dog"], "cat": ["cat"], "horse": ["horse", "street"]}}
    report = calibrate_without_labels(model, images, captions=CAPTIONS)
    assert report["expected_labels_per_image"] == pytest.approx(1.5 * 8 / 6)  # "street" is a horse here
    config = model.config
    assert config.score_calibration == "8 unlabelled images, shares of labels from 6 captions"
    logits = model(pixel_values=_pixels(model, images)).logits
    scores = model.probabilities(logits.double())
    chosen = scores >= torch.tensor(config.score_thresholds)
    assert report["labels_per_image"] == pytest.approx(chosen.double().sum(dim=1).mean().item())
    assert report["images_without_labels"] == pytest.approx(100 * (~chosen.any(dim=1)).double().mean().item())
    assert len(config.score_bias) == len(config.score_thresholds) == 3
    fewer = calibrate_without_labels(model, images, captions=CAPTIONS, labels_per_image=0.5)
    assert fewer["expected_labels_per_image"] == pytest.approx(0.5)
    assert fewer["labels_per_image"] < report["labels_per_image"]
    model.save_pretrained(tmp_path / "saved")
    assert TaiDptModel.from_pretrained(tmp_path / "saved").config.class_table == config.class_table


@torch.no_grad()
def test_given_shares(model, images):
    features = ImageFeatures.encode(model, [{"image": image} for image in images], label_column=None, progress=False)
    few = calibrate_without_labels(model, features, torch.tensor([0.1, 0.2, 0.3]))
    many = calibrate_without_labels(model, features, 0.8)
    assert few["expected_labels_per_image"] == pytest.approx(0.6)
    assert few["labels_per_image"] < many["labels_per_image"]
    for arguments in ({"prevalence": torch.tensor([0.0, 0.1, 0.2])}, {"prevalence": 1.0}):
        with pytest.raises(ValueError, match="both excluded"):
            calibrate_without_labels(model, features, **arguments)
    for arguments in ({}, {"prevalence": 0.1, "captions": CAPTIONS}):
        with pytest.raises(ValueError, match="one of the two"):
            calibrate_without_labels(model, features, **arguments)
    with pytest.raises(ValueError, match=r"at most 2\.7"):
        calibrate_without_labels(model, features, captions=CAPTIONS, labels_per_image=3)
    with pytest.raises(ValueError, match="There are no captions"):
        fit_caption_bank(model, [])


def test_one_labelled_image_is_enough_not_to_fail(model, images, tmp_path):
    with torch.no_grad():
        best = LABELS[int(model(pixel_values=_pixels(model, images[:1])).logits.argmax())]
    figures = calibrate(model, images[:1], [[best]], per_class=True)
    assert figures["f1"] == 100
    assert all(0 < value < 1e4 for value in model.config.score_scale)
    with pytest.raises(ValueError, match="have no labels: give `labels`"):
        calibrate(model, images)


def test_thresholds_of_rare_classes_keep_their_digits(model, images):
    model.config.score_bias = -14.0  # probabilities of about a millionth
    names = [["dog"], ["cat"], [], [], ["dog"], [], ["horse"], []]
    fit_score_thresholds(model, images, names)
    assert all(1e-7 < threshold < 1e-5 for threshold in model.config.score_thresholds)


def test_photographs_of_other_categories_are_partial_labels(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    from embedded_base.labelled import read_labelled

    table = {
        "categories": ["sofa", "dog"],
        "images": [{"file_name": f"{number}.jpg", "labels": []} for number in range(9)],
    }
    table["images"][0]["labels"] = [0]
    (tmp_path / "labels.json").write_text(json.dumps(table))
    rows = read_labelled(tmp_path, ["cat", "couch", "dog"])
    assert rows[0] == {"image": str(tmp_path / "images" / "0.jpg"), "labels": [0, 1, -1]}  # whether a cat: not known
    assert rows[1]["labels"] == [0, -1, -1]
    chosen, others = (read_labelled(tmp_path, ["couch", "dog"], part) for part in (True, False))
    assert len(chosen) + len(others) == 9
    with pytest.raises(ValueError, match="the category 'sofa' is not a label"):
        read_labelled(tmp_path, ["dog"])
