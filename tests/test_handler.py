"""The handler of Inference Endpoints: its request format, what it refuses, that its answers are JSON."""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path

import pytest

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
    answer = handler({"inputs": [encoded(CAT), encoded(COFFEE)], "parameters": {"candidate_labels": ["cat", "cup"]}})
    assert [[entry["label"] for entry in result] for result in answer] == [["cat", "cup"], ["cup", "cat"]]


def test_heatmaps_are_numbers_and_null(handler):
    (entry,) = handler({"inputs": CAT, "parameters": {"top_k": 1, "return_heatmaps": True}})
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
        ({"inputs": "/etc/passwd"}, "not an image|no base64 text"),
        ({"inputs": "no base64!"}, "Image 0 is no base64 text"),
        ({"inputs": 7}, "Image 0 is a int without content"),
        ({"inputs": encoded(b"text")}, "it is not an image"),
        ({"inputs": encoded(CAT[:2000])}, "broken or cut off"),
        ({"inputs": bytes(20_000_001)}, "Image 0 has 20000001 bytes"),
        ({"inputs": CAT, "parameters": {"topk": 3}}, "`topk` is no parameter: choose of top_k"),
        ({"inputs": CAT, "parameters": [3]}, "`parameters` is a list"),
        ({"inputs": CAT, "parameters": {"threshold": 2}}, "`threshold` is 2"),
    ],
)
def test_wrong_requests_are_one_sentence(handler, request_, message):
    with pytest.raises(ValueError, match=message) as error:
        handler(request_)
    assert "\n" not in str(error.value)
