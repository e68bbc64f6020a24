"""`taidpt adapt` on a tiny model: what it saves, what it says, and that a run goes on where it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from modeling_taidpt import TaiDptModel, repository
from modeling_taidpt.graph_export import save_graph
from modeling_taidpt.onnx_graphs import GRAPH_FILE, open_checkpoint_graph
from taidpt_cli.quick import open_quick_tagger

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


@pytest.mark.slow
def test_a_model_with_a_graph_gets_one_of_its_new_weights(place, model):
    save_graph(TaiDptModel.from_pretrained(model), model)
    assert run("adapt", model, place / "photos").exit_code == 0
    assert open_checkpoint_graph(model, [model / "model.safetensors"]).classes == 3
    assert open_quick_tagger(str(model), {}) is not None
    quick, slow = (
        json.loads(run("predict", CAT, "-m", model, "--json", *options).stdout)[0]["labels"]
        for options in ([], ["--backend", "torch"])
    )
    assert [entry["label"] for entry in quick] == [entry["label"] for entry in slow]
    assert [entry["score"] for entry in quick] == pytest.approx([entry["score"] for entry in slow], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["adapt", "calibrate", "train"])
def test_commands_make_graphs_alike(command, place, model, tmp_path, monkeypatch):
    """Of the model or of the CLIP that it was made on, whole models alone; without what makes them it is said."""
    made, photos, output = [], place / "photos", tmp_path / "out"
    monkeypatch.setattr(
        repository, "save_graph", lambda model, folder: made.append(folder.name)
    )  # beside a staged model
    (tmp_path / "captions.txt").write_text("A dog.\nA cat and a dog.\nA bus.\nA bus and a cat.\n")
    captions = ["--captions", tmp_path / "captions.txt"]
    commands = {
        "adapt": ["adapt", model, photos, "--output", output],
        "calibrate": ["calibrate", model, photos, *captions, "--output", output],
        "train": ["train", "--labels", "dog,cat,bus", *captions, "--base", model, "--output", output, "--steps", "1"],
    }
    commands["train"] += ["--batch-size", "2", "--set", f"feature_cache_dir={tmp_path / 'cache'}", "--no-templates"]
    assert run(*commands[command]).exit_code == 0 and made == []
    (model / GRAPH_FILE).parent.mkdir()
    (model / GRAPH_FILE).write_bytes(b"")
    result = run(*commands[command])
    assert (result.exit_code, made) == (0, [output.name]), result.stderr
    if command == "train":
        assert run(*commands[command], "--prompts-only").exit_code == 0
        assert made == [output.name]

    def missing(model, folder):
        raise ImportError('Export to ONNX needs onnx: run `pip install "taidpt[onnx]"`.')

    monkeypatch.setattr(repository, "save_graph", missing)
    result = run(*commands[command])
    assert result.exit_code == 0 and TaiDptModel.from_pretrained(output).config.num_labels == 3


def test_what_cannot_be_done_is_one_sentence(place, model, tmp_path):
    assert "at least 100 photographs that can be read, and there are 1: give more" in fails("adapt", model, CAT)
    assert "name another folder with --output" in fails("adapt", "taidpt-coco80", place / "photos")
    (tmp_path / "file").write_text("")
    assert "is a file: name a folder" in fails("adapt", model, place / "photos", "--output", tmp_path / "file")
    assert "does not exist" in fails("adapt", model, tmp_path / "nowhere")
