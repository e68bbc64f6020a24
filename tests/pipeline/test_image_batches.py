"""The images of a batch are read by several threads."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    pipeline,
)

from modeling_taidpt.data.sources import ImageItem
from modeling_taidpt.pipelines import TASK
from modeling_taidpt.pipelines.image_batches import read_batch
from modeling_taidpt.serving.parts import PartTagger

from .conftest import LABELS, PROCESSOR, SIDE, assert_same, encoded, new_pipe, picture, plain_outputs


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class OwnSteps(type(CLIPImageProcessor())):
    """Darkens the border after normalizing."""

    def normalize(self, image, *args, **kwargs):
        image = super().normalize(image, *args, **kwargs)
        image[:, 0] = -3.0
        return image


def test_a_processor_with_steps_of_its_own_keeps_them(model):
    settings = {name: value for name, value in PROCESSOR.items() if name != "image_processor_type"}
    own = OwnSteps(**settings)
    pipe = pipeline(TASK, model=model, image_processor=own, device="cpu")
    images = [picture(64, 40, seed) for seed in range(3)]
    for image, results in zip(images, pipe(images, batch_size=3), strict=True):
        logits = plain_outputs(model, own, image).logits[0].double()  # (classes,)
        expected = torch.sigmoid(model.config.score_scale * logits + model.config.score_bias)
        found = {result["label"]: result["score"] for result in results}
        np.testing.assert_allclose([found[label] for label in LABELS], expected, atol=1e-6)


def test_a_processor_that_is_not_of_transformers_is_called_by_one_thread(two_threads):
    readers = set()
    read_batch(lambda _: readers.add(threading.get_ident()), [0, 1], [b"0", b"1"], object())
    assert readers == {threading.get_ident()}


def test_a_batch_is_read_by_two_threads_at_once(model, processor, two_threads, tmp_path):
    """Each read waits until another one is under way; one thread alone would wait in vain."""
    images = [encoded(picture(64, 40, seed)) for seed in range(4)]
    pipe = new_pipe(model, processor)
    expected = pipe(images)
    meeting, preprocess = threading.Barrier(2, timeout=20), pipe.preprocess

    def read(entry, **options):
        meeting.wait()
        return preprocess(entry, **options)

    pipe.preprocess = read
    for found in (pipe(images, batch_size=2), list(pipe(iter(images), batch_size=4))):
        for left, right in zip(found, expected, strict=True):
            assert_same(left, right)
    items = [ImageItem(str(number), image) for number, image in enumerate(images)]
    table = PartTagger(pipe, {}, batch_size=2, num_workers=None, pipeline_kwargs={}).tag(items)
    assert table.column("labels").to_pylist() == [[row["label"] for row in rows] for rows in expected]


def test_an_open_image_that_stands_in_a_batch_twice(pipe, two_threads, tmp_path):
    """Decoding changes the object, so one thread reads it."""
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(64, 40).save(path, exif=exif)
    expected = pipe(str(path))
    for _ in range(5):
        found = pipe([Image.open(path)] * 8, batch_size=8)
        for row in found:
            assert_same(row, expected)
    readers = set()
    image = Image.open(path)
    read_batch(lambda _: readers.add(threading.get_ident()), [0, 1], [image, image], pipe.image_processor)
    assert readers == {threading.get_ident()}


def test_the_first_broken_image_is_named_and_filters_of_warnings_stay(pipe, two_threads, monkeypatch):
    images = [encoded(picture(64, 40, seed)) for seed in range(6)]
    filters = list(warnings.filters)
    with pytest.raises(ValueError, match="at index 2 "):
        pipe([*images[:2], b"broken", images[2], b"broken too"], batch_size=8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE)
    for _ in range(10):
        with pytest.raises(ValueError, match=r"at index 0 .* decompression bombs"):
            pipe(images, batch_size=8)
    assert list(warnings.filters) == filters
