"""TaiDptModel: building, inputs, outputs, the kept class embeddings, saving and loading."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from modeling_taidpt import TaiDptConfig, TaiDptModel

from .conftest import assert_same_scores, make_clip

LABELS = ["dog", "traffic light", "cat"]
CAPTIONS = ["a dog at a traffic light", "a cat"]


@pytest.fixture
def model(clip):
    return TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=4)


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def captions(tokenizer):
    return tokenizer(CAPTIONS, padding=True, return_tensors="pt")


def test_shapes_and_scores_of_images(model, pixel_values):
    with torch.no_grad():
        outputs = model(pixel_values=pixel_values)
        pooled, dense = model.encode_images(pixel_values)
        g, h = model.encode_classes()
    assert outputs.similarity_map.shape == (2, 3, 4, 4)
    assert (dense.shape, pooled.shape, g.shape) == ((2, 4, 4, 24), (2, 24), (3, 24))
    expected_global = 4 * pooled @ g.T
    s = torch.einsum("bhwd,cd->bhwc", dense, h).flatten(1, 2)
    expected_local = (4 * s * torch.softmax(40 * s, dim=1)).sum(dim=1)
    torch.testing.assert_close(outputs.logits_global, expected_global)
    torch.testing.assert_close(outputs.logits_local, expected_local)
    torch.testing.assert_close(outputs.logits, 0.5 * expected_global + 0.5 * expected_local)
    torch.testing.assert_close(outputs.similarity_map[1, 2, 3, 0], dense[1, 3, 0] @ h[2])


def test_pooled_image_feature_is_that_of_clip(model, pixel_values):
    with torch.no_grad():
        expected = model.clip.get_image_features(pixel_values).pooler_output
        torch.testing.assert_close(
            model.encode_images(pixel_values)[0], expected / expected.norm(dim=-1, keepdim=True)
        )


def test_dense_features_are_the_value_path_of_the_last_block(model, pixel_values):
    vision = model.clip.vision_model
    with torch.no_grad():
        hidden = vision(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
        layer = vision.encoder.layers[-1]
        value = layer.self_attn.out_proj(layer.self_attn.v_proj(layer.layer_norm1(hidden)))
        expected = model.clip.visual_projection(vision.post_layernorm(value)).unflatten(1, (4, 4))
        torch.testing.assert_close(
            model.encode_images(pixel_values)[1], expected / expected.norm(dim=-1, keepdim=True), rtol=1e-4, atol=1e-5
        )


def test_other_image_sizes_need_interpolation(model):
    wide = torch.randn(1, 3, 32, 48)
    with pytest.raises(ValueError, match="size"):
        model(pixel_values=wide)
    assert model(pixel_values=wide, interpolate_pos_encoding=True).similarity_map.shape == (1, 3, 4, 6)


def test_captions_mask_their_padding(model, captions, tokenizer):
    with torch.no_grad():
        batch = model(**captions)
        alone = model(**tokenizer(CAPTIONS[1:], return_tensors="pt"))
        pooled, tokens = model.encode_captions(**captions)
        expected = model.clip.get_text_features(**captions).pooler_output
    torch.testing.assert_close(batch.logits[1:], alone.logits, rtol=1e-4, atol=1e-5)
    assert batch.similarity_map is None
    torch.testing.assert_close(pooled, expected / expected.norm(dim=-1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert tokens[1, captions["attention_mask"][1].sum() :].abs().sum() == 0


def test_kept_features_score_like_the_inputs(model, captions, pixel_values):
    with torch.no_grad():
        pooled, tokens = model.encode_captions(**captions)
        kept = model(caption_embeds=pooled, token_embeds=tokens, attention_mask=captions["attention_mask"])
        torch.testing.assert_close(kept.logits, model(**captions).logits)
        pooled, dense = model.encode_images(pixel_values)
        torch.testing.assert_close(
            model(image_embeds=pooled, dense_embeds=dense).logits, model(pixel_values=pixel_values).logits
        )


def test_clear_errors_for_inputs(model, captions, pixel_values):
    with pytest.raises(ValueError, match=r"exactly one of .*: got none"):
        model()
    with pytest.raises(ValueError, match="got pixel_values and input_ids"):
        model(pixel_values=pixel_values, **captions)
    with pytest.raises(ValueError, match=r"padded and there is no `attention_mask`"):
        model(input_ids=captions["input_ids"])
    with pytest.raises(ValueError, match="Caption 1 of the batch has no end-of-text token"):
        model(input_ids=torch.tensor([[49406, 320, 49407], [49406, 320, 320]]))
    with pytest.raises(ValueError, match="dense partner"):
        model(image_embeds=torch.zeros(1, 24))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "at least one label"),
        ("dog", "give a list"),
        (["a", "b", "a"], "'a' is duplicated"),
        (["a", " "], "Label 1"),
    ],
)
def test_clear_errors_for_labels(clip, labels, message):
    with pytest.raises(ValueError, match=message):
        TaiDptModel.from_clip(clip, labels=labels)


def test_unknown_options_are_refused(clip):
    with pytest.raises(ValueError, match="`num_contexts` is not an option"):
        TaiDptModel.from_clip(clip, labels=LABELS, num_contexts=4)
    with pytest.raises(ValueError, match=r"`class_token_position` is 'begin': choose one of 'end'"):
        TaiDptModel.from_clip(clip, labels=LABELS, class_token_position="begin")


def test_only_the_contexts_are_trainable_and_clip_stays_in_eval_mode(model, tmp_path):
    names = {"prompt_learner.global_context", "prompt_learner.local_context"}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == names
    assert not model.train().clip.training
    model.save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path)
    assert {name for name, parameter in loaded.named_parameters() if parameter.requires_grad} == names
    assert not loaded.training


def test_gradients_are_the_same_in_eval_mode(model, pixel_values):
    learner = model.prompt_learner
    gradients = []
    for mode in (True, False, False):
        model.train(mode).zero_grad()
        model(pixel_values=pixel_values, labels=torch.tensor([[1, 0, 0], [0, 1, 1]])).loss.backward()
        gradients.append(learner.global_context.grad.clone())
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


@pytest.mark.parametrize("options", [{}, {"class_specific_context": True}, {"zero_shot": True}])
def test_round_trip_is_exact(clip, options, tmp_path, pixel_values):
    build = TaiDptModel.zero_shot if options.pop("zero_shot", False) else TaiDptModel.from_clip
    model = build(clip, labels=LABELS, score_scale=[1.0, 2.0, 3.0], **options)
    model.save_pretrained(tmp_path)
    for loader in (TaiDptModel, AutoModel, AutoModelForImageClassification):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is TaiDptModel
        for (name, old), (_, new) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
            assert torch.equal(old, new), name
        with torch.no_grad():
            assert_same_scores(loaded(pixel_values=pixel_values).logits, model(pixel_values=pixel_values).logits)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, TaiDptConfig)
    assert config.score_scale == [1.0, 2.0, 3.0]
    assert (config.id2label, config.num_labels, config.problem_type) == (
        dict(enumerate(LABELS)),
        3,
        "multi_label_classification",
    )


def test_zero_shot_averages_its_templates(clip, tokenizer):
    templates = ["a photo of a {}.", "the {}."]
    model = TaiDptModel.zero_shot(clip, labels=LABELS, templates=templates)
    rows = []
    for label in LABELS:
        tokens = tokenizer([template.format(label) for template in templates], padding=True, return_tensors="pt")
        with torch.no_grad():
            features = clip.get_text_features(**tokens).pooler_output
        mean = (features / features.norm(dim=-1, keepdim=True)).mean(dim=0)
        rows.append(mean / mean.norm())
    for branch in model.encode_classes():
        torch.testing.assert_close(branch, torch.stack(rows), rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match=r"'a photo', which has no \{\}"):
        TaiDptModel.zero_shot(clip, labels=LABELS, templates=["a photo"])


def test_prompts_only_checkpoints_fetch_their_base(tmp_path, pixel_values):
    base, prompts = tmp_path / "base", tmp_path / "prompts"
    make_clip().save_pretrained(base)
    model = TaiDptModel.from_clip(str(base), labels=LABELS)
    model.save_pretrained(prompts, prompts_only=True)
    assert sorted(load_file(prompts / "model.safetensors")) == [
        "prompt_learner.global_context",
        "prompt_learner.local_context",
    ]
    assert model.config.prompts_only is False
    loaded = TaiDptModel.from_pretrained(prompts)
    with torch.no_grad():
        assert_same_scores(loaded(pixel_values=pixel_values).logits, model(pixel_values=pixel_values).logits)
    (base / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"The base .* cannot be loaded"):
        TaiDptModel.from_pretrained(prompts)


def test_a_random_clip_is_never_passed_off_as_loaded(model, tmp_path):
    with pytest.raises(ValueError, match=r"`prompts_only=True` needs `config.base_model_name_or_path`"):
        model.save_pretrained(tmp_path, prompts_only=True)
    model.save_pretrained(tmp_path, state_dict={"prompt_learner.global_context": model.prompt_learner.global_context})
    with pytest.raises(ValueError, match="does not hold the whole model"):
        TaiDptModel.from_pretrained(tmp_path)
    make_clip().save_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match=r"is a `clip` checkpoint, not a `taidpt` one: .*from_clip"):
        TaiDptModel.from_pretrained(tmp_path / "clip")


@pytest.mark.parametrize("dtype", [None, "auto", torch.float16])
def test_fp16_is_a_storage_format_on_a_cpu(model, dtype, tmp_path, pixel_values):
    model.half().save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["clip.text_projection.weight"].dtype == torch.float16
    loaded = TaiDptModel.from_pretrained(tmp_path, **({} if dtype is None else {"dtype": dtype}))
    expected = torch.float16 if dtype is torch.float16 else torch.float32
    assert loaded.clip.text_projection.weight.dtype == expected
    assert loaded.prompt_learner.global_context.dtype == torch.float32
    assert loaded(pixel_values=pixel_values).logits.dtype == torch.float32


def test_stored_configuration_can_be_overridden(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path, local_weight=0.25, dtype=torch.bfloat16)
    assert loaded.config.local_weight == 0.25
    assert loaded.clip.text_projection.weight.dtype == torch.bfloat16
    assert json.loads((tmp_path / "config.json").read_text())["local_weight"] == 0.5


def test_tuple_output(model, pixel_values):
    with torch.no_grad():
        assert torch.equal(model(pixel_values=pixel_values, return_dict=False)[0], model(pixel_values=pixel_values)[0])


def test_scores_stay_in_fp32_under_autocast(model, captions):
    with torch.no_grad():
        pooled, tokens = model.encode_captions(**captions)
        kept = {"caption_embeds": pooled, "token_embeds": tokens, "attention_mask": captions["attention_mask"]}
        kept["class_embeddings"] = model.encode_classes()
        expected = model(**kept).logits
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(**kept).logits, expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_hidden_states_and_attentions_are_those_of_the_tower(attention, captions, pixel_values):
    clip = make_clip(attention)
    model = TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=2)
    flags = {"output_hidden_states": True, "output_attentions": True}
    for given, tower in (({"pixel_values": pixel_values}, clip.vision_model), (captions, clip.text_model)):
        outputs, expected = model(**given, **flags), tower(**given, **flags)
        assert len(outputs.hidden_states) == 4
        for ours, theirs in zip(outputs.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(ours, theirs)
        assert len(outputs.attentions) == (3 if attention == "eager" else 0)
        for ours, theirs in zip(outputs.attentions, expected.attentions or (), strict=True):
            torch.testing.assert_close(ours, theirs)
        plain = model(**given)
        assert plain.hidden_states is None and plain.attentions is None
        torch.testing.assert_close(outputs.logits, plain.logits)
    assert len(model(pixel_values=pixel_values, flip=True, output_hidden_states=True).hidden_states) == 4
    model.config.output_hidden_states, model.config.return_dict = True, False
    assert isinstance(model(pixel_values=pixel_values), tuple)
    assert len(model(pixel_values=pixel_values, return_dict=True).hidden_states) == 4


def test_the_token_embedding_can_be_replaced(model):
    embedding = torch.nn.Embedding(49408, 32)
    model.set_input_embeddings(embedding)
    assert model.get_input_embeddings() is embedding
    with pytest.raises(ValueError, match="baked"):
        model.bake().set_input_embeddings(embedding)


@torch.no_grad()
def test_texts_of_any_length_are_encoded_alone_or_together(model, tokenizer, monkeypatch):
    monkeypatch.setattr("modeling_taidpt.text_encoding.TEXT_BATCH", 2)
    texts = ["a dog", "a traffic light beside a very long street with a dog", "cat"]
    alone = torch.cat([model.encode_texts([text]) for text in texts])
    torch.testing.assert_close(model.encode_texts(texts), alone)
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    expected = model.clip.get_text_features(**tokens).pooler_output
    torch.testing.assert_close(alone, torch.nn.functional.normalize(expected, dim=-1))
    assert model.get_tokenizer().backend_tokenizer.padding is None  # what threads share is as it was
    with pytest.raises(ValueError, match=r"'dog dog.*has 92 tokens, the text tower takes 77"):
        model.encode_texts(["a cat", "dog " * 90])


def test_hidden_states_of_some_layers_and_a_default_device(model, pixel_values, tmp_path):
    every = model(pixel_values=pixel_values, output_hidden_states=True).hidden_states
    some = model(pixel_values=pixel_values, output_hidden_states=[0, -1]).hidden_states
    assert torch.equal(some[0], every[0]) and torch.equal(some[-1], every[-1])
    assert len(some) == len(every) and all(state is None for state in some[1:-1])
    model.save_pretrained(tmp_path)
    with torch.device("meta"), pytest.raises(ValueError, match="meta device context manager"):
        TaiDptModel.from_pretrained(tmp_path)  # reads the weights' digest on the CPU, then is refused by transformers
