"""Score standardisation: small computations written out, the model's flag, saving, other labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, pipeline

from modeling_taidpt import TaiDptModel, cluster_captions
from modeling_taidpt.standardization import (
    CaptionBank,
    center_over_classes,
    two_step_zscore,
    zscore_over_classes,
)

LABELS = ["dog", "traffic light", "cat"]
SCORES = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])


@pytest.fixture
def model(clip):
    return TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=2)


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(shape, generator=generator) for shape in ((5, 24), (5, 2, 2, 24), (40, 24))]
    return [torch.nn.functional.normalize(part, dim=-1) for part in draw]


def test_steps_over_an_image_are_what_their_names_say():
    assert center_over_classes(SCORES).tolist() == [[-2.0, -1.0, 3.0], [-1.0, -1.0, 2.0]]
    first, second = math.sqrt((4 + 1 + 9) / 2), math.sqrt((1 + 1 + 4) / 2)  # n - 1
    expected = [[-2 / first, -1 / first, 3 / first], [-1 / second, -1 / second, 2 / second]]
    assert torch.allclose(zscore_over_classes(SCORES), torch.tensor(expected))
    # equal scores and a single class stay finite
    assert zscore_over_classes(torch.ones(2, 3)).tolist() == [[0.0] * 3] * 2
    assert zscore_over_classes(torch.ones(2, 1)).tolist() == [[0.0]] * 2


def test_two_steps_are_those_of_sparc():
    rows = [[(value - 3) / math.sqrt(7) for value in (1, 2, 6)], [(value - 1) / math.sqrt(3) for value in (0, 0, 3)]]
    for column, (one, other) in enumerate(zip(*rows, strict=True)):
        mean, deviation = (one + other) / 2, abs(one - other) / math.sqrt(2)
        found = two_step_zscore(SCORES)[:, column]
        assert found.tolist() == pytest.approx([(one - mean) / deviation, (other - mean) / deviation], rel=1e-4)
    with pytest.raises(ValueError, match="two samples at least"):
        two_step_zscore(SCORES[:1])


@torch.no_grad()
def test_a_class_whose_scores_are_equal_is_shifted_and_not_blown_up(model, features):
    pooled, dense, _ = features
    model.set_score_statistics(torch.full((4, 3), 0.2), torch.full((4, 3), 0.1))  # as of one image four times
    plain = model(image_embeds=pooled, dense_embeds=dense, standardize=False)
    found = model(image_embeds=pooled, dense_embeds=dense)
    assert torch.allclose(found.logits_global, plain.logits_global - 0.2, atol=1e-5)
    assert torch.allclose(found.logits_local, plain.logits_local - 0.1, atol=1e-5)
    with pytest.raises(ValueError, match="both branches"):
        model.set_score_statistics(plain.logits_global)


def test_partition_is_the_logarithm_of_a_mean_of_exponentials():
    image, bank = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.1], [-0.2, 0.9]])
    found = CaptionBank.from_features(bank, torch.tensor([0.25, 0.75]).log(), dim=2)(image, temperature=10.0)
    assert found.item() == pytest.approx(math.log(0.25 * math.exp(5.0) + 0.75 * math.exp(-2.0)) / 10, rel=1e-5)


def test_clusters_are_means_of_what_they_hold(features):
    captions = features[2]
    bank, log_weights = cluster_captions(captions, size=6)
    nearest = (captions @ torch.nn.functional.normalize(bank, dim=-1).T).argmax(dim=1)
    for cluster in range(len(bank)):
        assert torch.allclose(bank[cluster], captions[nearest == cluster].mean(dim=0), atol=1e-6)
        assert log_weights[cluster].exp().item() == pytest.approx((nearest == cluster).float().mean().item())
    assert torch.equal(cluster_captions(captions, size=6)[0], bank)
    same, log_weights = cluster_captions(captions, size=40)
    assert torch.equal(same, captions)
    assert torch.allclose(log_weights.exp(), torch.full((40,), 1 / 40))


@torch.no_grad()
def test_model_takes_off_what_captions_score_in_general(model, features, tmp_path):
    pooled, dense, captions = features
    plain = model(image_embeds=pooled, dense_embeds=dense)
    bank, log_weights = cluster_captions(captions, size=6)
    model.set_caption_bank(bank, log_weights)
    found = model(image_embeds=pooled, dense_embeds=dense)
    partition = model.caption_bank(pooled, model.clip.logit_scale.exp().item())
    assert torch.allclose(found.logits_global, plain.logits_global - 4 * partition, atol=1e-5)
    assert torch.equal(found.logits_local, plain.logits_local)
    assert torch.equal(found.similarity_map, plain.similarity_map)
    assert torch.equal(model(image_embeds=pooled, dense_embeds=dense, standardize=False).logits, plain.logits)
    for copy in ("full", "prompts"):
        model.config.base_model_name_or_path = str(tmp_path / "full")
        model.save_pretrained(tmp_path / copy, prompts_only=copy == "prompts")
        loaded = TaiDptModel.from_pretrained(tmp_path / copy)
        assert torch.allclose(loaded(image_embeds=pooled, dense_embeds=dense).logits, found.logits, atol=1e-6)
    for other in (loaded.with_labels(["cat", "dog"]), loaded.with_class_embeddings(torch.ones(3, 24)), loaded.bake()):
        assert torch.equal(other.caption_bank.features, loaded.caption_bank.features)
    other = loaded.with_labels(["cat", "dog"])(image_embeds=pooled, dense_embeds=dense)
    assert torch.allclose(other.logits, found.logits[:, [2, 0]], atol=1e-5)  # it does not depend on the labels
    loaded.set_caption_bank(None)
    assert torch.allclose(loaded(image_embeds=pooled, dense_embeds=dense).logits, plain.logits, atol=1e-6)


@pytest.mark.parametrize(("own", "expected"), [(14.3, 14.3), (22.6, 22.6), (100.0, 16.0)])
def test_the_temperature_of_the_bank_is_the_clips_own_unless_that_is_too_high(model, own, expected):
    model.clip.logit_scale.data.fill_(math.log(own))
    model.set_caption_bank(torch.eye(24)[:3])
    assert model.config.caption_bank_temperature == pytest.approx(expected, rel=1e-5)
    model.set_caption_bank(torch.eye(24)[:3], caption_bank_temperature=12.0)
    assert model.config.caption_bank_temperature == 12.0
    with pytest.raises(ValueError, match="give a number above 0"):
        model.set_caption_bank(torch.eye(24)[:3], caption_bank_temperature=-1)


@torch.no_grad()
def test_model_puts_classes_on_one_scale(model, features, tmp_path):
    pooled, dense, _ = features
    model.config.image_standardization = "zscore"
    images = model(image_embeds=pooled, dense_embeds=dense)
    model.set_score_statistics(images.logits_global, images.logits_local, "5 images")
    found = model(image_embeds=pooled, dense_embeds=dense)
    raw = model(image_embeds=pooled, dense_embeds=dense, standardize=False)
    # with statistics of the batch itself it is SPARC's, branch by branch
    assert torch.allclose(found.logits_global, two_step_zscore(raw.logits_global), atol=1e-3)
    assert torch.allclose(found.logits_local, two_step_zscore(raw.logits_local), atol=1e-3)
    assert torch.allclose(found.logits, (found.logits_global + found.logits_local) / 2, atol=1e-6)
    model.save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path)
    assert torch.allclose(loaded(image_embeds=pooled, dense_embeds=dense).logits, found.logits, atol=1e-6)
    statistics = loaded.with_labels(["cat", "zebra"]).config.score_statistics
    means = model.config.score_statistics["global_mean"]
    assert statistics["global_mean"] == pytest.approx([means[2], sum(means) / 3])
    assert statistics["source"] == "5 images"
    assert loaded.bake().config.score_statistics == loaded.config.score_statistics
    # they belong to the class embeddings that they were taken with
    assert loaded.with_class_embeddings(torch.eye(3, 24)).config.score_statistics is None
    loaded.set_score_statistics(None)
    assert loaded.config.score_statistics is None


@torch.no_grad()
def test_captions_stay_as_they_are_unless_asked(model, features):
    model.config.image_standardization = "center"
    tokens = model.get_tokenizer()(["a dog", "a cat"], return_tensors="pt")
    plain = model(**tokens)
    assert plain.logits.mean(dim=1).abs().min() > 1e-3
    asked = model(**tokens, standardize=True)
    assert torch.allclose(asked.logits_global, center_over_classes(plain.logits_global), atol=1e-6)


def test_wrong_settings_are_named(clip, model):
    with pytest.raises(ValueError, match="choose one of 'center', 'zscore', 'captions'"):
        TaiDptModel.from_clip(clip, labels=LABELS, image_standardization="softmax")
    with pytest.raises(ValueError, match="needs a caption bank"):
        TaiDptModel.from_clip(clip, labels=LABELS, image_standardization="captions")
    with pytest.raises(ValueError, match=r"shape \(4, 7\): \(clusters, 24\) is needed"):
        model.set_caption_bank(torch.ones(4, 7))
    with pytest.raises(ValueError, match="2 values of global_mean for 3 labels"):
        TaiDptModel.from_clip(clip, labels=LABELS, score_statistics={"global_mean": [0.0, 0.0]})


def test_pipeline_thresholds_and_flag(model, tmp_path):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    model.set_caption_bank(torch.eye(24)[:2])
    options = {"image_processor": processor, "tokenizer": model.get_tokenizer()}
    tagger = pipeline("multi-label-image-classification", model=model, **options)
    standardised = {result["label"]: result["score"] for result in tagger(image)}
    plain = {result["label"]: result["score"] for result in tagger(image, standardize=False)}
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixel_values=pixels, standardize=False).logits[0].sigmoid()
    assert [plain[label] for label in LABELS] == pytest.approx(expected.tolist(), rel=1e-5)
    assert all(abs(plain[label] - standardised[label]) > 1e-3 for label in LABELS)
    with pytest.raises(ValueError, match="this checkpoint has none: give a number"):
        tagger(image, threshold="auto")
    model.config.score_thresholds = [standardised["dog"] + 0.01, standardised["traffic light"] - 0.01, 0.0]
    assert {result["label"] for result in tagger(image, threshold="auto")} == {"traffic light", "cat"}
    model.config.score_thresholds = 1.0
    assert tagger(image, threshold="auto") == []
    model.config.score_thresholds = [1.0, 0.0, 0.0]
    kept = [result["label"] for result in tagger(image, threshold="auto", candidate_labels=["dog", "cat"])]
    assert kept == ["cat"]  # known labels keep their own
