"""Processes that are killed for real (SIGKILL): what they had finished is kept, nothing is lost or done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from modeling_taidpt import CaptionFeatures, TaiDptModel
from modeling_taidpt.serving.tagging import tag_images

from ..conftest import ROOT, make_clip

pytestmark = pytest.mark.slow
LABELS = ["dog", "cat", "horse"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=2).save_pretrained(folder)
    return folder


def kill_after(code: str, finished: Path, pattern: str, count: int) -> None:
    """Runs a program and kills it with all that it started once it has finished some files."""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while len(list(finished.glob(pattern))) < count:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("workers", [0, 2])
def test_tagging_goes_on_and_no_row_is_lost_or_repeated(checkpoint, tmp_path, workers):
    generator, names = np.random.default_rng(0), []
    for number in range(300):
        names.append(str(tmp_path / f"{number}.png"))
        if number % 7 == 3:
            Path(names[-1]).write_bytes(b"no image")
        else:
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(names[-1])
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8")
    arguments = (str(tmp_path / "list.txt"), str(tmp_path / "killed"), str(checkpoint))
    options = {"shard_size": 4, "batch_size": 2, "progress": False}
    code = f"from modeling_taidpt import tag_images; tag_images(*{arguments}, num_workers={workers}, **{options})"
    kill_after(code, tmp_path / "killed", "part-*.parquet", 5)
    written = len(list((tmp_path / "killed").glob("part-*.parquet")))
    assert 5 <= written < 75
    report = tag_images(*arguments, num_workers=0, **options)
    assert (report.images, report.skipped) == (300 - 4 * written, 4 * written)
    files = sorted((tmp_path / "killed").glob("part-*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert [row["path"] for row in rows] == names
    assert [row["error"] is not None for row in rows] == [number % 7 == 3 for number in range(300)]
    tag_images(arguments[0], tmp_path / "whole", arguments[2], num_workers=0, **options)
    whole = [row for file in files for row in pq.read_table(tmp_path / "whole" / file.name).to_pylist()]
    assert [row["labels"] for row in rows] == [row["labels"] for row in whole]
    np.testing.assert_allclose(
        [score for row in rows for score in row["scores"]], [score for row in whole for score in row["scores"]], 1e-4
    )


def test_encoding_goes_on_after_its_last_whole_file(checkpoint, tmp_path, monkeypatch):
    captions = [f"a {LABELS[number % 3]} and number {number}" for number in range(800)]
    code = (
        "import numpy, torch; from modeling_taidpt import CaptionFeatures, TaiDptModel; torch.set_num_threads(1);"
        f"model = TaiDptModel.from_pretrained({str(checkpoint)!r}); captions = {captions!r};"
        f"CaptionFeatures.encode(model, captions, numpy.zeros((800, 3)), cache_dir={str(tmp_path)!r}, shard_size=4,"
        "progress=False)"
    )
    kill_after(code, tmp_path, "*/captions-*.arrow", 5)
    written = len(list(tmp_path.glob("*/captions-*.arrow")))
    assert 5 <= written < 200
    model = TaiDptModel.from_pretrained(checkpoint)
    encoded, encode_captions = [], TaiDptModel.encode_captions

    def counting(self, input_ids, attention_mask=None):
        encoded.append(len(input_ids))
        return encode_captions(self, input_ids, attention_mask)

    monkeypatch.setattr(TaiDptModel, "encode_captions", counting)
    kept = CaptionFeatures.encode(
        model, captions, np.zeros((800, 3)), cache_dir=tmp_path, shard_size=4, progress=False
    )
    assert sum(encoded) == 800 - 4 * written
    assert not list(tmp_path.glob("*/*.tmp"))
    monkeypatch.undo()
    expected = model.encode_texts(captions)
    found = torch.stack([kept[index]["caption_embeds"] for index in range(800)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_tagging_a_stream_takes_constant_memory(checkpoint):
    code = f"""
import io, os, resource, tempfile
import datasets, numpy, torch
from PIL import Image
from modeling_taidpt.serving.tagging import tag_images
torch.set_num_threads(1)
def rows():
    generator = numpy.random.default_rng(0)
    for number in range(20_000):
        if number in (6_000, 19_999):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=numpy.uint8)).save(file, "BMP")
        yield {{"image": {{"bytes": file.getvalue(), "path": None}}}}
peaks = []
stream = datasets.IterableDataset.from_generator(rows)
with tempfile.TemporaryDirectory() as folder:
    report = tag_images(stream, folder, {str(checkpoint)!r}, num_workers=0, batch_size=64, progress=False)
assert (report.images, report.errors) == (20_000, 0)
print(*peaks)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr[-3000:]
    early, late = map(int, result.stdout.split()[-2:])
    assert late - early < 50, f"peak memory grew from {early} to {late} MB over 14,000 images"
