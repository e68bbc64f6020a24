"""Output folders that somebody deletes while a command works: one sentence, exit code 2, nothing odd that stays."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from transformers import TrainerState

from modeling_taidpt import TaiDptModel, atomic
from modeling_taidpt.export import programs
from modeling_taidpt.serving import output

from ..conftest import make_clip
from .test_app import run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, a model, images and captions."""
    folder = tmp_path_factory.mktemp("deleted")
    make_clip().save_pretrained(folder / "base")
    TaiDptModel.from_clip(str(folder / "base"), ["dog", "cat", "bus"]).save_pretrained(folder / "model")
    (folder / "photos").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    (folder / "captions.txt").write_text("\n".join(f"A {label} {n}." for n in range(4) for label in ("dog", "cat")))
    return folder


@pytest.fixture(autouse=True)
def quick(place, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", place / "datasets")
    monkeypatch.setattr(programs, "_capture", lambda scorer, processor: None)
    monkeypatch.setattr(programs.torch.export, "save", lambda program, content: content.write(b"a program"))


def call(command: str, place, target):
    captions, steps = (
        place / "captions.txt",
        ["save_strategy=steps", "save_steps=1", "eval_strategy=steps", "eval_steps=1"],
    )
    words = {
        "tag": [place / "photos", "--model", place / "model", "--shard-size", 2, "--num-workers", 0],
        "train": [
            *("-l", "dog,cat,bus", "-b", place / "base", "-c", captions, "--eval-captions", captions),
            *("--batch-size", 4, "--steps", 3, "--no-templates", "--context-tokens", 2),
            *(word for setting in steps for word in ("--set", setting)),
            *("--set", f"feature_cache_dir={place / 'features'}"),
        ],
        "export": ["--model", place / "model", "--format", "torch"],
        "calibrate": [place / "model", place / "photos", "--captions", captions],
    }[command]
    return run(command, *words, "--output", target)


def deletes(monkeypatch, module, name: str, folder, when: int, first: bool) -> None:
    """Lets a folder vanish before or after a call of a function, the how manieth."""
    original, calls = getattr(module, name), []

    def called(*arguments, **options):
        calls.append(name)
        if len(calls) == when and first:
            shutil.rmtree(folder)
        result = original(*arguments, **options)
        if len(calls) == when and not first:
            shutil.rmtree(folder)
        return result

    monkeypatch.setattr(module, name, called)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("which", ["out", "runs"])
@pytest.mark.parametrize("command", ["tag", "train"])
def test_what_writes_bit_by_bit_says_that_its_folder_was_deleted(place, tmp_path, monkeypatch, command, which, first):
    runs = tmp_path / "runs"
    module, name = {"tag": (output, "write_rows"), "train": (TrainerState, "save_to_json")}[command]
    deletes(monkeypatch, module, name, runs / "out" if which == "out" else runs, 2, first)
    result = call(command, place, runs / "out")
    assert result.exit_code == 2, result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("taidpt: ")]
    assert len(said) == 1 and "deleted while" in said[0] and said[0].endswith("run the same command again.")
    assert not (runs / "out").exists() or not list((runs / "out").iterdir())


@pytest.mark.parametrize("command", ["export", "calibrate"])
def test_what_writes_at_its_end_makes_its_folder_again_or_says_so(place, tmp_path, monkeypatch, command):
    runs = tmp_path / "runs"
    (runs / "out").mkdir(parents=True)
    deletes(monkeypatch, atomic, "_move", runs / "out", 1, True)
    assert call(command, place, runs / "out").exit_code == 0
    assert {"labels.json" if command == "export" else "config.json"} < {file.name for file in (runs / "out").iterdir()}
    deletes(monkeypatch, atomic, "_move", runs, 1, True)
    result = call(command, place, runs / "out")
    assert result.exit_code == 2, result.output
    assert f"taidpt: '{runs / 'out'}' or the folder that it is in was deleted while it was written" in result.stderr
    assert not runs.exists()
