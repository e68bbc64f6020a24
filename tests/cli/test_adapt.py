"""`taidpt adapt` on a tiny model: what it saves, what it says, and that a run goes on where it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from modeling_taidpt import TaiDptModel

from ..conftest import make_clip
from .test_app import CAT, fails, run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, 100 photographs and a file that is none."""
    folder = tmp_path_factory.mktemp("adapt")
    make_clip().save_pretrained(folder / "base")
    (folder / "photos").mkdir()
    cells = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 3), dtype=np.uint8)
    for number, cell in enumerate(cells):
        Image.fromarray(cell).resize((40, 36)).save(folder / "photos" / f"{number:03d}.png")
    (folder / "photos" / "broken.jpg").write_text("no image")
    return folder


@pytest.fixture(autouse=True)
def cache(place, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", place / "datasets")


@pytest.fixture
def model(place, tmp_path):
    TaiDptModel.from_clip(str(place / "base"), ["dog", "cat", "bus"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_model_is_adapted_in_its_folder(place, model):
    result = run("adapt", model, place / "photos")
    assert result.exit_code == 0, result.output
    assert "1 photographs could not be read and were left out" in result.stderr
    assert f"{model} is adapted to 100 photographs" in " ".join(result.stdout.split())
    adapted = TaiDptModel.from_pretrained(model)
    assert adapted.config.visual_photographs == 100 and adapted.visual_classifier.weight.abs().sum() > 0
    assert "A classifier of patches from 100 unlabelled photographs" in (model / "README.md").read_text()
    assert run("predict", CAT, "--model", model).exit_code == 0
    again = json.loads(run("adapt", model, place / "photos", "--json").stdout)
    assert (again["model"], again["photographs"], again["unreadable"]) == (str(model), 100, 1)
    for name, value in TaiDptModel.from_pretrained(model).visual_classifier.state_dict().items():
        assert torch.equal(value, adapted.visual_classifier.state_dict()[name])


def test_a_checkpoint_keeps_its_form(place, model, tmp_path):
    loaded = TaiDptModel.from_pretrained(model)
    loaded.half().save_pretrained(tmp_path / "half")
    loaded.float().save_pretrained(tmp_path / "prompts", prompts_only=True)
    for form in ("half", "prompts"):
        output = tmp_path / f"adapted_{form}"
        result = run("adapt", tmp_path / form, place / "photos", "--output", output)
        assert result.exit_code == 0, result.output
        with safe_open(output / "model.safetensors", "pt") as weights:
            stored = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        assert stored["visual_classifier.weight"] == "F32"
        clip = {dtype for name, dtype in stored.items() if name.startswith("clip.")}
        assert clip == ({"F16"} if form == "half" else set())
        assert TaiDptModel.from_pretrained(output).config.visual_photographs == 100


def test_what_cannot_be_done_is_one_sentence(place, model, tmp_path):
    assert "at least 100 photographs that can be read, and there are 1: give more" in fails("adapt", model, CAT)
    assert "name another folder with --output" in fails("adapt", "taidpt-coco80", place / "photos")
    (tmp_path / "file").write_text("")
    assert "is a file: name a folder" in fails("adapt", model, place / "photos", "--output", tmp_path / "file")
    assert "does not exist" in fails("adapt", model, tmp_path / "nowhere")
