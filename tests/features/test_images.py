"""Image features: equal to a fresh encoding, encoded once, kept whole."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from modeling_taidpt import TaiDptModel
from modeling_taidpt.features.images import ImageFeatures, collate_images

LABELS = ["dog", "cat", "car"]
PROCESSOR = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
MULTI_HOT = [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1]]


@pytest.fixture
def model(clip):
    return TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=2)


def pictures(count=5, seed=0):
    generator = np.random.default_rng(seed)
    sizes = [(40, 50), (64, 32), (33, 33), (90, 60), (32, 48)]
    return [
        Image.fromarray(generator.integers(0, 256, (*sizes[index % 5], 3), dtype=np.uint8)) for index in range(count)
    ]


def encode(model, rows, tmp_path, **options):
    options = {"image_processor": PROCESSOR, "cache_dir": tmp_path, "progress": False, "shard_size": 2, **options}
    return ImageFeatures.encode(model, rows, **options)


def as_rows(**columns):
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture
def count_encoded(model, monkeypatch):
    counts, encode_images = [], model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda x, *rest: counts.append(len(x)) or encode_images(x, *rest))
    return counts


def test_features_equal_a_fresh_encoding_and_scores_too(model, tmp_path):
    features = encode(model, as_rows(image=pictures(), labels=MULTI_HOT), tmp_path, batch_size=3)
    pixels = PROCESSOR(images=pictures(), return_tensors="pt")["pixel_values"]
    batch = collate_images([features[index] for index in range(5)])
    with torch.no_grad():
        pooled, dense = model.encode_images(pixels)
        fresh = model(pixel_values=pixels)
        kept = model(image_embeds=batch["image_embeds"], dense_embeds=batch["dense_embeds"])
    assert batch["dense_embeds"].shape == (5, 4, 4, 24)
    torch.testing.assert_close(batch["image_embeds"], pooled, atol=1e-6, rtol=0)
    torch.testing.assert_close(batch["dense_embeds"], dense, atol=1e-6, rtol=0)
    torch.testing.assert_close(kept.logits, fresh.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(kept.similarity_map, fresh.similarity_map, atol=1e-5, rtol=0)
    assert batch["labels"].tolist() == MULTI_HOT


def test_encoded_once_whatever_holds_the_picture(model, tmp_path, count_encoded):
    paths = []
    for index, picture in enumerate(pictures()):
        paths.append(str(tmp_path / f"{index}.png"))
        picture.save(paths[-1])
    table = datasets.Dataset.from_dict({"image": paths, "labels": [[0], [1, 2], [], [0, 1], [2]]})
    first = encode(model, table.cast_column("image", datasets.Image()), tmp_path / "cache")
    assert sum(count_encoded) == 5
    again = encode(model, as_rows(image=paths, labels=MULTI_HOT), tmp_path / "cache")  # the same bytes
    assert sum(count_encoded) == 5
    assert np.array_equal(first.labels, again.labels)
    assert torch.equal(first[3]["dense_embeds"], again[3]["dense_embeds"])
    model.config.pool_with_positions = True  # other features
    encode(model, as_rows(image=paths, labels=MULTI_HOT), tmp_path / "cache")
    assert sum(count_encoded) == 10
    Image.new("RGB", (40, 40)).save(paths[2])  # another picture under the same name
    encode(model, as_rows(image=paths, labels=MULTI_HOT), tmp_path / "cache")
    assert sum(count_encoded) == 15


def test_partial_labels_select_and_join(model, tmp_path):
    partial = [[1, 0, -1], [0, 0, 0], [-1, -1, 1], [1, 1, 1], [0, -1, 0]]
    features = encode(model, as_rows(image=pictures(), labels=partial), tmp_path, dtype="float16")
    assert features.labels.tolist() == partial
    both = features.select([3, 0]).join(features.select([2]).with_labels(np.array([[1, 0, 0]])))
    assert both.labels.tolist() == [partial[3], partial[0], [1, 0, 0]]
    assert torch.equal(both[1]["image_embeds"], features[0]["image_embeds"])
    assert both[2]["image_embeds"].dtype == torch.float16
    assert collate_images([both[0], both[2]])["image_embeds"].dtype == torch.float32


def test_pixels_that_are_there_already_need_no_picture(model, tmp_path):
    pixels = PROCESSOR(images=pictures(2), return_tensors="pt")["pixel_values"]
    features = encode(model, as_rows(pixel_values=list(pixels), labels=[["dog"], ["cat"]]), tmp_path)
    expected = encode(model, as_rows(image=pictures(2), labels=[[0], [1]]), tmp_path)
    torch.testing.assert_close(features[1]["image_embeds"], expected[1]["image_embeds"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "There are no images"),
        (as_rows(photo=pictures(1), labels=[[0]]), "no column 'image' but photo, labels"),
        (as_rows(image=pictures(1), tags=[[0]]), "no column 'labels' but image, tags"),
        (as_rows(image=["nowhere/a.jpg"], labels=[[0]]), r"row 0 \(nowhere/a.jpg\) cannot be read"),
        (as_rows(image=[b"no picture"], labels=[[0]]), "row 0 cannot be read"),
        (as_rows(image=pictures(1), labels=[["zebra"]]), "'zebra' in row 0"),
        (as_rows(image=pictures(2), labels=[[1, -1, 0], [1]]), "Row 1 of the images has 1 labels for 3 classes"),
        (as_rows(image=pictures(1), labels=[[1, -1, 2]]), "row 0, column 2 is 2: give -1, 0 or 1"),
    ],
)
def test_bad_rows_are_named(model, tmp_path, rows, message):
    with pytest.raises(ValueError, match=message) as raised:
        encode(model, rows, tmp_path)
    assert "\n" not in str(raised.value)


def test_pictures_of_different_sizes_are_refused(model, tmp_path):
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False)
    with pytest.raises(ValueError, match="crops them to one size"):
        encode(model, as_rows(image=pictures(), labels=MULTI_HOT), tmp_path, image_processor=processor)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # of PEFT's own call
def test_adapters_and_hooks_are_not_served_from_the_cache(model, tmp_path):
    peft = pytest.importorskip("peft")
    rows = as_rows(image=pictures(), labels=MULTI_HOT)
    plain = encode(model, rows, tmp_path)[0]["image_embeds"]
    options = {"r": 2, "target_modules": r"clip\.vision_model.*q_proj", "init_lora_weights": False}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**options)).eval()
    assert not torch.equal(encode(model, rows, tmp_path)[0]["image_embeds"], plain)
    with adapted.disable_adapter():
        torch.testing.assert_close(encode(model, rows, tmp_path)[0]["image_embeds"], plain)
    handle = model.clip.vision_model.register_forward_hook(lambda part, given, output: None)
    hooked = encode(model, rows, tmp_path)
    handle.remove()
    assert not torch.equal(hooked[0]["image_embeds"], plain)
