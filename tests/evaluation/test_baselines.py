"""Zero-shot baselines, pairs of positive and negative prompts, the linear head: scores, saving, pipeline."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, pipeline

from modeling_taidpt import TaiDptModel, load_templates

from ..conftest import assert_same_scores

LABELS = ["dog", "cat", "hot dog"]
PROCESSOR = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
BASELINES = {
    "clip": {"templates": "default", "local_weight": 0.0},
    "clip80": {"templates": "imagenet", "local_weight": 0.0},
    "local": {"templates": "imagenet"},
    "brackets": {"templates": "coarse", "local_templates": "fine"},
}


def pixels(batch=3):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def plain_scores(clip, tokenizer, texts, local_texts, tau=40.0):
    """Global and local scores from the towers of transformers, text by text."""

    def embed(lists):
        rows = []
        for group in lists:
            tokens = tokenizer(group, padding=True, return_tensors="pt")
            features = clip.get_text_features(**tokens).pooler_output
            rows.append(torch.nn.functional.normalize(features, dim=-1).mean(dim=0))
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    pooled = torch.nn.functional.normalize(clip.get_image_features(pixel_values=pixels()).pooler_output, dim=-1)
    model = TaiDptModel.zero_shot(clip, labels=LABELS)
    dense = model.encode_images(pixels())[1].flatten(1, 2)
    similarity = dense @ embed(local_texts).T
    local = (4 * similarity * (tau * similarity).softmax(dim=1)).sum(dim=1)
    return 4 * pooled @ embed(texts).T, local


@pytest.mark.parametrize("name", BASELINES)
def test_scores_are_those_of_the_written_texts(clip, tokenizer, name):
    model = TaiDptModel.zero_shot(clip, LABELS, **BASELINES[name])
    with torch.no_grad():
        output = model(pixel_values=pixels())
    texts = {
        "clip": [[f"a photo of a {label}."] for label in LABELS],
        "brackets": [[f"[{label}]"] for label in LABELS],
    }.get(name, [[template.replace("{}", label) for template in load_templates()] for label in LABELS])
    local_texts = [["{" + label + "}"] for label in LABELS] if name == "brackets" else texts
    expected_global, expected_local = plain_scores(clip, tokenizer, texts, local_texts)
    weight = BASELINES[name].get("local_weight", 0.5)
    torch.testing.assert_close(output.logits_global, expected_global, atol=2e-5, rtol=0)
    torch.testing.assert_close(output.logits_local, expected_local, atol=2e-5, rtol=0)
    expected = (1 - weight) * expected_global + weight * expected_local
    torch.testing.assert_close(output.logits, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_save_tag_and_take_other_labels(clip, tmp_path, name):
    model = TaiDptModel.zero_shot(clip, LABELS, **BASELINES[name])
    model.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    model.get_tokenizer().save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert_same_scores(loaded(pixel_values=pixels()).logits, model(pixel_values=pixels()).logits)
        other = loaded.with_labels(["zebra", "cat"])(pixel_values=pixels()).logits
        fresh = TaiDptModel.zero_shot(clip, ["zebra", "cat"], **BASELINES[name])(pixel_values=pixels()).logits
    torch.testing.assert_close(other, fresh, atol=1e-5, rtol=0)  # new labels get the same templates
    tagger = pipeline("multi-label-image-classification", model=str(tmp_path))
    tags = tagger(Image.new("RGB", (40, 40), "red"), top_k=3)
    assert {tag["label"] for tag in tags} == set(LABELS)


def test_unknown_template_list_is_named(clip):
    with pytest.raises(ValueError, match="Unknown templates 'imagnet': choose one of default, imagenet, coarse, fine"):
        TaiDptModel.zero_shot(clip, LABELS, templates="imagnet")


@pytest.fixture
def pair(clip):
    model = TaiDptModel.from_clip(
        clip, LABELS, prompt_pair="positive_negative", class_specific_context=True, num_context_tokens=3
    )
    with torch.no_grad():
        for context in model.prompt_learner.parameters():
            context.mul_(20)
    return model


def test_pair_scores_are_the_formula(pair):
    with torch.no_grad():
        output = pair(pixel_values=pixels())
        positive, negative = pair.encode_classes()
        pooled, dense = pair.encode_images(pixels())
    factor, sharpness = torch.tensor(3.91).exp(), torch.tensor(3.0).exp()
    expected = torch.zeros(3, 3)
    for image in range(3):
        cells = dense[image].reshape(-1, dense.shape[-1])
        for label in range(3):
            plus, minus = cells @ positive[label], cells @ negative[label]
            share = (sharpness * plus).softmax(dim=0)
            expected[image, label] = factor * (share * (plus - minus)).sum()
    torch.testing.assert_close(output.logits, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(output.logits, output.logits_local)  # local_weight is 1
    torch.testing.assert_close(output.logits_global, factor * pooled @ (positive - negative).T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.similarity_map[0, 1], dense[0] @ positive[1], atol=1e-5, rtol=0)


def test_pair_learns_contexts_and_both_scales(pair):
    pair.train()
    pair(pixel_values=pixels()).logits.square().sum().backward()
    names = {name for name, parameter in pair.named_parameters() if parameter.grad is not None}
    assert names == {"prompt_learner.global_context", "prompt_learner.local_context", "log_scales"}
    assert (pair.log_scales.grad != 0).all()
    with torch.no_grad():
        captions = pair(input_ids=torch.tensor([[49406, 320, 1125, 49407]]))
    assert captions.logits.shape == (1, 3)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_pair_saves_bakes_and_refuses_new_labels(pair, tmp_path, dtype):
    with torch.no_grad():
        pair.log_scales.copy_(torch.tensor([1.234567, 0.7654321]))
    pair.save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path, **({} if dtype is None else {"dtype": dtype}))
    assert torch.equal(loaded.log_scales, pair.log_scales)
    assert loaded.log_scales.dtype == torch.float32
    assert loaded.log_scales.requires_grad
    if dtype is None:
        with torch.no_grad():
            expected = pair(pixel_values=pixels()).logits
            assert_same_scores(loaded(pixel_values=pixels()).logits, expected)
            torch.testing.assert_close(loaded.bake()(pixel_values=pixels()).logits, expected, atol=1e-4, rtol=0)
            swapped = loaded.with_labels(["cat", "dog"])(pixel_values=pixels()).logits
            torch.testing.assert_close(swapped, expected[:, [1, 0]], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="was not fitted for the label 'zebra'"):
        loaded.with_labels(["zebra"])


@pytest.mark.parametrize("start", ["learned", "zero-shot", "pair"])
def test_linear_head_starts_as_the_scores_and_is_saved(clip, pair, tmp_path, start):
    model = {
        "learned": TaiDptModel.from_clip(
            clip, LABELS, num_context_tokens=2, score_scale=3.0, score_bias=[1.0, 2.0, -1.0]
        ),
        "zero-shot": TaiDptModel.zero_shot(clip, LABELS, score_scale=2.0),
        "pair": pair,
    }[start]
    headed = model.with_linear_head()
    with torch.no_grad():
        before, after = model(pixel_values=pixels()), headed(pixel_values=pixels())
        scale, bias = torch.tensor(model.config.score_scale), torch.tensor(model.config.score_bias)
        torch.testing.assert_close(after.logits, scale * before.logits + bias, atol=1e-4, rtol=1e-5)
        assert torch.equal(after.logits_local, before.logits_local)
        headed.head.weight.add_(torch.randn(headed.head.weight.shape, generator=torch.Generator().manual_seed(1)))
        joined = torch.cat([before.logits, model.encode_images(pixels())[0]], dim=1)
        expected = joined @ headed.head.weight.T + headed.head.bias
        torch.testing.assert_close(headed(pixel_values=pixels()).logits, expected, atol=1e-4, rtol=1e-5)
        headed.save_pretrained(tmp_path)
        loaded = TaiDptModel.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(pixel_values=pixels()).logits, expected, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(headed.bake()(pixel_values=pixels()).logits, expected, atol=1e-4, rtol=1e-5)
    assert {name for name, value in headed.named_parameters() if value.requires_grad} == {"head.weight", "head.bias"}
    assert len([value for value in model.with_linear_head(True).parameters() if value.requires_grad]) >= 2
    assert headed.config.score_scale == 1.0
    with pytest.raises(ValueError, match="labels that it was trained on"):
        headed.with_labels(LABELS[:2])
    with pytest.raises(ValueError, match="has a linear head"):
        headed.with_linear_head()
    assert headed.with_class_embeddings(torch.ones(3, 24)).head is None


def test_unknown_pair_is_refused(clip):
    with pytest.raises(ValueError, match="`prompt_pair` is 'two': choose one of 'global_local', 'positive_negative'"):
        TaiDptModel.from_clip(clip, LABELS, prompt_pair="two")
