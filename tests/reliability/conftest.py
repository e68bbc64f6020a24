"""What the reliability suite has in common: how much is tried, with which seed, and the counts that it prints.

The sample of a few minutes: `python -m pytest -m slow -n 0 tests/reliability`. The whole: the same with
`TAIDPT_RELIABILITY=full`. `TAIDPT_RELIABILITY_SEED=N` repeats the points and inputs of an earlier run.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, pipeline

from modeling_taidpt import TaiDptModel
from modeling_taidpt.pipelines import TASK

from ..conftest import make_clip

FULL = os.environ.get("TAIDPT_RELIABILITY") == "full"
SEED = int(os.environ.get("TAIDPT_RELIABILITY_SEED") or time.time_ns() % 1_000_000)
LABELS = ["dog", "cat", "horse"]
PROCESSOR = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
counts: dict[str, int] = {}


def pytest_terminal_summary(terminalreporter) -> None:
    if counts:
        kind = "the whole" if FULL else "a sample"
        terminalreporter.section(f"reliability: {kind}, TAIDPT_RELIABILITY_SEED={SEED}")
        for name, number in counts.items():
            terminalreporter.line(f"{number:6d} {name}")


@pytest.fixture
def count():
    """Adds to a line of the summary."""

    def add(name: str, number: int = 1) -> None:
        counts[name] = counts.get(name, 0) + number

    return add


@pytest.fixture
def generator(request) -> random.Random:
    """Other numbers for each test and each run, the same ones for the same seed."""
    return random.Random(f"{SEED} {request.node.name}")


def pick(sample: int, whole: int) -> int:
    """How many are tried."""
    return whole if FULL else sample


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A folder with a tiny checkpoint `model`, 24 `images`, every seventh broken, 100 `photos` and captions."""
    folder = tmp_path_factory.mktemp("base")
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=2)
    model.save_pretrained(folder / "model")
    model.get_tokenizer().save_pretrained(folder / "model")
    CLIPImageProcessor(**PROCESSOR).save_pretrained(folder / "model")
    (folder / "images").mkdir()
    for number in range(24):
        path = folder / "images" / f"{number:02d}.png"
        if number % 7 == 3:
            path.write_bytes(b"no image")
            continue
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "photos").mkdir()
    for number in range(100):
        pixels = np.random.default_rng(100 + number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number:03d}.png")
    (folder / "captions.txt").write_text("A dog runs.\nA cat sleeps.\nA horse.\nTwo dogs.\nNothing here.\n")
    return folder


@pytest.fixture(scope="session")
def tagger(base):
    return pipeline(TASK, model=str(base / "model"), device="cpu")
