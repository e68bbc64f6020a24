"""The study of image prompts: its figures, and the whole command on a handful of photographs."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    TaiDptModel,
    load_class_table,
    mean_average_precision,
    paired_bootstrap,
)

ROOT = Path(__file__).parents[2]
NAMES = [entry["name"].replace(" ", "") for entry in load_class_table("voc20")]


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module("image_prompts.report"), importlib.import_module("image_prompts.settings")


def test_figures_are_those_of_the_published_merge(parts):
    report, settings = parts
    generator = np.random.default_rng(0)
    labels = (generator.random((40, 6)) < 0.3).astype(int)
    scores = {"text": generator.standard_normal((40, 6)) + labels}
    for name in settings.SETTINGS:
        for seed in range(2):
            scores[name, seed] = 5 * generator.standard_normal((40, 6)) + 5 * labels
    found = report.figures(scores, labels, 2)
    assert found["text"] == mean_average_precision(scores["text"], labels)["map"]
    weights = {name: row["weight"] for name, row in found["settings"].items()}
    assert {weights[name] for name in weights if name.startswith("few-shot")} == {0.6}
    assert {weights[name] for name in weights if name.startswith("partial")} == {0.9}
    merged = []
    for seed in range(2):
        a, b = scores["text"], scores["few-shot 4", seed]
        merged.append(0.4 * (a - a.min()) / (a.max() - a.min()) + 0.6 * (b - b.min()) / (b.max() - b.min()))
    row = found["settings"]["few-shot 4"]
    maps = [mean_average_precision(matrix, labels)["map"] for matrix in merged]
    assert row["merged"]["mean"] == pytest.approx(np.mean(maps))
    assert row["merged"]["deviation"] == pytest.approx(np.std(maps, ddof=1))
    gains = [paired_bootstrap(matrix, scores["text"], labels)["difference"] for matrix in merged]
    assert row["merged_minus_text"]["difference"] == pytest.approx(np.mean(gains))
    assert row["merged_minus_text"]["seeds_that_gain"] == sum(gain > 0 for gain in gains)
    table = report.as_table(found)
    assert f"| few-shot 4 | {row['alone']['mean']:.1f} ± " in table
    assert len(table.splitlines()) == 4 + len(settings.SETTINGS)


def make_folder(folder: Path, count: int, in_fold: bool) -> Path:
    """Photographs that ship, under names of one fold, with labels made up."""
    (folder / "images").mkdir(parents=True)
    sources = sorted((ROOT / "examples" / "images").glob("*.jpg"))
    names = (f"{number:04d}.jpg" for number in range(10_000))
    rows = []
    for number in range(count):
        name = next(name for name in names if not in_fold or crc32(name.encode()) % 5 == 0)
        shutil.copy(sources[number % len(sources)], folder / "images" / name)
        rows.append({"file_name": name, "labels": [number % 20, (number + 7) % 20]})
    (folder / "labels.json").write_text(json.dumps({"categories": NAMES, "images": rows}))
    return folder


@pytest.mark.slow
def test_the_command_runs_and_does_nothing_twice(tmp_path):
    fit, test = make_folder(tmp_path / "fit", 40, True), make_folder(tmp_path / "test", 20, False)
    output = tmp_path / "out"
    command = [sys.executable, "examples/study_image_prompts.py", "--fit", str(fit), "--test", str(test)]
    command += ["--output", str(output), "--seeds", "2", "--steps", "2"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "40 photographs fitted on, 20 tested on" in first.stdout
    figures = json.loads((output / "figures.json").read_text())
    files = {path: path.stat().st_mtime_ns for path in (output / "scores").iterdir()}
    assert len(files) == 2 * len(figures["settings"]) == 12
    next(iter(files)).unlink()
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    changed = [path for path, time in files.items() if path.stat().st_mtime_ns != time]
    assert changed == [next(iter(files))]
    assert json.loads((output / "figures.json").read_text()) == figures  # the same seeds, the same scores


@pytest.mark.parametrize(
    "recipe", ["few_shot", *(pytest.param(name, marks=pytest.mark.slow) for name in ("partial_labels", "linear_head"))]
)
def test_train_images_learns_measures_and_saves(parts, tmp_path, monkeypatch, capsys, recipe):
    fit, test = make_folder(tmp_path / "fit", 24, True), make_folder(tmp_path / "test", 20, False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    text = TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT)
    text.with_labels(["dog", "cat", "person"]).save_pretrained(tmp_path / "text")
    command = ["--images", str(fit), "--test", str(test), "--text", str(tmp_path / "text"), "--use_recipe", recipe]
    command += ["--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--num_context_tokens", "2"]
    command += ["--disable_tqdm", "True", "--report_to", "none"]
    command += {"few_shot": ["--shots", "2"], "partial_labels": ["--known_labels", "0.5"]}.get(recipe, [])
    figures = importlib.import_module("train_images").main(command)
    assert set(figures) == {"image prompts", "text prompts"} | ({"merged"} if recipe != "linear_head" else set())
    assert f"text prompts: {figures['text prompts']:.1f} mAP" in capsys.readouterr().out
    loaded = TaiDptModel.from_pretrained(tmp_path / "out")
    assert loaded.config.labels == ["dog", "cat", "person"]
    assert (loaded.config.prompt_pair == "positive_negative") == (recipe == "partial_labels")
    assert loaded.config.linear_head == (recipe == "linear_head")
    with pytest.raises(SystemExit, match="Unknown recipe 'paper' for images"):
        importlib.import_module("train_images").main([*command, "--use_recipe", "paper"])
