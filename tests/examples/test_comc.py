"""CoMC equals a computation that is written out plainly from its paper and published code, on a small random CLIP."""

from __future__ import annotations

import importlib
import math
import re

import numpy as np
import pytest
import torch

from modeling_taidpt import CaptionFeatures, ImageFeatures, TaiDptModel, clip_tokenizer
from modeling_taidpt.evaluation.predict import score_features

from .test_examples import ROOT, run

LABELS = ["dog", "cat", "bus"]
CAPTIONS = [
    "a dog beside a cat",
    "the bus stops",
    "a dog runs",
    "a cat on a bus",
    "a sleepy cat",
    "two dogs",
    "a red bus",
]
NAMED = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
BATCH = 3  # of 7 captions: two batches an epoch, the seventh is left out


@pytest.fixture
def comc(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module("comc.scorer")


@pytest.fixture
def model(clip) -> TaiDptModel:
    return TaiDptModel.from_clip(clip, labels=LABELS, tokenizer=clip_tokenizer(), num_context_tokens=2)


@pytest.fixture
def captions(model, tmp_path) -> CaptionFeatures:
    return CaptionFeatures.encode(model, CAPTIONS, NAMED, cache_dir=tmp_path, progress=False)


def plain_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(())
    for scores, row in zip(logits, labels, strict=True):
        for positive in row.nonzero().flatten():
            for negative in (row == 0).nonzero().flatten():
                total = total + torch.relu(1 - scores[positive] + scores[negative])
    return total / len(logits)


def test_training_is_the_published_one_step_by_step(comc, model, captions):
    epochs, generator = 3, torch.Generator().manual_seed(7)
    features = torch.stack([captions[index]["caption_embeds"] for index in range(7)]).float()  # (7, dim)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(7))
    dim = features.shape[1]
    weight = (torch.rand(3, dim, generator=generator) * 2 - 1) / math.sqrt(dim)  # as nn.Linear: +- 1 / sqrt(inputs)
    first, second, step = torch.zeros(3, dim), torch.zeros(3, dim), 0
    for rate in (1e-5, 1e-3, 1e-3 * (1 + math.cos(math.pi / epochs)) / 2):
        order = torch.randperm(7, generator=generator)
        for rows in (order[:3], order[3:6]):
            noisy = features[rows] + torch.randn(3, dim, generator=generator) * 0.1  # (3, dim)
            weight = weight.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(plain_loss(noisy @ weight.T, torch.from_numpy(NAMED)[rows]), weight)
            step += 1
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            scaled = (second / (1 - 0.999**step)).sqrt() + 1e-8
            weight = weight.detach() - rate * first / (1 - 0.9**step) / scaled
    fitted = comc.fit_comc(model, captions, None, epochs, BATCH, torch.Generator().manual_seed(7))
    torch.testing.assert_close(fitted.weight, weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fitted.bank, model.encode_templates(["a photo of a {}."]))  # (classes, dim)


def test_twenty_epochs_by_default_follow_the_published_rates(comc):
    classifier = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([classifier], lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    rates = [1e-5]  # of the first epoch; the cosine begins at its end
    for _ in range(19):
        rates.append(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    assert [comc.learning_rate(epoch) for epoch in range(20)] == pytest.approx(rates)


def test_scores_are_the_published_ones(comc, model, captions, tmp_path):
    scorer = comc.fit_comc(model, captions, num_train_epochs=2, batch_size=BATCH)
    pixels = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    rows = [{"pixel_values": image, "labels": [0, 1, 0]} for image in pixels]
    images = ImageFeatures.encode(model, rows, cache_dir=tmp_path, progress=False)
    found = score_features(scorer, images)
    for index in range(5):
        item = images[index]

        def classify(feature: torch.Tensor) -> torch.Tensor:
            exponents = [math.exp(100 * float(feature @ text)) for text in scorer.bank]
            mapped = sum(value / sum(exponents) * text for value, text in zip(exponents, scorer.bank, strict=True))
            return scorer.weight @ (0.7 * feature + 0.3 * mapped / mapped.norm())  # (classes,)

        whole = classify(item["image_embeds"])  # (classes,)
        cells = torch.stack([classify(cell) for row in item["dense_embeds"] for cell in row])  # (cells, classes)
        torch.testing.assert_close(found.logits_global[index], whole, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.logits_local[index], cells.max(dim=0).values, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.logits[index], (whole + cells.max(dim=0).values) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.shared
def test_the_study_prints_its_table(shared, tmp_path):
    data = shared / "data"
    options = ["--selection", "coco_train", "--judged", "coco_val_dev", "--most_captions", "200", "--epochs", "1"]
    options += ["--resamples", "20", "--captions", str(data / "captions" / "coco_captions.jsonl")]
    options += ["--cache_dir", str(tmp_path / "cache")]
    output = run("examples/study_comc.py", "--data", str(data), *options, folder=tmp_path)
    rows = re.findall(r"^\| ([zlC][^|]*) \| [\d.]+ \|", output, re.MULTILINE)
    assert rows == ["zero-shot", "learned", "CoMC, no bank", "CoMC, template bank", "CoMC, caption bank"]
