"""`taidpt convert`, `export` and `push`, and figures of `predict`: thin over functions tested elsewhere."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from huggingface_hub.errors import HTTPError as ConnectError
from onnxruntime import InferenceSession
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score
from transformers import AutoImageProcessor, pipeline

from modeling_taidpt import TaiDptModel
from modeling_taidpt.pipelines import TASK

from ..conftest import make_clip
from .test_app import CAT, IMAGES, fails, run

LABELLED = Dataset.from_dict(
    {"image": [CAT], "labels": [[0]]}, Features({"image": Value("string"), "labels": List(ClassLabel(names=["cat"]))})
)


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


@pytest.mark.slow
def test_export_says_what_int8_weights_cost(checkpoint, tmp_path):
    for module in ("onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="needs the extra [onnx]")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for name in ("cat.jpg", "coffee.jpg", "astronaut.jpg"):
        (photographs / name).write_bytes((IMAGES / name).read_bytes())
    (photographs / "labels.csv").write_text("file_name,labels\ncat.jpg,cat\ncoffee.jpg,cup\nastronaut.jpg,dog;cat\n")
    options = ["--model", checkpoint, "--quantize", "--eval-images", photographs, "--output", tmp_path / "out"]
    report = json.loads(run("export", *options, "--json").stdout)
    assert (report["images"], report["classes"]) == (3, 2)  # a cup is no label of this model
    truth = [[0, 1], [0, 0], [1, 1]]
    for key, name in (("map", "model.onnx"), ("map_int8", "model_quantized.onnx")):
        session = InferenceSession(tmp_path / "out" / name)
        processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
        pictures = [
            Image.open(photographs / file).convert("RGB") for file in ("cat.jpg", "coffee.jpg", "astronaut.jpg")
        ]
        pixels = processor(images=pictures, return_tensors="np")["pixel_values"]
        scores = session.run(["probabilities"], {"pixel_values": pixels.astype("float32")})[0]
        assert report[key] == pytest.approx(100 * average_precision_score(truth, scores))
    assert 0 < report["largest_difference"] < 0.2


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
        (["export", "--labels", "dog,dog", "--output", "OUT"], "'dog' is duplicated"),
        (["export"], "one of them"),
        (["export", "--web", "OUT", "--output", "OUT"], "one of them"),
        (["export", "--web", "OUT", "--heatmaps"], "--web holds an ONNX file with heatmaps"),
        (["export", "runs/pets", "--model", "runs/other", "--web", "OUT"], "is given twice"),
        (["export", "--format", "torch", "--quantize", "--output", "OUT"], "--quantize is for --format onnx"),
        (["export", "--eval-images", "photos", "--output", "OUT"], "give both"),
        (["export", "--quantize", "--eval-images", "./none", "--output", "OUT"], "'./none' does not exist"),
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


def test_push_draws_an_example_when_asked(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pushed = []

    def push(self, repository, example=None, **options):
        pushed.append(None if example is None else Image.open(example).copy())
        return SimpleNamespace(pr_url=None, commit_url="https://hub/commit", oid="1")

    monkeypatch.setattr("modeling_taidpt.TaiDptModel.push_to_hub", push)
    photograph = tmp_path / "mine.jpg"
    exif = Image.Exif()
    exif[0x010E] = "at home"
    Image.open(CAT).save(photograph, exif=exif)
    for arguments in ([], ["--example", photograph]):
        assert run("push", checkpoint, "org/model", *arguments).exit_code == 0
    assert pushed[0] is None and pushed[1].format is None and min(pushed[1].size) > 200
    assert not pushed[1].getexif()
    assert "'./none.jpg'" in fails("push", checkpoint, "org/model", "--example", "./none.jpg") and len(pushed) == 2


def test_demo_serves_the_model_that_is_named(checkpoint, monkeypatch):
    pytest.importorskip("gradio")
    served = {}
    monkeypatch.setattr(
        "modeling_taidpt.serving.demo.launch_demo", lambda tagger, **options: served.update(tagger=tagger, **options)
    )
    result = run("demo", "--model", checkpoint, "--port", "7861")
    assert result.exit_code == 0, result.stderr
    assert list(served["tagger"].model.config.id2label.values()) == ["dog", "cat"]
    assert (served["server_name"], served["server_port"]) == ("127.0.0.1", 7861)
    assert "'nowhere'" in fails("demo", "--model", "nowhere")


@pytest.mark.parametrize("command", [["predict", CAT], ["evaluate", IMAGES], ["push", "org/none"]], ids=lambda c: c[0])
def test_without_network_the_hub_is_asked_once(command, monkeypatch):
    asked = []

    class Session:
        def head(self, address, timeout):
            asked.append(address)
            raise ConnectError("no route")

    monkeypatch.setattr("modeling_taidpt.hub_errors.get_session", Session)
    monkeypatch.setattr("modeling_taidpt.hub_errors.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("modeling_taidpt.data.loaders.load_images", lambda *arguments, **options: LABELLED)
    model = ["org/target"] if command[0] == "push" else ["--model", "org/none"]
    said = fails(*command, *model)
    assert (
        said == "taidpt: There is no folder 'org/none' here, it is not in the cache, and https://huggingface.co "
        "cannot be reached: check the path or, for a repository, the network connection."
    )
    assert asked == ["https://huggingface.co"]


def test_offline_mode_is_named(checkpoint):
    assert "while HF_HUB_OFFLINE is set" in fails("push", checkpoint, "org/model")
    assert "while HF_HUB_OFFLINE is set" in fails("predict", CAT, "--model", "org/none")


@pytest.mark.slow
def test_every_command_takes_the_descriptions_of_a_class_table(checkpoint, tmp_path):
    table = tmp_path / "table.json"
    described = {"dog": ["a furry animal on a leash"], "tram": []}
    table.write_text(json.dumps([{"name": name, "descriptions": texts or None} for name, texts in described.items()]))
    tagger = pipeline(TASK, model=str(checkpoint))
    expected = {found["label"]: found["score"] for found in tagger(CAT, candidate_labels=described)}
    plain = {found["label"]: found["score"] for found in tagger(CAT, candidate_labels=list(described))}
    assert expected["dog"] != pytest.approx(plain["dog"], rel=1e-3)
    options = ["--model", checkpoint, "--labels", table]
    predicted = json.loads(run("predict", CAT, *options, "--json").stdout)[0]["labels"]
    assert {found["label"]: found["score"] for found in predicted} == pytest.approx(expected, rel=1e-5)
    assert run("tag", CAT, *options, "--output", tmp_path / "tags.jsonl").exit_code == 0
    row = json.loads((tmp_path / "tags.jsonl").read_text())
    assert dict(zip(row["labels"], row["scores"], strict=True)) == pytest.approx(expected, rel=1e-4)
    assert run("export", *options, "--format", "torch", "--output", tmp_path / "out").exit_code == 0
    program = torch.export.load(next((tmp_path / "out").glob("*.pt2"))).module()
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "out")(Image.open(CAT), return_tensors="pt")["pixel_values"]
    assert program(pixels)[0].tolist() == [pytest.approx([expected["dog"], expected["tram"]], rel=1e-4)]
    assert json.loads(run("classes", table, "--json").stdout)[0]["descriptions"] == described["dog"]


def test_tiles_are_an_option_of_predict(checkpoint, tmp_path):
    options = ["--model", checkpoint, "--json"]
    rows = json.loads(run("predict", CAT, "--tiles", *options).stdout)
    scores = {entry["label"]: entry["score"] for entry in rows[0]["labels"]}
    seen = pipeline(TASK, model=str(checkpoint))(CAT, multi_crop="max")
    assert scores == pytest.approx({entry["label"]: entry["score"] for entry in seen}, abs=1e-6)


def test_predict_and_tag_see_the_same_views(checkpoint, tmp_path):
    views = ["--image-size", "40", "--no-center-crop", "--flip", "--multi-crop"]
    options = ["--model", checkpoint, "--json"]
    rows = json.loads(run("predict", CAT, *views, *options).stdout)
    scores = {entry["label"]: entry["score"] for entry in rows[0]["labels"]}
    tagger = pipeline(TASK, model=str(checkpoint))
    seen = tagger(CAT, image_size=40, center_crop=False, flip=True, multi_crop=True)
    assert scores == pytest.approx({entry["label"]: entry["score"] for entry in seen}, abs=1e-6)
    assert scores != pytest.approx({entry["label"]: entry["score"] for entry in tagger(CAT)}, abs=1e-6)
    (tmp_path / "list.txt").write_text(CAT)
    tag = ["tag", tmp_path / "list.txt", "--output", tmp_path / "tags", "--num-workers", "0", *options]
    assert run(*tag, *views).exit_code == 0
    (row,) = pq.read_table(tmp_path / "tags").to_pylist()
    assert dict(zip(row["labels"], row["scores"], strict=True)) == pytest.approx(scores, abs=1e-6)
    assert "holds the output of another run, with `--image-size` 40" in fails(*tag)
