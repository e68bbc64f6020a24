"""The handler of Inference Endpoints: its request format, what it refuses, that its answers are JSON."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_taidpt import DEFAULT_CHECKPOINT

ROOT = Path(__file__).parent.parent
CAT = (ROOT / "examples" / "images" / "cat.jpg").read_bytes()
COFFEE = (ROOT / "examples" / "images" / "coffee.jpg").read_bytes()


@pytest.fixture(scope="module")
def handler(tmp_path_factory):
    # an endpoint loads the file on its own, from the folder of the model
    spec = importlib.util.spec_from_file_location("endpoint_handler", ROOT / "hub_cards" / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(DEFAULT_CHECKPOINT)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_bytes_base64_and_data_addresses_answer_alike(handler):
    answers = [
        handler({"inputs": image, "parameters": {"top_k": 3}})
        for image in (CAT, encoded(CAT), f"data:image/jpeg;base64,{encoded(CAT)}")
    ]
    assert answers[0] == answers[1] == answers[2]
    assert [len(answers[0]), answers[0][0]["label"]] == [3, "cat"]
    assert json.loads(json.dumps(answers[0])) == answers[0]


def test_many_images_and_own_labels(handler):
    parameters = {"candidate_labels": ["cat", "cup"], "top_k": 2}
    answer = handler({"inputs": [encoded(CAT), encoded(COFFEE)], "parameters": parameters})
    assert [[entry["label"] for entry in result] for result in answer] == [["cat", "cup"], ["cup", "cat"]]


def test_heatmaps_are_of_cells_unless_pixels_are_asked_for(handler):
    (entry,) = handler({"inputs": CAT, "parameters": {"top_k": 1, "return_heatmaps": True}})
    config = handler.pipeline.model.config
    cells = 2 * config.image_size // config.patch_size  # maps are of twice the size
    assert np.asarray(entry["heatmap"]).shape == (cells, cells)
    (entry,) = handler({"inputs": CAT, "parameters": {"top_k": 1, "return_heatmaps": "pixels"}})
    assert np.asarray(entry["heatmap"]).shape == (300, 451)


def make_png(width, height):
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        (make_png(8000, 6000), {}, "it has more than 40 million pixels"),
        (make_png(2000, 1500), {"return_heatmaps": "pixels"}, "more than 4000000 numbers"),
        ([make_png(2000, 1500)] * 2, {"return_heatmaps": "pixels", "top_k": 1}, "more than 4000000 numbers"),
        (CAT, {"candidate_labels": [f"label {n}" for n in range(501)]}, "has 501 labels: send 1 to 500"),
        (CAT, {"candidate_labels": ",".join(f"label {n}" for n in range(501))}, "has 501 labels: send 1 to 500"),
        (CAT, {"candidate_labels": ", " * 200_000}, "too long"),
        (CAT, {"candidate_labels": ["x" * 201]}, "A label has 201 characters"),
        (CAT, {"candidate_labels": []}, "has 0 labels"),
        (CAT, {"candidate_labels": 5}, "not a list of words"),
        (CAT, {"candidate_labels": ["cat", 5]}, "not a list of words"),
        (CAT, {"return_heatmaps": "all"}, "send true for those of cells"),
        (CAT, {"return_heatmaps": [True]}, "send true for those of cells"),
        (CAT, {"return_heatmaps": "pixels", "top_k": "3"}, "more than 4000000 numbers"),
        (CAT, {"top_k": "3"}, "`top_k` is '3'"),
        (CAT, {"x" * 100_000: 1}, "is not a parameter"),
        (CAT, {"threshold": "x" * 100_000}, "`threshold` is"),
        ("A" * 40_000_001, {}, "has 40000001 characters"),
        ([bytes(15_000_000)] * 7, {}, "have 105000000 bytes together"),
    ],
    ids=range(18),
)
def test_what_a_request_may_cost_is_limited(handler, inputs, parameters, message):
    started = time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        handler({"inputs": inputs, "parameters": parameters})
    assert len(str(error.value)) <= 500 and time.process_time() - started < 5


def test_heatmaps_are_numbers_and_null(handler):
    (entry,) = handler({"inputs": CAT, "parameters": {"top_k": 1, "return_heatmaps": "pixels"}})
    heatmap = json.loads(json.dumps(entry, allow_nan=False))["heatmap"]
    values = [value for row in heatmap for value in row if value is not None]
    assert values and all(-1 <= value <= 1 for value in values)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "The request has no `inputs`"),
        ({"inputs": []}, "`inputs` has 0 images"),
        ({"inputs": [encoded(CAT)] * 65}, "`inputs` has 65 images: send 1 to 64"),
        ({"inputs": "http://example.org/cat.jpg"}, "Image 0 is an address: this endpoint fetches none"),
        ({"inputs": "file:///etc/passwd"}, "Image 0 is an address"),
        ({"inputs": "/etc/passwd"}, "not an image|not base64 text"),
        ({"inputs": "no base64!"}, "Image 0 is not base64 text"),
        ({"inputs": 7}, "Image 0 is a int without content"),
        ({"inputs": encoded(b"text")}, "it is not an image"),
        ({"inputs": encoded(CAT[:2000])}, "broken or cut off"),
        ({"inputs": bytes(20_000_001)}, "Image 0 has 20000001 bytes"),
        ({"inputs": CAT, "parameters": {"topk": 3}}, "`topk` is not a parameter: choose of top_k"),
        ({"inputs": CAT, "parameters": [3]}, "`parameters` is a list"),
        ({"inputs": CAT, "parameters": {"threshold": 2}}, "`threshold` is 2"),
    ],
)
def test_wrong_requests_are_one_sentence(handler, request_, message):
    with pytest.raises(ValueError, match=message) as error:
        handler(request_)
    assert "\n" not in str(error.value)


def test_labels_of_a_request_are_encoded_once(handler, monkeypatch):
    alone, calls = handler({"inputs": encoded(CAT), "parameters": {"candidate_labels": "cat, cup"}}), []
    model = type(handler.pipeline.model)
    with_labels = model.with_labels

    def counted(self, labels, **options):
        calls.append(labels)
        return with_labels(self, labels, **options)

    monkeypatch.setattr(model, "with_labels", counted)
    assert handler({"inputs": [encoded(CAT)] * 3, "parameters": {"candidate_labels": "cat, cup"}}) == [alone] * 3
    assert calls == [["cat", "cup"]]


def test_all_pixels_of_a_request_are_limited(handler, monkeypatch):
    monkeypatch.setitem(handler._answer.__globals__, "MAX_TOTAL_PIXELS", 250)
    image = encoded(make_png(10, 10))
    assert len(handler({"inputs": [image] * 2})) == 2
    with pytest.raises(ValueError, match="more than 250 pixels together"):
        handler({"inputs": [image] * 3})
