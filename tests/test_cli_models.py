"""`taidpt convert`, `export` and `push`, and figures of `predict`: thin over functions tested elsewhere."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modeling_taidpt import TaiDptModel

from .conftest import make_clip
from .test_cli import CAT, IMAGES, fails, run


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny checkpoint with the labels dog and cat."""
    make_clip().save_pretrained(tmp_path / "base")
    TaiDptModel.from_clip(str(tmp_path / "base"), ["dog", "cat"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_export_writes_a_program_that_gives_probabilities(checkpoint, tmp_path):
    result = run("export", "--model", checkpoint, "--format", "torch", "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["labels"] == ["dog", "cat"] and report["format"] == "torch"
    program = torch.export.load(report["model"]).module()
    assert program(torch.zeros(2, 3, 32, 32))[0].shape == (2, 2)


def test_convert_reads_published_prompts(tmp_path):
    clip = make_clip()
    clip.save_pretrained(tmp_path / "base")
    contexts = {name: torch.randn(4, 32) for name in ("ctx", "ctx_double")}
    torch.save({"state_dict": contexts, "epoch": 1}, tmp_path / "model-best.pth.tar")
    options = ["--clip", tmp_path / "base", "--labels", "dog,cat", "--output", tmp_path / "out"]
    result = run("convert", tmp_path / "model-best.pth.tar", *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"model": str(tmp_path / "out"), "class": "TaiDptModel"}
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(weights["prompt_learner.global_context"], contexts["ctx"])


def test_predict_saves_figures(checkpoint, tmp_path):
    result = run("predict", CAT, "--model", checkpoint, "--save-figure", tmp_path / "cat.png", "--json")
    row = json.loads(result.stdout)[0]
    assert row["figure"] == str(tmp_path / "cat.png") and set(row["labels"][0]) == {"label", "score"}
    run("predict", CAT, IMAGES / "coffee.jpg", "--model", checkpoint, "--save-figure", tmp_path / "figures")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["cat.png", "coffee.png"]
    with Image.open(tmp_path / "cat.png") as picture:
        assert picture.width > picture.height


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["convert", "none.pt", "--output", "OUT"], "none.pt"),
        (["convert", CAT, "--output", "OUT"], "cat.jpg"),
        (["convert", CAT, "--clip", "x", "--output", "OUT"], "both --clip and --labels"),
        (["export", "--model", "./none", "--output", "OUT"], "neither a folder nor the name of a repository"),
        (["export", "--labels", "dog,dog", "--output", "OUT"], "'dog' stands twice"),
        (["export", "--format", "torch", "--quantize", "--output", "OUT"], "--quantize is for --format onnx"),
        (["push", "./none", "org/model"], "neither a folder nor the name of a repository"),
        (["push", "MODEL", "org/model"], "Nothing was pushed to 'org/model'"),
        (["push", "MODEL", "a/b/c"], "'a/b/c'"),
        (["predict", CAT, "--model", "MODEL", "--save-figure", "x.xyz"], "'x.xyz'"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_in_one_sentence(checkpoint, tmp_path, arguments, reason):
    places = {"OUT": str(tmp_path / "out"), "MODEL": str(checkpoint)}
    assert reason in fails(*(places.get(argument, argument) for argument in arguments))
    assert not (tmp_path / "out").exists()


def test_demo_serves_the_model_that_is_named(checkpoint, monkeypatch):
    pytest.importorskip("gradio")
    served = {}
    monkeypatch.setattr(
        "modeling_taidpt.demo.launch_demo", lambda tagger, **options: served.update(tagger=tagger, **options)
    )
    result = run("demo", "--model", checkpoint, "--port", "7861")
    assert result.exit_code == 0, result.stderr
    assert list(served["tagger"].model.config.id2label.values()) == ["dog", "cat"]
    assert (served["server_name"], served["server_port"]) == ("127.0.0.1", 7861)
    assert "'nowhere'" in fails("demo", "--model", "nowhere")
