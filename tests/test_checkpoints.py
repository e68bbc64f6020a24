"""Checkpoints: baked, prompts-only, sharded; what the auto classes find in a saved folder."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from modeling_taidpt import CLIPResNetConfig, CLIPResNetModel, TaiDptModel

from .conftest import make_clip

LABELS = ["dog", "traffic light", "cat"]


def make_resnet() -> CLIPResNetModel:
    """A small random CLIP with OpenAI's convolutional tower."""
    torch.manual_seed(0)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "projection_dim": 24}
    text |= {"projection_dim": 24, "eos_token_id": 49407}
    return CLIPResNetModel(CLIPResNetConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()


@pytest.fixture
def model(clip):
    return TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=4, score_scale=[1.0, 2.0, 3.0])


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def score(model, pixel_values):
    output = model(pixel_values=pixel_values)
    return output.logits, output.similarity_map


def size(folder):
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


# ------------------------------------------------------------------ baked


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_a_baked_model_scores_the_same_without_its_text_tower(tower, tmp_path):
    clip = make_clip() if tower == "vit" else make_resnet()
    model = TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=4)
    side = 32 if tower == "vit" else 64
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = score(model, pixels)
    baked = model.bake()
    model.save_pretrained(tmp_path / "full")
    baked.save_pretrained(tmp_path / "baked")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "baked")
    for each in (baked, loaded, loaded.bake()):
        torch.testing.assert_close(score(each, pixels), expected)
        assert each.config.labels == LABELS
        assert not any(parameter.requires_grad for parameter in each.parameters())
    assert type(loaded) is TaiDptModel
    names = set(load_file(tmp_path / "baked" / "model.safetensors"))
    assert not any("text" in name for name in names)
    assert {"class_embeddings_global", "class_embeddings_local"} < names
    assert size(tmp_path / "baked") < 0.2 * size(tmp_path / "full")
    # the model that was baked is whole
    assert model.encode_texts(["a dog"]).shape == (1, 24)
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_a_baked_model_says_that_it_takes_no_text(model, tokenizer):
    baked = model.bake()
    for use in (
        lambda: baked.with_labels(["horse"]),
        lambda: baked.encode_texts(["a horse"]),
        lambda: baked.encode_templates(),
        lambda: baked(**tokenizer(["a horse"], return_tensors="pt")),
    ):
        with pytest.raises(ValueError, match=r"^The model is baked: it has no text tower [^\n]*baked from\.$"):
            use()


def test_class_embeddings_stay_in_fp32_beside_a_half_precision_clip(model, tmp_path, pixel_values):
    model.bake().save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.clip.visual_projection.weight.dtype == torch.bfloat16
    assert loaded.class_embeddings_global.dtype == torch.float32
    torch.testing.assert_close(score(loaded, pixel_values)[0], score(model, pixel_values)[0], atol=5e-2, rtol=0)
