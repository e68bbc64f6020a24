"""Class-specific contexts start from the descriptions of their labels; everything else starts as it did."""

from __future__ import annotations

import pytest
import torch

from modeling_taidpt import TaiDptModel
from modeling_taidpt.context_start import DESCRIPTION_TOKENS

from .conftest import make_clip

LABELS = ["bicycle", "dog", "traffic_light"]
LONG = "a lamp at a crossing that is red, yellow or green and tells cars and people when they may go"
DESCRIPTIONS = {"bicycle": ["a small vehicle with two wheels", "a saddle"], "traffic_light": [LONG]}
RECIPE = {"model": {"class_specific_context": True, "context_init": "a photo of a"}}


def start(tokenizer, **options):
    return TaiDptModel.from_clip(
        make_clip(), LABELS, tokenizer, **{"recipe": RECIPE, "descriptions": DESCRIPTIONS} | options
    )


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def test_the_prompts_say_the_descriptions(tokenizer):
    model = start(tokenizer)
    long = tokenizer.decode(ids(tokenizer, LONG)[:DESCRIPTION_TOKENS])
    said = ["a small vehicle with two wheels bicycle.", "a photo of a dog.", f"{long} traffic light."]
    inputs = tokenizer(said, return_tensors="pt", padding=True)
    expected = model.encode_captions(inputs["input_ids"], inputs["attention_mask"])[0]  # (classes, dim)
    for embeddings in model.encode_classes():
        torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    assert model.config.context_lengths == [6, 4, DESCRIPTION_TOKENS]
    assert model.prompt_learner.global_context.shape[:2] == (3, DESCRIPTION_TOKENS)
    assert not model.prompt_learner.global_context[1, 4:].any()  # what a prompt does not use


def test_they_are_learned_saved_and_moved_to_other_labels(tokenizer, tmp_path):
    model = start(tokenizer).train()
    torch.stack(model.encode_classes())[..., 0].sum().backward()
    gradient = model.prompt_learner.local_context.grad
    assert [bool(row.any()) for row in gradient[0]] == [True] * 6 + [False] * (DESCRIPTION_TOKENS - 6)
    model.eval().save_pretrained(tmp_path, prompts_only=False)
    loaded = TaiDptModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.encode_classes()[0], model.encode_classes()[0])
        other = loaded.with_labels(["cat", "traffic_light"], tokenizer).encode_classes()[0]
        torch.testing.assert_close(other[1], model.encode_classes()[0][2])


@pytest.mark.parametrize(
    "options",
    [
        {"context_init": "a picture of"},
        {"num_context_tokens": 5},
        {"class_specific_context": False},
        {"shared_context": True},
        {"recipe": "paper"},
    ],
)
def test_what_is_chosen_or_shared_starts_as_without(tokenizer, options):
    torch.manual_seed(0)
    described = start(tokenizer, **options)
    torch.manual_seed(0)
    plain = start(tokenizer, **options, descriptions=None)
    assert torch.equal(described.prompt_learner.global_context, plain.prompt_learner.global_context)
    assert described.config.context_lengths is None


@pytest.mark.parametrize("labels", [["dog", "dog"], [], ["dog", " "], ["dog", 5]])
def test_wrong_labels_are_named_before_texts_are_asked_for(tokenizer, labels):
    asked: list[str] = []
    with pytest.raises(ValueError) as plain:
        TaiDptModel.from_clip(make_clip(), labels, tokenizer)
    with pytest.raises(ValueError) as described:
        TaiDptModel.from_clip(make_clip(), labels, tokenizer, descriptions=asked.append)
    assert str(described.value) == str(plain.value) and not asked


def test_without_words_of_a_recipe_others_start_from_the_template(tokenizer):
    model = start(tokenizer, recipe={"model": {"class_specific_context": True}})
    assert model.config.context_lengths == [6, 4, DESCRIPTION_TOKENS]
    words = model.clip.text_model.embeddings.token_embedding.weight[ids(tokenizer, "a photo of a")]
    assert torch.equal(model.prompt_learner.global_context[1, :4], words)
