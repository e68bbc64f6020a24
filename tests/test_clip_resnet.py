"""Convolutional CLIPs: OpenAI's state dicts, other trunks, the attention pool."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import CLIPModel, EfficientNetConfig, MobileNetV2Config

from modeling_taidpt import CLIPResNetConfig, CLIPResNetModel, TaiDptModel, convert_openai_clip

from .conftest import make_clip


def mobilenet_clip(**vision):
    torch.manual_seed(0)
    return CLIPResNetModel(
        CLIPResNetConfig(
            text_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
            vision_config={
                "trunk_config": MobileNetV2Config(depth_multiplier=0.35, tf_padding=False, finegrained_output=False),
                "hidden_size": 448,
                "pool_hidden_size": 16,
                "num_attention_heads": 2,
                "projection_dim": 24,
                "image_size": 64,
                **vision,
            },
            projection_dim=24,
        )
    ).eval()


@pytest.mark.parametrize("use_positions", [True, False])
def test_any_trunk_tags_and_round_trips(use_positions, tmp_path):
    model = TaiDptModel.from_clip(mobilenet_clip(use_positions=use_positions), labels=["dog", "cat"])
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        outputs = model(pixel_values=images)
        assert outputs.similarity_map.shape == (2, 2, 2, 3)
        model.save_pretrained(tmp_path)
        loaded = TaiDptModel.from_pretrained(tmp_path)
        assert torch.equal(loaded(pixel_values=images).logits, outputs.logits)
    assert loaded.config.clip_config.vision_config.trunk_config.model_type == "mobilenet_v2"


LITE = EfficientNetConfig(
    width_coefficient=0.25, depth_coefficient=0.3, squeeze_expansion_ratio=0.0, hidden_act="relu6", hidden_dim=320
)


def test_an_efficientnet_without_squeezing_is_a_lite_one_and_round_trips(tmp_path):
    clip = mobilenet_clip(trunk_config=LITE, hidden_size=320, use_positions=False)
    block = clip.vision_model.trunk.encoder.blocks[0]  # its first block does not expand
    hidden = torch.randn(2, 8, 16, 16)
    with torch.no_grad():
        depthwise = block.depthwise_conv
        expected = functional.conv2d(hidden, depthwise.depthwise_conv.weight, padding=1, groups=8)  # (2, 8, 16, 16)
        expected = depthwise.depthwise_norm(expected).clamp(0, 6)
        expected = block.projection.project_bn(functional.conv2d(expected, block.projection.project_conv.weight))
        assert torch.equal(block(hidden), expected)
    assert not any("squeeze" in name for name in clip.state_dict())
    model = TaiDptModel.from_clip(clip, labels=["dog", "cat"])
    images = torch.randn(2, 3, 64, 96)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(TaiDptModel.from_pretrained(tmp_path)(images).logits, model(images).logits)


def test_zero_queries_pool_the_plain_mean_of_the_cells():
    clip = mobilenet_clip(use_positions=False)
    pool = clip.vision_model.attention_pool
    with torch.no_grad():
        for proj in (pool.q_proj, pool.k_proj):
            proj.weight.zero_()
        cells = torch.randn(2, 448, 2, 3)
        torch.testing.assert_close(pool(cells), pool.dense(cells).mean(dim=(1, 2)))


def test_positions_are_added_only_on_demand_and_stretched_only_on_demand():
    vision = mobilenet_clip().vision_model
    square, wide = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert not torch.allclose(vision(square).pooler_output, vision(square, with_positions=False).pooler_output)
        with pytest.raises(ValueError, match=r"gives 2x3 cells.*for 2x2: resize"):
            vision(wide)
        assert vision(wide, interpolate_pos_encoding=True).pooler_output.shape == (1, 24)
        assert vision(wide, with_positions=False).pooler_output.shape == (1, 24)


def openai_vit(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """The weights of a CLIPModel under OpenAI's names, written independently of the converter."""
    sd = clip.state_dict()
    out = {
        "text_projection": sd["text_projection.weight"].T,
        "visual.proj": sd["visual_projection.weight"].T,
        "logit_scale": sd["logit_scale"],
        "token_embedding.weight": sd["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": sd["text_model.embeddings.position_embedding.weight"],
        "visual.class_embedding": sd["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": sd["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": sd["vision_model.embeddings.position_embedding.weight"],
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    for kind in ("weight", "bias"):
        out[f"ln_final.{kind}"] = sd[f"text_model.final_layer_norm.{kind}"]
        out[f"visual.ln_pre.{kind}"] = sd[f"vision_model.pre_layrnorm.{kind}"]
        out[f"visual.ln_post.{kind}"] = sd[f"vision_model.post_layernorm.{kind}"]
        for theirs, ours in (("", "text_model"), ("visual.", "vision_model")):
            for index in range(2):
                old, new = f"{ours}.encoder.layers.{index}", f"{theirs}transformer.resblocks.{index}"
                qkv = [sd[f"{old}.self_attn.{n}_proj.{kind}"] for n in "qkv"]
                out[f"{new}.attn.in_proj_{kind}"] = torch.cat(qkv)
                out[f"{new}.attn.out_proj.{kind}"] = sd[f"{old}.self_attn.out_proj.{kind}"]
                out[f"{new}.mlp.c_fc.{kind}"] = sd[f"{old}.mlp.fc1.{kind}"]
                out[f"{new}.mlp.c_proj.{kind}"] = sd[f"{old}.mlp.fc2.{kind}"]
                out[f"{new}.ln_1.{kind}"] = sd[f"{old}.layer_norm1.{kind}"]
                out[f"{new}.ln_2.{kind}"] = sd[f"{old}.layer_norm2.{kind}"]
    return out


def test_openai_vit_state_dict_becomes_a_clip_model(tokenizer):
    config = make_clip().config
    for tower in (config.text_config, config.vision_config):
        tower.hidden_size, tower.num_attention_heads, tower.intermediate_size = 64, 1, 256
        tower.num_hidden_layers = 2
    clip = CLIPModel(config).eval()
    converted = convert_openai_clip(openai_vit(clip))
    assert type(converted) is CLIPModel
    images, texts = torch.randn(2, 3, 32, 32), tokenizer(["a dog"], return_tensors="pt")
    with torch.no_grad():
        for call, inputs in (("get_image_features", {"pixel_values": images}), ("get_text_features", texts)):
            expected, actual = getattr(clip, call)(**inputs), getattr(converted, call)(**inputs)
            torch.testing.assert_close(actual.pooler_output, expected.pooler_output)
    broken = openai_vit(clip)
    del broken["visual.ln_pre.bias"]
    with pytest.raises(ValueError, match=r"missing \['vision_model.pre_layrnorm.bias'\]"):
        convert_openai_clip(broken)
    with pytest.raises(ValueError, match="not an OpenAI CLIP"):
        convert_openai_clip({"a": torch.zeros(1)})


@torch.no_grad()
def test_forward_compares_texts_with_images_as_clip_does(tokenizer):
    torch.manual_seed(0)
    clip = mobilenet_clip()
    tokens = tokenizer(["a dog", "a photo of a cat"], padding=True, return_tensors="pt")
    images = torch.randn(2, 3, 64, 64)
    outputs = clip(**tokens, pixel_values=images, return_loss=True, output_hidden_states=True)
    image, text = (
        torch.nn.functional.normalize(features.pooler_output, dim=-1)
        for features in (clip.get_image_features(images), clip.get_text_features(**tokens))
    )
    torch.testing.assert_close(outputs.logits_per_image, clip.logit_scale.exp() * image @ text.T)
    pairs = (
        torch.log_softmax(outputs.logits_per_image, 1).diag() + torch.log_softmax(outputs.logits_per_text, 1).diag()
    )
    assert outputs.loss.item() == pytest.approx(-pairs.mean().item() / 2, rel=1e-5)
    assert outputs.vision_model_output.hidden_states and len(outputs.text_model_output.hidden_states) == 3
    assert torch.equal(clip(**tokens, pixel_values=images, return_dict=False)[0], outputs.logits_per_image)
    assert not clip.supports_gradient_checkpointing
    clip.set_input_embeddings(embedding := torch.nn.Embedding(49408, 32))
    assert clip.get_input_embeddings() is embedding and clip.text_model.get_input_embeddings() is embedding
