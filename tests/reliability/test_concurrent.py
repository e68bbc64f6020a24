"""Many calls at once with different label sets: no error, and the scores of one call after the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from .conftest import pick

pytestmark = pytest.mark.slow
THREADS = 8
LABEL_SETS = [None, *([f"thing {number}", "dog", f"a {number} cats"] for number in range(8))]  # nine


def make_image(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def test_calls_with_nine_label_sets_at_once(tagger, generator, count):
    images = [make_image(number) for number in range(5)]
    expected = {
        (image, labels): tagger(images[image], candidate_labels=LABEL_SETS[labels])
        for image in range(len(images))
        for labels in range(len(LABEL_SETS))
    }
    calls = [generator.choice(list(expected)) for _ in range(pick(200, 1000))]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda call: tagger(images[call[0]], candidate_labels=LABEL_SETS[call[1]]), calls)
        for call, results in zip(calls, found, strict=True):
            scores = {result["label"]: result["score"] for result in expected[call]}
            assert {result["label"] for result in results} == set(scores)
            for result in results:
                assert result["score"] == pytest.approx(scores[result["label"]], abs=1e-5)
    count("calls at once, with 9 label sets and 8 threads", len(calls))
