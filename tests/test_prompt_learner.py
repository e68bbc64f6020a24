"""The shared prefix against the plain computation: every prompt as a whole sequence through CLIP's text tower."""

from __future__ import annotations

import itertools

import pytest
import torch

from modeling_taidpt import TaiDptModel
from modeling_taidpt.backbones import text_side

from .conftest import make_clip

LABELS = ["dog", "traffic light", "a rather long name of a thing", "cat"]
CASES = list(itertools.product(("end", "middle", "front"), (False, True), (None, "a photo of a")))


def build(clip, position, class_specific, context_init, **options):
    model = TaiDptModel.from_clip(
        clip,
        labels=LABELS,
        class_token_position=position,
        class_specific_context=class_specific,
        **({"context_init": context_init} if context_init else {"num_context_tokens": 5}),
        **options,
    )
    torch.manual_seed(1)
    with torch.no_grad():  # contexts that differ between classes and branches
        for context in model.prompt_learner.parameters():
            context.add_(torch.randn_like(context) * 0.02)
    return model


def plain_class_embeddings(model):
    """One class, one branch at a time: the whole prompt through `CLIPTextModel`'s own encoder."""
    text, config = model.clip.text_model, model.config
    results = []
    for context in (model.prompt_learner.global_context, model.prompt_learner.local_context):
        rows = []
        for index, ids in enumerate(config.class_input_ids):
            ctx = (context[index] if config.class_specific_context else context).to(text.dtype)

            def embed(tokens):
                return text.embeddings.token_embedding(torch.tensor(tokens))

            half = {"end": len(ctx), "middle": len(ctx) // 2, "front": 0}[config.class_token_position]
            prompt = torch.cat(
                [embed([49406]), ctx[:half], embed(ids), ctx[half:], embed([config.period_token_id, 49407])]
            )[None]
            hidden = text.embeddings(inputs_embeds=prompt)
            length = hidden.shape[1]
            mask = torch.full((1, 1, length, length), torch.finfo(hidden.dtype).min, dtype=hidden.dtype).triu(1)
            hidden = text.encoder(inputs_embeds=hidden, attention_mask=mask, is_causal=True).last_hidden_state
            feature = model.clip.text_projection(text.final_layer_norm(hidden)[0, -1]).float()
            rows.append(feature / feature.norm())
        results.append(torch.stack(rows))
    return torch.stack(results)


def contexts_gradient(model, embeddings):
    torch.manual_seed(2)
    loss = (embeddings * torch.randn(embeddings.shape)).sum()
    learner = model.prompt_learner
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [learner.global_context, learner.local_context])])


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(("position", "class_specific", "context_init"), CASES)
def test_fp32_equals_the_plain_computation(position, class_specific, context_init, attn):
    model = build(make_clip(attn), position, class_specific, context_init).train()
    ours, plain = torch.stack(model.encode_classes()), plain_class_embeddings(model)
    assert (ours - plain).abs().max() <= 1e-5
    assert not torch.allclose(plain[:, 0], plain[:, 1], atol=1e-2)  # the classes are told apart at all
    ours, plain = contexts_gradient(model, ours), contexts_gradient(model, plain)
    assert plain.norm() > 0
    assert (ours - plain).norm() <= 1e-5 * plain.norm()


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_bf16_stays_near_the_plain_fp32_computation(attn):
    model = build(make_clip(attn), "end", False, None).train()
    plain = plain_class_embeddings(model)
    plain_gradient = contexts_gradient(model, plain)
    model = model.to(torch.bfloat16)
    model.prompt_learner.float()
    ours = torch.stack(model.encode_classes())
    assert ours.dtype == torch.float32
    assert (ours - plain).abs().max() <= 1e-2
    assert (contexts_gradient(model, ours) - plain_gradient).norm() <= 5e-2 * plain_gradient.norm()


@pytest.mark.parametrize(
    ("position", "class_specific", "expected"),
    [("end", False, 5), ("middle", False, 2), ("front", False, 0), ("end", True, 0)],
)
def test_prefix_and_lengths(clip, position, class_specific, expected):
    model = build(clip, position, class_specific, None)
    layout = model.prompt_learner.layout(text_side(clip), range(4), torch.device("cpu"))
    assert layout.prefix_context == expected
    longest = max(map(len, model.config.class_input_ids))
    assert layout.padded_index.shape == (4, 5 - expected + longest + 2)  # never longer than the longest real prompt
    assert len(layout.token_ids) == sum(5 - expected + len(ids) + 2 for ids in model.config.class_input_ids)


def test_word_initialisation_takes_the_embeddings_of_the_words(clip, tokenizer):
    model = TaiDptModel.from_clip(clip, labels=LABELS, context_init="a photo of a", class_specific_context=True)
    ids = tokenizer("a photo of a", add_special_tokens=False)["input_ids"]
    words = clip.text_model.embeddings.token_embedding.weight[ids]
    assert model.config.num_context_tokens == 4
    assert torch.equal(model.prompt_learner.global_context, words.expand(4, 4, -1))
    template = torch.stack(TaiDptModel.zero_shot(clip, labels=LABELS).encode_classes())
    assert torch.allclose(torch.stack(model.encode_classes()), template, atol=1e-6)


def test_many_classes_are_encoded_in_pieces(clip, monkeypatch):
    model = build(clip, "end", False, None)
    whole = torch.stack(model.train().encode_classes())
    monkeypatch.setattr("modeling_taidpt.modeling_taidpt.CLASS_BATCH", 3)
    with torch.no_grad():
        pieces = torch.stack(model.encode_classes())
    assert torch.allclose(whole, pieces, atol=1e-6)


def test_a_name_that_does_not_fit_is_named(clip):
    with pytest.raises(ValueError, match=r"prompt of class 'word word.*77: shorten"):
        TaiDptModel.from_clip(clip, labels=["dog", "word " * 80])
    with pytest.raises(ValueError, match="2 tokens and `num_context_tokens` is 16: leave one"):
        TaiDptModel.from_clip(clip, labels=LABELS, context_init="a photo", num_context_tokens=16)
