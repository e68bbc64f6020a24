"""Learned models as graphs: torch.export, the exporters of transformers, torch.compile without a break."""

from __future__ import annotations

import pytest
import torch

from modeling_taidpt import TaiDptModel

from . import test_backbones
from .conftest import make_clip

FAMILIES = ["clip", "siglip", "chinese_clip"]


def build(name, **options) -> TaiDptModel:
    clip, tokenizer = (make_clip(), None) if name == "clip" else test_backbones.make(name)
    torch.manual_seed(2)
    labels = test_backbones.LABELS if name != "clip" else ["dog", "traffic light", "cat"]
    return TaiDptModel.from_clip(clip, labels=labels, tokenizer=tokenizer, num_context_tokens=2, **options).eval()


def pixels(model, count=2) -> torch.Tensor:
    size = model.config.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_export_of_a_learned_model(name, warm):
    model = build(name)
    if warm:  # its prompts are laid out already
        model(pixel_values=pixels(model))
    batch = {0: torch.export.Dim("batch", min=2, max=8)}
    program = torch.export.export(
        model, (), {"pixel_values": pixels(model)}, dynamic_shapes={"pixel_values": batch}, strict=False
    )
    for count in (2, 5):
        expected = build(name)(pixel_values=pixels(model, count)).logits
        torch.testing.assert_close(program.module()(pixel_values=pixels(model, count)).logits, expected)
    # nothing of the trace is left in the model
    torch.testing.assert_close(
        model(pixel_values=pixels(model)).logits, build(name)(pixel_values=pixels(model)).logits
    )


@pytest.mark.parametrize("dynamic", [False, True])
@torch.no_grad()
def test_exporter_of_transformers(dynamic):
    exporters = pytest.importorskip("transformers.exporters.exporter_dynamo")
    model = build("clip")
    config = exporters.DynamoConfig(dynamic=dynamic)
    program = exporters.DynamoExporter().export(model, {"pixel_values": pixels(model)}, config)
    found = getattr(program, "program", program)
    found = (found.module() if hasattr(found, "module") else found)(pixel_values=pixels(model))
    torch.testing.assert_close(found["logits"], model(pixel_values=pixels(model)).logits)


SLOW_COMPILED = [pytest.param(name, marks=pytest.mark.slow) for name in (*FAMILIES[1:], "specific")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", *SLOW_COMPILED])
@torch.no_grad()
def test_compiled_without_a_break(name):
    torch._dynamo.reset()
    model = build("clip", class_specific_context=True) if name == "specific" else build(name)
    tokens = model.get_tokenizer()(
        ["a dog", "a photo of a cat"], padding="max_length", max_length=12, padding_side="right", return_tensors="pt"
    )
    inputs = [{"pixel_values": pixels(model)}, {key: tokens[key] for key in ("input_ids", "attention_mask")}]
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for given in inputs:
        torch.testing.assert_close(compiled(**given).logits, model(**given).logits)
    with model.cached_class_embeddings():
        torch.testing.assert_close(compiled(**inputs[0]).logits, model(**inputs[0]).logits)
    changed = model.prompt_learner.global_context
    changed.mul_(-2)
    torch.testing.assert_close(compiled(**inputs[0]).logits, model(**inputs[0]).logits)
