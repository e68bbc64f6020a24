"""Hypernyms, negative prompts and ensembles against the means and differences that they are."""

from __future__ import annotations

import pytest
import torch

from modeling_taidpt import TaiDptModel, ensemble_prompts, with_hypernyms, with_negative_prompts

from ..conftest import make_clip

LABELS = ["dog", "traffic light", "cat", "boat"]


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


@pytest.fixture
def model(clip, tokenizer):
    model = TaiDptModel.from_clip(clip, LABELS, tokenizer, num_context_tokens=2)
    torch.manual_seed(1)
    with torch.no_grad():
        for context in model.prompt_learner.parameters():
            context.add_(torch.randn_like(context))
    return model


@torch.no_grad()
def test_a_hypernym_is_the_mean_of_its_members(model, tmp_path):
    mixed = with_hypernyms(model, {"animal": ["dog", "cat"], "thing": LABELS})
    assert mixed.config.labels == [*LABELS, "animal", "thing"]
    assert mixed.config.label_origin == dict.fromkeys(LABELS, "learned") | {"animal": "hypernym", "thing": "hypernym"}
    for old, new in zip(model.encode_classes(), mixed.encode_classes(), strict=True):
        torch.testing.assert_close(new[:4], old)
        torch.testing.assert_close(new[4], unit((old[0] + old[2]) / 2))
        torch.testing.assert_close(new[5], unit(old.mean(dim=0)))
    assert model.config.labels == LABELS
    mixed.save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path).with_labels(["animal", "cat"])
    torch.testing.assert_close(loaded.encode_classes()[1], mixed.encode_classes()[1][[4, 2]])
    assert loaded.config.label_origin == {"animal": "hypernym", "cat": "learned"}


@pytest.mark.parametrize(
    ("hypernyms", "message"),
    [
        ({"dog": ["cat"]}, "'dog' is a label of the model"),
        ({"animal": ["cow"]}, "'cow' is not a label of the model"),
        ({"animal": []}, "none of the model's labels is below it"),
        ("animal", "give {'animal'"),
        ({}, "give {'animal'"),
    ],
)
def test_hypernyms_that_cannot_be_made(model, hypernyms, message):
    with pytest.raises(ValueError, match=message):
        with_hypernyms(model, hypernyms)


@pytest.mark.slow
@pytest.mark.shared
def test_members_are_found_in_wordnet(model, nltk_data):
    mixed = with_hypernyms(model, ["animal", "vehicle"])
    g, new = model.encode_classes()[0], mixed.encode_classes()[0]
    torch.testing.assert_close(new[4], unit(g[0] + g[2]))  # dog, cat
    torch.testing.assert_close(new[5], g[3])  # boat
    with pytest.raises(ValueError, match="'furniture' cannot be made: none of the model's labels is below it"):
        with_hypernyms(model, ["furniture"])


@torch.no_grad()
def test_negative_prompts_are_taken_off(model):
    texts = ["a photo of a lamp.", "a lamp."]
    mixed = with_negative_prompts(model, {"traffic light": texts, "boat": "a ship."}, weight=0.4)
    lamp, ship = unit(model.encode_texts(texts).mean(dim=0)), model.encode_texts(["a ship."])[0]
    for old, new in zip(model.encode_classes(), mixed.encode_classes(), strict=True):
        torch.testing.assert_close(new[[0, 2]], old[[0, 2]])
        torch.testing.assert_close(new[1], unit(old[1] - 0.4 * lamp))
        torch.testing.assert_close(new[3], unit(old[3] - 0.4 * ship))
    assert mixed.config.label_origin == model.config.label_origin
    for negatives, weight in (({"lamp": "a lamp."}, 0.3), ({"dog": []}, 0.3), ({"dog": "a cat."}, 1.0)):
        with pytest.raises(ValueError, match=r"'lamp' is not a label|'dog' has no negative text|`weight` is 1\.0"):
            with_negative_prompts(model, negatives, weight)


@torch.no_grad()
def test_ensembles_average_learned_prompts_and_templates(model, clip, tokenizer):
    templates = TaiDptModel.zero_shot(clip, LABELS, ["a {}.", "the {}."], tokenizer)
    mixed = ensemble_prompts([model, templates], [3, 1])
    for learned, written, new in zip(
        model.encode_classes(), templates.encode_classes(), mixed.encode_classes(), strict=True
    ):
        torch.testing.assert_close(new, unit(0.75 * learned + 0.25 * written))
    again = TaiDptModel.zero_shot(make_clip(), LABELS, ["a {}.", "the {}."], tokenizer)  # the same CLIP, loaded apart
    torch.testing.assert_close(ensemble_prompts([templates, again]).encode_classes()[0], templates.encode_classes()[0])
    with pytest.raises(ValueError, match="Model 1 is on another CLIP"):
        ensemble_prompts([model, TaiDptModel.zero_shot(make_clip(seed=5), LABELS, None, tokenizer)])
    with pytest.raises(ValueError, match="Model 1 has other labels"):
        ensemble_prompts([model, model.with_labels(["dog"])])
    with pytest.raises(ValueError, match="give one from 0 up for each"):
        ensemble_prompts([model, templates], [1])
