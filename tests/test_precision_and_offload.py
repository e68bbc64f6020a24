"""Half precision, where parts of a model lie, and on which device it computes."""

from __future__ import annotations

import pytest
import torch

from modeling_taidpt import CLIPResNetConfig, CLIPResNetModel, TaiDptModel
from modeling_taidpt.hub import computes_on_cpu

from . import test_backbones
from .conftest import make_clip

FP32_PARTS = ("prompt_learner.", "class_embeddings_", "log_scales", "head.")


def resnet_clip() -> CLIPResNetModel:
    torch.manual_seed(0)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"layers": [1, 1, 1, 1], "width": 4, "image_size": 64, "projection_dim": 24, "num_attention_heads": 4}
    return CLIPResNetModel(CLIPResNetConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()


def build(name="clip", **options) -> TaiDptModel:
    clip, tokenizer = test_backbones.make(name) if name not in ("clip", "resnet") else (None, None)
    clip = clip or (make_clip() if name == "clip" else resnet_clip())
    labels = test_backbones.LABELS
    return TaiDptModel.from_clip(clip, labels=labels, tokenizer=tokenizer, num_context_tokens=2, **options).eval()


def pixels(model) -> torch.Tensor:
    size = model.config.image_size
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def variants(model) -> list[TaiDptModel]:
    return [model, model.bake(), model.with_linear_head()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "chinese_clip", "resnet"])
@torch.no_grad()
def test_half_precision_scores_and_learns_however_it_was_asked_for(name, dtype, tmp_path):
    if (name, dtype) == ("resnet", torch.float16):
        pytest.skip("the features of this random tower are too small for fp16")
    model = build(name, prompt_pair="positive_negative" if name == "clip" else "global_local")
    images = pixels(model)
    for number, variant in enumerate(variants(model)):
        expected = variant(pixel_values=images).logits
        variant.save_pretrained(tmp_path / str(number))
        loaded = TaiDptModel.from_pretrained(tmp_path / str(number), dtype=dtype)
        assert loaded.clip.dtype == dtype
        ours = {key: value.dtype for key, value in loaded.state_dict().items() if key.startswith(FP32_PARTS)}
        assert ours and set(ours.values()) == {torch.float32}
        found = loaded(pixel_values=images).logits
        assert torch.allclose(found, expected, atol=0.05 * max(1, float(expected.abs().max())))
        cast = loaded.to(dtype)(pixel_values=images).logits  # all of it, as `model.half()` does
        assert torch.allclose(cast, expected, atol=0.05 * max(1, float(expected.abs().max())))
    with torch.enable_grad():
        loaded = TaiDptModel.from_pretrained(tmp_path / "0", dtype=dtype).train()
        loaded(pixel_values=images, labels=torch.eye(3)[:2]).loss.backward()
    assert loaded.prompt_learner.global_context.grad.abs().max() > 0


def test_parts_that_stay_in_fp32_are_built_so_under_any_default():
    config = build(prompt_pair="positive_negative").with_linear_head().config
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = TaiDptModel(config)
    finally:
        torch.set_default_dtype(torch.float32)
    ours = {key: value.dtype for key, value in model.state_dict().items() if key.startswith(FP32_PARTS)}
    assert len(ours) == 5 and set(ours.values()) == {torch.float32}
    assert model.clip.dtype == torch.bfloat16


def maps() -> dict[str, dict[str, str]]:
    text = {"clip.text_model": "disk"}
    rest = (
        "prompt_learner",
        "clip.vision_model",
        "clip.visual_projection",
        "clip.text_projection",
        "clip.logit_scale",
    )
    return {
        "text on disk": text | dict.fromkeys(rest, "cpu"),
        "prompts on disk": {"prompt_learner": "disk", "clip": "cpu"},
        "all but prompts": {"prompt_learner": "cpu", "clip": "disk"},
    }


@pytest.mark.parametrize("placed", list(maps()))
@torch.no_grad()
def test_offloaded_parts_score_the_same(placed, tmp_path):
    model = build()
    images, tokens = pixels(model), model.get_tokenizer()(["a dog", "a cat"], return_tensors="pt")
    model.save_pretrained(tmp_path / "model")
    options = {"device_map": maps()[placed], "offload_folder": tmp_path / "offload"}
    loaded = TaiDptModel.from_pretrained(tmp_path / "model", **options)
    torch.testing.assert_close(loaded(pixel_values=images).logits, model(pixel_values=images).logits)
    torch.testing.assert_close(loaded(**tokens).logits, model(**tokens).logits)
    assert torch.equal(loaded.encode_texts(["a dog"]), model.encode_texts(["a dog"]))
    expected = model.with_labels(["cat", "zebra"])(pixel_values=images).logits
    if placed == "prompts on disk":  # they are copied
        for make in (lambda: loaded.with_labels(["cat", "zebra"]), loaded.with_linear_head):
            with pytest.raises(ValueError, match="What the model learned is offloaded: load it with a `device_map`"):
                make()
    else:
        torch.testing.assert_close(loaded.with_labels(["cat", "zebra"])(pixel_values=images).logits, expected)
    loaded.save_pretrained(tmp_path / "again")
    again = TaiDptModel.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(again(pixel_values=images).logits, model(pixel_values=images).logits)
    torch.testing.assert_close(loaded.bake()(pixel_values=images).logits, model(pixel_values=images).logits)


@pytest.mark.parametrize("name", ["clip", "siglip", "chinese_clip", "resnet"])
@torch.no_grad()
def test_baked_models_are_initialised_offloaded_and_loaded(name, tmp_path):
    baked = build(name).bake()
    baked.save_pretrained(tmp_path / "model")
    options = {"device_map": {"": "disk"}, "offload_folder": tmp_path / "offload"} if name == "clip" else {}
    loaded = TaiDptModel.from_pretrained(tmp_path / "model", **options)
    torch.testing.assert_close(loaded(pixel_values=pixels(baked)).logits, baked(pixel_values=pixels(baked)).logits)
    with torch.device("meta"):
        assert TaiDptModel(baked.config).device.type == "meta"
    fresh = TaiDptModel(baked.config)  # a random one
    assert fresh(pixel_values=pixels(baked)).logits.isfinite().all()


def test_where_a_model_computes(monkeypatch):
    cpu = [None, "cpu", torch.device("cpu"), {"": "cpu"}, {"": torch.device("cpu")}, {"clip": "cpu", "head": "disk"}]
    automatic = ["auto", "balanced", "sequential"]
    accelerated = ["cuda", "cuda:0", 0, {"": 0}, {"clip": "cuda:1", "head": "cpu"}, torch.device("mps")]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert all(map(computes_on_cpu, [*cpu, *automatic]))
    assert not any(map(computes_on_cpu, accelerated))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert all(map(computes_on_cpu, cpu))
    assert not any(map(computes_on_cpu, [*automatic, *accelerated]))


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, torch.device("cpu")])
def test_fp16_is_storage_on_a_cpu_under_every_map(device_map, tmp_path):
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    build().half().save_pretrained(tmp_path)
    assert TaiDptModel.from_pretrained(tmp_path, device_map=device_map).clip.dtype == torch.float32
    assert TaiDptModel.from_pretrained(tmp_path, device_map=device_map, dtype="auto").clip.dtype == torch.float32
    kept = TaiDptModel.from_pretrained(tmp_path, device_map=device_map, dtype=torch.float16)
    assert kept.clip.dtype == torch.float16
