"""A tiny model in a pipeline, and what the tests of the pipeline share."""

from __future__ import annotations

import http.server
import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline

import modeling_taidpt
from modeling_taidpt import TaiDptModel
from modeling_taidpt.pipelines import TASK, register

from ..conftest import make_clip

LABELS = ["dog", "traffic light", "cat", "boat", "person"]
SIDE = 32  # of the images that the tiny CLIP takes
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}

register(modeling_taidpt.DEFAULT_CHECKPOINT)  # does nothing where importing the package has done it


def make_processor(folder: Path, **settings):
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | settings))
    return AutoImageProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return make_processor(tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="module")
def model():
    """A learned model with a shared context, and logits that differ clearly between labels."""
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=4, logit_scale=6.0)
    torch.manual_seed(1)
    with torch.no_grad():
        for context in model.prompt_learner.parameters():
            context.add_(torch.randn_like(context) * 0.05)
    return model


@pytest.fixture
def restored(model):
    """The model, whose configuration a test may change."""
    saved = {name: getattr(model.config, name) for name in ("score_scale", "score_bias", "label_origin")}
    yield model
    for name, value in saved.items():
        setattr(model.config, name, value)


@pytest.fixture(scope="module")
def pipe(model, processor, tokenizer):
    return pipeline(TASK, model=model, image_processor=processor, tokenizer=tokenizer, device="cpu")


def picture(width=48, height=36, seed=0) -> Image.Image:
    """A smooth colourful image, other for every seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain_outputs(model, processor, image):
    with torch.no_grad():
        return model(pixel_values=processor(images=image, return_tensors="pt")["pixel_values"])


def assert_same(left, right, tolerance=1e-5):
    """Equal lists of labels; labels whose scores are within the tolerance may stand in any order."""
    scores = {entry["label"]: entry for entry in right}
    assert len(left) == len(right) and {entry["label"] for entry in left} == set(scores)
    for entry in left:
        other = scores[entry["label"]]
        assert entry["score"] == pytest.approx(other["score"], abs=tolerance)
        if "heatmap" in entry:
            np.testing.assert_allclose(entry["heatmap"], other["heatmap"], atol=tolerance)


class _Images(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved.png":
            self.send_response(302)
            self.send_header("Location", "/image.png")
            self.end_headers()
            return
        body = {"/image.png": encoded(picture()), "/page.html": b"<html>no image</html>"}.get(self.path)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Images) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def new_pipe(model, processor, tokenizer=None):
    return pipeline(TASK, model=model, image_processor=processor, tokenizer=tokenizer, device="cpu")
