"""Pixels in fewer passes: those of the image processors of transformers, and only where nothing else is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, SiglipImageProcessor

from modeling_taidpt import DEFAULT_CHECKPOINT
from modeling_taidpt.pipelines.pixels import (
    image_pixels,
    resized_sides,
    steps_of,
    steps_of_file,
    steps_of_processor,
)


def make_image(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (224, 224), (57, 91), (1000, 225)])
@pytest.mark.parametrize("make", [CLIPImageProcessor, SiglipImageProcessor])
def test_the_pixels_are_those_of_the_processor(make, size):
    processor, image = make(), make_image(*size)
    steps = steps_of_processor(processor)
    assert steps is not None, "the fast path is off: the classes of transformers have changed"
    expected = processor(images=image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(steps(image), expected, atol=2e-6)


def test_sides_are_rounded_as_in_transformers():
    processor, generator = CLIPImageProcessor(do_center_crop=False), np.random.default_rng(0)
    for width, height in generator.integers(20, 700, (40, 2)):
        expected = processor(images=make_image(int(width), int(height)), return_tensors="np")["pixel_values"].shape
        assert resized_sides(224, int(height), int(width)) == expected[2:]


def test_replaced_settings_count():
    processor, image = CLIPImageProcessor(), make_image(90, 60)
    replaced = {"size": {"height": 32, "width": 64}, "do_center_crop": False}
    expected = processor(images=image, return_tensors="np", **replaced)["pixel_values"]
    np.testing.assert_allclose(image_pixels(processor, image, replaced), expected, atol=2e-6)


class _Inverting(CLIPImageProcessor):
    def _preprocess(self, images, **settings):
        return super()._preprocess([255 - image for image in images], **settings)


@pytest.mark.parametrize(
    "processor",
    [
        _Inverting(),
        CLIPImageProcessor(do_normalize=False),
        CLIPImageProcessor(do_pad=True, pad_size={"height": 300, "width": 300}),
        CLIPImageProcessor(size={"shortest_edge": 200, "longest_edge": 250}, do_center_crop=False),
        CLIPImageProcessor(size={"shortest_edge": 100}),  # the crop is larger
    ],
    ids=["own-class", "not-normalised", "padded", "longest-edge", "crop-beyond"],
)
def test_what_is_not_known_is_left_to_the_processor(processor):
    image = make_image(300, 200)
    steps = steps_of_processor(processor)
    assert steps is None or steps(image) is None
    expected = processor(images=[image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(torch.as_tensor(image_pixels(processor, image)), expected)


def test_the_file_of_a_checkpoint_names_the_steps():
    settings = json.loads((Path(DEFAULT_CHECKPOINT) / "preprocessor_config.json").read_text())
    steps = steps_of_file(settings)
    assert (steps.size, steps.crop, steps.seen) == (256, (256, 256), (256, 256))
    assert steps_of_file(settings | {"image_processor_type": "ViTImageProcessor"}) is None
    assert steps_of_file({name: value for name, value in settings.items() if name != "resample"}) is None
    assert steps_of_file(settings | {"crop_size": {"height": 300, "width": 300}}).seen is None
    assert steps_of((settings | {"image_mean": [0.5]}).get) is None
