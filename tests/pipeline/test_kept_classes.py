"""Class embeddings that the pipeline keeps between calls: encoded once, and never those of what the model was."""

from __future__ import annotations

import copy

import pytest
import torch

from modeling_taidpt import TaiDptModel

from ..conftest import make_clip
from .conftest import LABELS, new_pipe, picture

OWN = ["zebra", "dog"]


@pytest.fixture
def own_model(model):
    """A copy that a test may change."""
    return copy.deepcopy(model)


@pytest.fixture
def encoded(monkeypatch):
    """The labels of each model whose classes were encoded, as a list that fills."""
    sets, original = [], TaiDptModel._compute_class_embeddings

    def count(self, *args):
        sets.append(tuple(self.config.labels))
        return original(self, *args)

    monkeypatch.setattr(TaiDptModel, "_compute_class_embeddings", count)
    return sets


def test_calls_with_the_same_labels_encode_them_once(model, processor, tokenizer, encoded):
    pipe = new_pipe(model, processor, tokenizer)
    for _ in range(2):
        for images in ([picture()] * 3, picture(), (picture() for _ in range(3))):
            list(pipe(images, candidate_labels=OWN))
        pipe([picture()] * 3, batch_size=2)
    assert encoded == [tuple(OWN), tuple(LABELS)]
    assert pipe(picture()) == new_pipe(model, processor, tokenizer)(picture())
    pipe(picture(), candidate_labels=OWN[::-1])
    assert encoded[2:] == [tuple(LABELS), tuple(OWN[::-1])]


def test_few_sets_of_labels_are_kept(model, processor, tokenizer, encoded):
    pipe = new_pipe(model, processor, tokenizer)
    for labels in ("a", "b", "c", "d", "e", "e", "b", "a"):
        pipe(picture(), candidate_labels=labels)
    assert encoded == [(label,) for label in "abcdea"] and len(pipe._class_embeddings) == 4


def take_a_step(model):
    optimizer = torch.optim.AdamW(model.train().prompt_learner.parameters(), lr=0.5)
    model(pixel_values=torch.rand(2, 3, 32, 32), labels=torch.eye(2, len(LABELS))).loss.backward()
    optimizer.step()
    model.eval()


def load_another(model):
    state = model.prompt_learner.state_dict()
    model.prompt_learner.load_state_dict({name: -3 * value for name, value in state.items()})


def write_by_numpy(model):
    model.clip.text_model.encoder.layers[0].mlp.fc1.weight.detach().numpy()[:] *= -1


def write_without_gradient(model):
    with torch.no_grad():
        model.clip.text_projection.weight[0].mul_(30)


def move_one_token(model):
    row = model.config.class_input_ids[0][0]
    model.clip.text_model.embeddings.token_embedding.weight.data[row] *= -5


def scale_attention(model):
    for layer in model.clip.text_model.encoder.layers:
        layer.self_attn.scale *= 300


def swap_weights(model):
    other = make_clip(seed=7).text_model
    for own, new in zip(model.clip.text_model.parameters(), other.parameters(), strict=True):
        own.data = new.data


def lower_precision(model):
    model.clip.text_model.to(torch.bfloat16)
    model.clip.text_projection.to(torch.bfloat16)


def replace_a_method(model):
    layer = model.clip.text_model.final_layer_norm
    layer.forward = lambda hidden: -torch.nn.functional.layer_norm(hidden, hidden.shape[-1:]).roll(3, -1)


def hook_a_module(model):
    model.clip.text_model.final_layer_norm.register_forward_hook(lambda module, inputs, output: output.roll(5, -1))


def add_adapters(model):
    peft = pytest.importorskip("peft")
    options = {"target_modules": r".*text_model.*\.(q_proj|v_proj)", "init_lora_weights": False}
    config = peft.LoraConfig(r=4, lora_alpha=64, **options)
    peft.inject_adapter_in_model(config, model)
    model.eval()


CHANGES = [
    lambda model: model.prompt_learner.global_context.data.mul_(-3),
    *(take_a_step, load_another, write_by_numpy, write_without_gradient, move_one_token, scale_attention),
    *(swap_weights, lower_precision, replace_a_method, hook_a_module, add_adapters),
]


@pytest.mark.parametrize("labels", [None, [LABELS[0], "zebra"]])
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_classes_is_noticed(change, labels, own_model, processor, tokenizer):
    pipe = new_pipe(own_model, processor, tokenizer)
    options = {"candidate_labels": labels, "threshold": 0}
    before = pipe(picture(), **options)
    change(own_model)
    after = pipe(picture(), **options)
    assert after == new_pipe(own_model, processor, tokenizer)(picture(), **options)
    assert max(abs(new["score"] - old["score"]) for new, old in zip(after, before, strict=True)) > 1e-6
    assert pipe(picture(), **options) == after


def test_adapters_that_are_switched_are_noticed(own_model, processor, tokenizer):
    peft = pytest.importorskip("peft")
    pipe = new_pipe(own_model, processor, tokenizer)
    plain = pipe(picture())
    add_adapters(own_model)
    adapted = pipe(picture())
    layers = [module for module in own_model.modules() if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer)]
    for layer in layers:
        layer.scale_layer(20)
    scaled = pipe(picture())
    for layer in layers:
        layer.enable_adapters(False)
    assert pipe(picture()) == plain != adapted != scaled != plain


def test_what_cannot_be_told_has_no_digest(own_model):
    assert own_model.class_digest() == copy.deepcopy(own_model).class_digest() is not None
    with own_model.cached_class_embeddings():
        assert own_model.class_digest() is None
    with torch.autocast("cpu", torch.bfloat16):
        rounded = own_model.class_digest()
    assert rounded not in (None, own_model.class_digest())
    assert own_model.train().class_digest() is None
    assert own_model.eval().bake().class_digest() is None  # nothing to encode
    assert own_model.with_labels(OWN).class_digest() != own_model.class_digest()
    assert own_model.to("meta").class_digest() is None


def test_few_classes_of_a_large_tower_are_encoded_and_not_looked_up(own_model, monkeypatch):
    assert own_model.class_digest() is not None
    monkeypatch.setattr("modeling_taidpt.class_state.MOST_PER_CLASS", 10)
    assert own_model.class_digest() is None


def test_what_another_thread_changes_meanwhile_is_not_kept(own_model, processor, tokenizer, monkeypatch):
    pipe, original = new_pipe(own_model, processor, tokenizer), TaiDptModel._compute_class_embeddings
    context = own_model.prompt_learner.global_context.data
    expected = pipe(picture())
    pipe._class_embeddings.clear()

    def swap(self, *args):
        context.mul_(-3)
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TaiDptModel, "_compute_class_embeddings", swap)
        assert pipe(picture()) != expected
    context.div_(-3)
    assert pipe(picture())[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-6)
