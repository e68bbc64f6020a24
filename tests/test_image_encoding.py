"""Dense features of every kind against a computation written out token by token, and features averaged over views."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import layer_norm, linear
from transformers import pipeline

from modeling_taidpt import CLIPResNetConfig, CLIPResNetModel, TaiDptModel
from modeling_taidpt.evaluation.predict import score_features
from modeling_taidpt.features.images import ImageFeatures
from modeling_taidpt.hub import find_image_processor
from modeling_taidpt.pipelines import TASK

from .conftest import make_clip

LABELS = ["dog", "traffic light", "cat"]
CELL = 8  # pixels per cell of the tiny ViT


def make_convolutional_clip():
    """A small convolutional CLIP for 64x64 pixels whose cells are of size one and whose attention is far from even."""
    torch.manual_seed(0)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "projection_dim": 24, "num_attention_heads": 2}
    clip = CLIPResNetModel(CLIPResNetConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    for module in clip.vision_model.trunk.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    for part in ("q_proj", "k_proj", "v_proj", "c_proj"):
        torch.nn.init.normal_(getattr(clip.vision_model.attention_pool, part).weight, std=0.1)
    return clip


def norm(module, x):
    return layer_norm(x, x.shape[-1:], module.weight, module.bias, module.eps)


def project(module, x):
    return linear(x, module.weight, module.bias)


def attend(left, right, value, heads, added=None):
    """softmax(left right' / sqrt(d) + added) value of one image, head by head and token by token."""
    tokens, width = value.shape
    size, rows = width // heads, []
    for token in range(tokens):
        parts = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = torch.stack([left[token, part] @ right[other, part] for other in range(tokens)]) / math.sqrt(size)
            if added is not None:
                scores = scores + added[token]
            weights = torch.exp(scores - scores.max()) / torch.exp(scores - scores.max()).sum()
            parts.append(sum(weights[other] * value[other, part] for other in range(tokens)))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def gaussian(height, width, prefix):
    """exp(-distance^2 / 50) between cells, row by row; nothing to and from the tokens before them."""
    count = prefix + height * width
    added = torch.zeros(count, count)
    for a in range(height * width):
        for b in range(height * width):
            squares = (a // width - b // width) ** 2 + (a % width - b % width) ** 2
            added[prefix + a, prefix + b] = math.exp(-squares / (2 * 5.0**2))
    return added


def mix(option, q, k, v, heads, added):
    if option == "sclip":
        return attend(q, q, v, heads) + attend(k, k, v, heads)
    if option == "clearclip":
        return attend(q, q, v, heads)
    return attend(k, k, v, heads, added) if option == "naclip" else v


def plain_vit(clip, pixel_values, grid, option):
    """Dense features `(cells, dim)` of one image."""
    vision = clip.vision_model
    interpolate = tuple(pixel_values.shape[-2:]) != (32, 32)
    outputs = vision(pixel_values, output_hidden_states=True, interpolate_pos_encoding=interpolate)
    x = outputs.hidden_states[-2][0]  # (1 + cells, width), before the last block
    layer = vision.encoder.layers[-1]
    block = layer.self_attn
    h = norm(layer.layer_norm1, x)
    q, k, v = (project(part, h) for part in (block.q_proj, block.k_proj, block.v_proj))
    y = project(block.out_proj, mix(option, q, k, v, block.num_heads, gaussian(*grid, 1)))
    if option in ("value_residual", "sclip"):
        y = x + y
        inner = project(layer.mlp.fc1, norm(layer.layer_norm2, y))
        y = y + project(layer.mlp.fc2, inner * torch.sigmoid(1.702 * inner))  # quick GELU
    y = clip.visual_projection(norm(vision.post_layernorm, y[1:]))
    return y / y.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("option", ["value", "value_residual", "sclip", "clearclip", "naclip"])
@torch.no_grad()
def test_vit_towers(option, attention):
    clip = make_clip(attention, seed=3)
    for layer in clip.vision_model.encoder.layers:  # attention that is far from even
        layer.self_attn.q_proj.weight *= 12
        layer.self_attn.k_proj.weight *= 12
    model = TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=2, dense_features=option)
    for grid in ((4, 4), (3, 5)):
        pixel_values = torch.randn(2, 3, grid[0] * CELL, grid[1] * CELL, generator=torch.Generator().manual_seed(1))
        pooled, dense = model.encode_images(pixel_values, interpolate_pos_encoding=grid != (4, 4))
        for image in range(2):
            expected = plain_vit(clip, pixel_values[image : image + 1], grid, option)
            torch.testing.assert_close(dense[image].flatten(0, 1), expected, rtol=1e-4, atol=2e-5)
        expected = clip.get_image_features(pixel_values, interpolate_pos_encoding=grid != (4, 4)).pooler_output
        torch.testing.assert_close(pooled, expected / expected.norm(dim=-1, keepdim=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", ["sclip", "clearclip", "naclip"])
@torch.no_grad()
def test_convolutional_towers(option):
    clip = make_convolutional_clip()
    model = TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=2, dense_features=option)
    pixel_values = torch.randn(1, 3, 96, 128)
    _, dense = model.encode_images(pixel_values)
    assert dense.shape == (1, 3, 4, 24)
    pool, cells = clip.vision_model.attention_pool, clip.vision_model.encode_cells(pixel_values)[0]
    tokens = cells.flatten(1).T  # (cells, channels)
    assert 0.1 < tokens.std() < 10
    q, k, v = (project(part, tokens) for part in (pool.q_proj, pool.k_proj, pool.v_proj))
    expected = project(pool.c_proj, mix(option, q, k, v, pool.num_heads, gaussian(3, 4, 0)))
    expected = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(dense[0].flatten(0, 1), expected, rtol=1e-4, atol=2e-5)


def test_a_convolutional_tower_has_no_residual_to_keep(clip):
    with pytest.raises(ValueError, match="no residual and no MLP to keep: choose 'value', 'sclip'"):
        TaiDptModel.from_clip(make_convolutional_clip(), labels=LABELS, dense_features="value_residual")
    with pytest.raises(ValueError, match="`dense_features` is 'values': choose one of 'value', 'value_residual'"):
        TaiDptModel.from_clip(clip, labels=LABELS, dense_features="values")


# ---------------------------------------------------------------- views


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


@pytest.fixture(params=["vit", "convolutional"])
def model_and_cell(request):
    if request.param == "vit":
        return TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=2), CELL
    return TaiDptModel.from_clip(make_convolutional_clip(), labels=LABELS, num_context_tokens=2), 32


@torch.no_grad()
def test_the_mirror_image_is_averaged_in_place(model_and_cell):
    model, cell = model_and_cell
    pixel_values = torch.randn(2, 3, 4 * cell, 4 * cell)
    pooled, dense = model.encode_images(pixel_values, interpolate_pos_encoding=True)
    mirrored_pooled, mirrored_dense = model.encode_images(pixel_values.flip(3), interpolate_pos_encoding=True)
    both_pooled, both_dense = model.encode_images(pixel_values, interpolate_pos_encoding=True, flip=True)
    torch.testing.assert_close(both_pooled, unit(pooled + mirrored_pooled))
    for column in range(4):
        expected = unit(dense[:, :, column] + mirrored_dense[:, :, 3 - column])
        torch.testing.assert_close(both_dense[:, :, column], expected)


@torch.no_grad()
def test_windows_are_averaged_where_they_overlap(model_and_cell):
    model, cell = model_and_cell
    side = model.config.image_size
    across = side // cell
    pixel_values = torch.randn(2, 3, side, side + 2 * cell)
    starts = [0, 2] if across == 4 else [0, 1, 2]  # in cells
    pooled, dense = model.encode_images(pixel_values, multi_crop=True)
    assert dense.shape == (2, across, across + 2, 24)
    parts = [model.encode_images(pixel_values[..., s * cell : s * cell + side]) for s in starts]
    torch.testing.assert_close(pooled, unit(sum(part[0] for part in parts)))
    for column in range(across + 2):
        seen = [part[1][:, :, column - s] for s, part in zip(starts, parts, strict=True) if 0 <= column - s < across]
        torch.testing.assert_close(dense[:, :, column], unit(sum(seen)))


@torch.no_grad()
def test_views_come_from_the_configuration_and_leave_small_images_alone(clip, tmp_path):
    model = TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=2, flip=True, multi_crop=True)
    small, large = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 48, 64)
    plain = model.encode_images(small, flip=False, multi_crop=False)
    torch.testing.assert_close(model.encode_images(small, flip=False), plain)
    model.save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path)
    expected = model.encode_images(large, flip=True, multi_crop=True)
    image, dense = loaded.encode_images(large)
    torch.testing.assert_close((image, dense), expected)
    outputs = loaded(pixel_values=large)
    assert outputs.similarity_map.shape == (1, 3, 6, 8)
    torch.testing.assert_close(outputs.logits, model(pixel_values=large, flip=True, multi_crop=True).logits)
    assert not torch.allclose(outputs.logits, model(pixel_values=large, flip=False).logits)
    with pytest.raises(ValueError, match="the image has 50x64 pixels, resize it to multiples of 8"):
        model(pixel_values=torch.randn(1, 3, 50, 64))


@torch.no_grad()
def test_tiles_join_the_score_of_the_whole_with_the_largest(model_and_cell, tmp_path):
    model, _ = model_and_cell
    side = model.config.image_size
    pixel_values = torch.randn(2, 3, 2 * side, 2 * side)
    pooled, dense = model.encode_images(pixel_values, multi_crop="max")
    assert pooled.shape[:2] == dense.shape[:2] == (2, 10)
    whole = model(pixel_values=torch.nn.functional.avg_pool2d(pixel_values, 2))
    starts = [0, side // 2, side]  # of tiles that overlap by a half
    tiles = [
        model(pixel_values=pixel_values[..., top : top + side, left : left + side])
        for top in starts
        for left in starts
    ]
    joined = model(pixel_values=pixel_values, multi_crop="max")
    for branch in ("logits", "logits_global", "logits_local"):
        largest = torch.stack([tile[branch] for tile in tiles]).amax(dim=0)  # (batch, classes)
        torch.testing.assert_close(joined[branch], 0.5 * whole[branch] + 0.5 * largest)
    torch.testing.assert_close(joined.similarity_map, whole.similarity_map)
    torch.testing.assert_close(model(image_embeds=pooled, dense_embeds=dense).logits, joined.logits)
    model.config.multi_crop = "max"
    torch.testing.assert_close(model(pixel_values=pixel_values).logits, joined.logits)
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).config.multi_crop == "max"


@torch.no_grad()
def test_cached_features_hold_the_tiles(clip, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    model = TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=2, multi_crop="max")
    features = ImageFeatures.encode(
        model, [{"image": image}] * 2, label_column=None, cache_dir=tmp_path, progress=False
    )
    assert features[0]["image_embeds"].shape == (10, 24) and features[0]["dense_embeds"].shape == (10, 4, 4, 24)
    found = score_features(model, features).logits  # (2, classes)
    tagger = pipeline(TASK, model=model, image_processor=find_image_processor(model.config))
    expected = {entry["label"]: entry["score"] for entry in tagger(image)}
    assert torch.sigmoid(found[0]).tolist() == pytest.approx([expected[label] for label in LABELS], abs=1e-5)
    plain = {entry["label"]: entry["score"] for entry in tagger(image, multi_crop=False)}
    assert plain != expected
    assert tagger(image, return_heatmaps=True)[0]["heatmap"].shape == (40, 60)
    with pytest.raises(ValueError, match="give True, False or 'max'"):
        tagger(image, multi_crop="mean")
