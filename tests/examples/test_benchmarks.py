"""Every benchmark runs at a small size and writes what it promises; its times are never asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "train_step": ["--layers", "2", "--width", "64", "--repeats", "1", "--baseline_captions", "8"],
    "labelling": ["--count", "500", "--baseline_count", "100", "--stream_lines", "3000", "--num_proc", "1"],
    "caption_features": ["--captions", "32", "--layers", "2", "--width", "64", "--repeats", "1"],
    "coco_recipe": ["--captions", "200", "--epochs", "1", "--layers", "1", "--width", "32", "--repeats", "1"],
    "mean_average_precision": ["--images", "500", "--classes", "30"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_and_writes_its_figures(name, tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *SMALL[name], "--json", str(figures)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    written = json.loads(figures.read_text())
    assert written["seconds"] > 0 and written["machine"]
    if "baseline   not run" not in result.stdout:
        assert written["ratio"] == pytest.approx(written["baseline_seconds"] / written["seconds"])


@pytest.mark.slow
def test_growth_is_measured_row_by_row(tmp_path):
    figures, picture = tmp_path / "figures.json", tmp_path / "figure.png"
    options = ["--classes", "4", "8", "--captions", "50", "--processes", "1", "--json", str(figures)]
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), *options, "--figure", str(picture)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    written = json.loads(figures.read_text())
    assert [row["size"] for row in written["training"]] == [4, 8]
    assert "exponent" in written["tagging"][1] and written["captions"][0]["peak_mb"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
