"""The pipeline: scores, order and choice of labels, options."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import pipeline

from modeling_taidpt.pipelines import TASK

from .conftest import LABELS, picture, plain_outputs


def test_every_label_by_falling_score(pipe, model, processor):
    result = pipe(picture())
    logits = plain_outputs(model, processor, picture()).logits[0].double()
    expected = sorted(zip(torch.sigmoid(logits).tolist(), LABELS, strict=True), reverse=True)
    assert [entry["label"] for entry in result] == [label for _, label in expected]
    assert [entry["score"] for entry in result] == pytest.approx([score for score, _ in expected], abs=1e-6)
    assert all(set(entry) == {"label", "score"} and type(entry["score"]) is float for entry in result)


@pytest.mark.parametrize(("scale", "bias"), [(2.5, -0.75), ([0.5, 1.0, 2.0, 3.0, -1.0], [0.1, -0.2, 0.3, -0.4, 2.0])])
def test_scores_follow_scale_and_bias(pipe, restored, processor, scale, bias):
    restored.config.score_scale, restored.config.score_bias = scale, bias
    logits = plain_outputs(restored, processor, picture()).logits[0].double().numpy()
    expected = dict(zip(LABELS, 1 / (1 + np.exp(-(np.array(scale) * logits + np.array(bias)))), strict=True))
    result = pipe(picture())
    assert {entry["label"]: entry["score"] for entry in result} == pytest.approx(expected, abs=1e-6)
    scores = [entry["score"] for entry in result]
    assert scores == sorted(scores, reverse=True)


def test_extreme_logits_stay_in_range_and_ties_keep_the_order_of_labels(pipe, restored):
    restored.config.score_scale, restored.config.score_bias = 0.0, [1e4, -1e4, 0.0, 1e4, 0.0]
    result = pipe(picture())
    assert [(entry["label"], entry["score"]) for entry in result] == [
        ("dog", 1.0),
        ("boat", 1.0),
        ("cat", 0.5),
        ("person", 0.5),
        ("traffic light", 0.0),
    ]


def test_threshold_is_inclusive_and_comes_before_top_k(pipe):
    everything = pipe(picture())
    third = everything[2]["score"]
    assert pipe(picture(), threshold=third) == everything[:3]
    assert pipe(picture(), threshold=math.nextafter(third, 1)) == everything[:2]
    assert pipe(picture(), threshold=third, top_k=2) == everything[:2]
    assert pipe(picture(), threshold=third, top_k=5) == everything[:3]
    assert pipe(picture(), top_k=1) == everything[:1]
    assert pipe(picture(), top_k=100) == everything
    assert pipe(picture(), threshold=1.0) == []
    assert pipe(picture(), threshold=0) == everything


def test_options_given_to_the_constructor_are_defaults(model, processor):
    pipe = pipeline(TASK, model=model, image_processor=processor, top_k=2, device="cpu")
    assert len(pipe(picture())) == 2
    assert len(pipe(picture(), top_k=3)) == 3


@pytest.mark.parametrize(
    ("option", "value"),
    [("top_k", 0), ("top_k", -1), ("top_k", 2.5), ("top_k", True), ("top_k", "3")]
    + [("threshold", value) for value in (-0.1, 1.1, float("nan"), "0.5", True)]
    + [("image_size", value) for value in (0, 2.5, True)]
    + [("candidate_labels", value) for value in ("", " , ", [], ["dog", ""], ["dog", 3])],
)
def test_wrong_options_are_named(pipe, option, value):
    with pytest.raises(ValueError, match=f"`{option}`"):
        pipe(picture(), **{option: value})


@pytest.mark.parametrize("size", [(40, 64), (1, 1), (3, 50)])
def test_a_second_look_sees_the_same_part_at_twice_the_size(pipe, model, processor, size):
    image = picture().resize(size)
    larger = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    pixels = processor(image, return_tensors="pt", **larger)["pixel_values"]  # (1, 3, 64, 64)
    with torch.no_grad():
        logits = model(pixel_values=pixels, second_look=True).logits[0].double()  # (classes,)
    expected = dict(zip(LABELS, torch.sigmoid(logits).tolist(), strict=True))
    result = pipe(image, second_look=True)
    assert {entry["label"]: entry["score"] for entry in result} == pytest.approx(expected, abs=1e-6)
    scores = [entry["score"] for entry in result]
    assert scores == sorted(scores, reverse=True)
    assert pipe(image, second_look=False) == pipe(image)


def test_a_second_look_goes_with_other_options(pipe):
    images = [picture(), picture().rotate(90)]
    options = {"second_look": True, "multi_crop": "max", "candidate_labels": ["zebra", "dog"], "return_heatmaps": True}
    both = pipe(images, batch_size=2, **options)
    for found, image in zip(both, images, strict=True):
        alone = pipe(image, **options)
        assert [entry["label"] for entry in found] == [entry["label"] for entry in alone]
        assert [entry["score"] for entry in found] == pytest.approx([entry["score"] for entry in alone], abs=1e-6)
        assert found[0]["heatmap"].shape == (image.height, image.width)
    with pytest.raises(ValueError, match="`second_look` is 'yes': give True or False"):
        pipe(picture(), second_look="yes")
