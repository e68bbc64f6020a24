"""The pipeline takes every kind of image, colour and orientation, alone, in lists and in batches."""

from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_taidpt import TaiDptModel
from modeling_taidpt.pipelines import TASK

from ..conftest import make_clip
from .conftest import LABELS, assert_same, encoded, make_processor, picture


def test_all_kinds_of_one_image_give_the_same(pipe, tmp_path, server):
    path = tmp_path / "image.png"
    path.write_bytes(encoded(picture()))
    text = base64.b64encode(path.read_bytes()).decode()
    array = np.asarray(picture())
    expected = pipe(picture())
    kinds = [str(path), path, path.read_bytes(), bytearray(path.read_bytes()), text, f"data:image/png;base64,{text}"]
    kinds += [f"{server}/image.png", f"{server}/moved.png", array, array.transpose(2, 0, 1), torch.tensor(array)]
    kinds += [array.astype(np.uint16) * 257, {"bytes": path.read_bytes(), "path": None}, Image.open(path)]
    for kind in kinds:
        assert pipe(kind, timeout=10) == expected


def test_many_images(pipe):
    datasets = pytest.importorskip("datasets")
    images = [picture(40 + 8 * seed, 50, seed) for seed in range(3)]
    expected = [pipe(image) for image in images]
    assert expected[0] != expected[1]
    assert pipe(images) == expected
    assert pipe(tuple(images)) == expected
    assert pipe([images[0]]) == expected[:1]
    assert pipe([]) == []
    stream = pipe(image for image in images)
    assert not isinstance(stream, list) and list(stream) == expected
    assert list(pipe(iter(images))) == expected
    dataset = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
    assert list(pipe(KeyDataset(dataset, "image"))) == expected
    undecoded = dataset.cast_column("image", datasets.Image(decode=False))
    for left, right in zip(pipe(KeyDataset(undecoded, "image"), batch_size=2), expected, strict=True):
        assert_same(left, right)
    for column in (dataset["image"], undecoded["image"]):
        assert list(pipe(column)) == expected
    frames = np.stack([np.asarray(image.resize((48, 50))) for image in images])  # (frames, height, width, 3)
    of_frames = [pipe(frame) for frame in frames]
    assert pipe(frames) == pipe(torch.from_numpy(frames)) == of_frames
    paths = [encoded(image) for image in images]
    assert pipe(pd.Series(paths, index=[7, 8, 9])) == expected
    assert list(pipe({"a": paths[0], "b": paths[1]}.values())) == expected[:2]
    assert list(pipe(map(Image.open, map(io.BytesIO, paths)))) == expected
    for table in (dataset, {"image": paths}, pd.DataFrame({"image": paths}), dataset.to_iterable_dataset()):
        with pytest.raises(ValueError, match=r"has columns: pass the one with images, as `dataset\['image'\]`"):
            pipe(table)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_equals_its_images(pipe, workers):
    images = [picture(64, 40, 1), picture(33, 70, 2), picture(32, 32, 3), picture(90, 31, 4), picture(64, 40, 5)]
    images = [encoded(image) for image in images]
    single = [pipe(image, return_heatmaps=True) for image in images]
    batched = pipe(images, batch_size=3, num_workers=workers, return_heatmaps=True)
    assert len(batched) == 5
    for left, right in zip(batched, single, strict=True):
        assert_same(left, right)
    for left, right in zip(pipe(images, batch_size=2, num_workers=workers), single, strict=True):
        assert_same(left, right)


def test_images_that_stay_of_different_size_share_a_batch(model, tmp_path):
    """Without resizing and cropping the model sees each size apart, in the right order."""
    processor = make_processor(tmp_path, do_resize=False, do_center_crop=False)
    pipe = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    images = [picture(40, 48, 1), picture(64, 32, 2), picture(40, 48, 3)]
    batched = pipe(images, batch_size=3, return_heatmaps=True)
    for image, left in zip(images, batched, strict=True):
        assert_same(left, pipe(image, return_heatmaps=True))
        assert left[0]["heatmap"].shape == (image.height, image.width)
        assert not np.isnan(left[0]["heatmap"]).any()


def test_bf16(processor):
    model = TaiDptModel.from_clip(make_clip().to(torch.bfloat16), labels=LABELS, num_context_tokens=4)
    pipe = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    plain = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=4)
    plain.prompt_learner.load_state_dict(model.prompt_learner.state_dict())
    expected = pipeline(TASK, model=plain, image_processor=processor, device="cpu")(picture(), return_heatmaps=True)
    result = pipe([picture(), picture(seed=1)], batch_size=2, return_heatmaps=True)[0]
    assert result[0]["heatmap"].dtype == np.float32
    assert_same(result, expected, tolerance=0.05)


# ---------------------------------------------------------------- colours and orientation


def test_pixels_of_unusual_modes(pipe):
    grey = np.linspace(0, 255, 48 * 36).reshape(36, 48).astype(np.uint8)
    expected = pipe(Image.fromarray(grey))
    wide = (grey.astype(np.uint16) * 257).astype("<u2")
    assert pipe(encoded(Image.fromarray(wide))) == expected  # a 16-bit PNG; clipping would make it white
    assert pipe(Image.fromarray(wide.astype(np.int32))) == expected
    assert pipe(Image.fromarray(grey.astype(np.float32) / 255)) == expected
    assert pipe(Image.fromarray(grey).convert("LA")) == expected
    assert pipe(encoded(Image.fromarray(grey).convert("RGBA"))) == expected
    # a CMYK JPEG looks like its RGB twin
    cmyk, twin = encoded(picture().convert("CMYK"), "JPEG", quality=100), encoded(picture(), "JPEG", quality=100)
    assert_same(pipe(cmyk), pipe(twin), tolerance=0.05)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(pipe, mode):
    """What lies under full transparency, here black, does not show."""
    seen, alpha = np.full((36, 48), 128, np.uint8), np.full((36, 48), 255, np.uint8)
    seen[:, :20], alpha[:, :20] = 0, 0
    image = Image.merge("LA", (Image.fromarray(seen), Image.fromarray(alpha)))
    if mode == "RGBA":
        image = image.convert("RGBA")
    elif mode == "P":
        image = Image.fromarray((seen > 0).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 128, 128, 128])
        image.info["transparency"] = 0
    seen[:, :20] = 255
    assert pipe(encoded(image)) == pipe(Image.fromarray(seen))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(pipe, orientation):
    upright = picture(60, 34)
    turns = [None, None, 0, 3, 1, 5, 4, 6, 2]  # the transposition that undoes each orientation
    inverse = {0: 0, 1: 1, 2: 4, 3: 3, 4: 2, 5: 5, 6: 6}
    stored = upright if turns[orientation] is None else upright.transpose(inverse[turns[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = pipe(encoded(stored, exif=exif), return_heatmaps=True)
    expected = pipe(upright, return_heatmaps=True)
    assert result[0]["heatmap"].shape == (34, 60)
    assert_same(result, expected)
