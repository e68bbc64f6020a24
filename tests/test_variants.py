"""The same contexts for other labels."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from modeling_taidpt import TaiDptModel

LABELS = ["dog", "traffic light", "cat"]


def learned(clip, **options):
    model = TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=2, **options)
    with torch.no_grad():
        model.prompt_learner.global_context.add_(torch.randn_like(model.prompt_learner.global_context))
    return model


@torch.no_grad()
def test_a_shared_context_serves_all_labels(clip):
    model = learned(clip)
    other = model.with_labels(["cat", "zebra"])
    assert torch.equal(other.prompt_learner.global_context, model.prompt_learner.global_context)
    assert torch.allclose(other.encode_classes()[0][0], model.encode_classes()[0][2], atol=1e-6)
    assert other.config.label_origin == {"cat": "learned", "zebra": "shared"}
    assert other.clip is model.clip
    assert model.config.labels == LABELS
    assert other.config.label2id == {"cat": 0, "zebra": 1}


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@torch.no_grad()
def test_class_specific_contexts_stay_with_their_labels(clip, position, tmp_path):
    model = learned(clip, class_specific_context=True, class_token_position=position)
    other = model.with_labels(["zebra", "cat"])
    assert other.config.label_origin == {"zebra": "template", "cat": "learned"}
    template = TaiDptModel.zero_shot(clip, labels=["zebra"]).encode_classes()[0]
    for branch, old, new in zip(range(2), model.encode_classes(), other.encode_classes(), strict=True):
        assert torch.allclose(new[1], old[2], atol=1e-6), branch
        assert torch.allclose(new[0], template[0], atol=1e-6), branch
    other.save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path)
    assert torch.allclose(loaded.encode_classes()[0], other.encode_classes()[0], atol=1e-6)
    again = loaded.with_labels(["cat", "zebra", "horse"])
    assert torch.allclose(again.encode_classes()[1][:2], other.encode_classes()[1].flip(0), atol=1e-6)
    known = model.with_labels(["cat", "dog"])
    assert torch.equal(known.prompt_learner.local_context, model.prompt_learner.local_context[[2, 0]])
    with pytest.raises(ValueError, match="No learned context serves the label 'zebra'"):
        model.with_labels(["zebra", "cat"], strict=True)


@torch.no_grad()
def test_a_class_specific_model_may_hold_a_shared_context(clip, tmp_path):
    model = learned(clip, class_specific_context=True, shared_context=True)
    model.prompt_learner.shared_global_context.normal_()
    model.save_pretrained(tmp_path)
    other = TaiDptModel.from_pretrained(tmp_path).with_labels(["zebra", "cat"], strict=True)
    assert other.config.label_origin == {"zebra": "shared", "cat": "learned"}
    assert torch.equal(other.prompt_learner.global_context[0], model.prompt_learner.shared_global_context)
    assert torch.equal(other.prompt_learner.shared_global_context, model.prompt_learner.shared_global_context)
    trainable = {name for name, parameter in other.named_parameters() if parameter.requires_grad}
    assert trainable == {"prompt_learner.global_context", "prompt_learner.local_context"}


@torch.no_grad()
def test_fixed_embeddings_stay_and_new_labels_get_the_same_templates(clip):
    model = TaiDptModel.zero_shot(clip, labels=LABELS, templates=["the {}."], score_bias=[1.0, 2.0, 3.0])
    other = model.with_labels(["zebra", "cat"])
    assert torch.equal(other.class_embeddings_local[1], model.class_embeddings_local[2])
    template = TaiDptModel.zero_shot(clip, labels=["zebra"], templates=["the {}."]).class_embeddings_global[0]
    assert torch.allclose(other.class_embeddings_global[0], template, atol=1e-6)
    assert other.config.score_bias == [2.0, 3.0]  # a new label has the mean of the fitted ones


def test_class_names_differ_from_labels(clip, tokenizer):
    model = TaiDptModel.from_clip(clip, labels=["tv"], class_names=["television set"])
    assert model.config.class_input_ids == [tokenizer("television set", add_special_tokens=False)["input_ids"]]
    assert model.with_labels(["tv", "dog"]).config.class_names == ["television set", "dog"]


def test_wrong_labels_are_named(clip):
    model = learned(clip)
    with pytest.raises(ValueError, match="'cat' is duplicated"):
        model.with_labels(["cat", "cat"])
    with pytest.raises(ValueError, match="shorten the name"):
        model.with_labels(["x " * 400])
    with pytest.raises(ValueError, match="has 5000 characters: give a word or a few"):
        model.with_labels(["x" * 5000])


@pytest.mark.parametrize("specific", [False, True])
@torch.no_grad()
def test_renamed_labels_keep_their_prompts(clip, specific, tmp_path):
    model = TaiDptModel.from_clip(clip, labels=["cat", "dog"], num_context_tokens=2, class_specific_context=specific)
    expected = model.encode_classes()[0]
    renamed = copy.deepcopy(model)
    renamed.config.id2label, renamed.config.label2id = {0: "Katze", 1: "Hund"}, {"Katze": "0", "Hund": "1"}
    renamed.save_pretrained(tmp_path / "renamed")
    stored = json.loads((tmp_path / "renamed" / "config.json").read_text())
    model.save_pretrained(tmp_path / "plain")
    edited = json.loads((tmp_path / "plain" / "config.json").read_text()) | {"id2label": {"0": "Katze", "1": "Hund"}}
    (tmp_path / "plain" / "config.json").write_text(json.dumps(edited))
    assert stored["label2id"] == {"Katze": 0, "Hund": 1}
    found = [renamed, *(TaiDptModel.from_pretrained(tmp_path / name) for name in ("renamed", "plain"))]
    found.append(TaiDptModel.from_pretrained(tmp_path / "renamed", id2label={0: "Katze", 1: "Hund"}))
    for known in found:
        other = known.with_labels(["Hund", "bird", "Katze"])
        origins = ["learned", "template" if specific else "shared", "learned"]
        assert [other.config.label_origin[label] for label in other.config.labels] == origins
        torch.testing.assert_close(other.encode_classes()[0][[2, 0]], expected)
        assert known.with_labels(["Katze"], strict=True).config.label2id == {"Katze": 0}


@pytest.mark.parametrize("build", [TaiDptModel.from_clip, TaiDptModel.zero_shot])
@torch.no_grad()
def test_a_label_of_the_same_tokens_is_the_same_class(clip, build):
    options = {"class_specific_context": True, "num_context_tokens": 2} if build == TaiDptModel.from_clip else {}
    model = build(clip, labels=["cat", "traffic light"], **options)
    other = model.with_labels(["Traffic_Light", "zebra", "Cat"])
    assert other.config.labels == ["Traffic_Light", "zebra", "Cat"]
    torch.testing.assert_close(other.encode_classes()[1][[2, 0]], model.encode_classes()[1])
    if options:
        assert other.config.label_origin == {"Traffic_Light": "learned", "zebra": "template", "Cat": "learned"}
