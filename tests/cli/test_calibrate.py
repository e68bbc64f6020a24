"""`taidpt calibrate` on a tiny model: what it changes, with labels and without, and what it says when it cannot."""

from __future__ import annotations

import json

import pytest
from transformers import pipeline

from modeling_taidpt import TaiDptModel
from modeling_taidpt.pipelines import TASK

from ..conftest import make_clip
from .test_app import IMAGES, fails, run

PHOTOGRAPHS = len(list(IMAGES.glob("*.jpg")))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, photographs with labels, and captions."""
    folder = tmp_path_factory.mktemp("calibrate")
    make_clip().save_pretrained(folder / "base")
    (folder / "photos").mkdir()
    for photograph in IMAGES.glob("*.jpg"):
        (folder / "photos" / photograph.name).write_bytes(photograph.read_bytes())
    (folder / "captions.txt").write_text("A dog runs.\nA cat sleeps.\nA bus.\nTwo dogs.\nNothing here.\n")
    return folder


@pytest.fixture
def model(place, tmp_path):
    TaiDptModel.from_clip(str(place / "base"), ["dog", "cat", "bus"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_images_without_labels_get_tags_as_often_as_captions_suggest(place, model):
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    result = run("calibrate", model, place / "photos", "--captions", place / "captions.txt", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["fitted_on"] == f"{PHOTOGRAPHS} unlabelled images, shares of labels from 5 captions"
    assert report["expected_labels_per_image"] == pytest.approx(1.5)
    config = json.loads((model / "config.json").read_text())
    assert len(config["score_bias"]) == len(config["score_thresholds"]) == 3
    rows = pipeline(TASK, model=str(model))(sorted(map(str, (place / "photos").glob("*.jpg"))), threshold="auto")
    assert sum(map(len, rows)) / PHOTOGRAPHS == pytest.approx(report["labels_per_image"])
    changed = {file.name for file in model.iterdir() if file.read_bytes() != before.get(file.name)}
    assert changed == {"config.json", "README.md"}
    assert f"Probabilities were fitted on {PHOTOGRAPHS} unlabelled images" in (model / "README.md").read_text()


def test_the_report_says_where_tags_are_not_useful(place, model):
    config = json.loads((model / "config.json").read_text())
    config["label_origin"]["bus"] = "template"
    (model / "config.json").write_text(json.dumps(config))
    options = ("--captions", place / "captions.txt", "--labels-per-image", "0.1")
    result = run("calibrate", model, place / "photos", *options)
    assert result.exit_code == 0, result.stderr
    assert "labels per image" in result.stdout and "images without a label" in result.stdout
    assert "No caption of the training named bus" in result.stderr
    assert "get no label" in result.stderr or "labels where 0.10 are expected" in result.stderr


def test_labelled_images_fit_scale_bias_and_thresholds(place, model, tmp_path):
    labels = [{"file_name": "cat.jpg", "labels": ["cat"]}, {"file_name": "coffee.jpg", "labels": []}]
    (place / "photos" / "labels.json").write_text(json.dumps({"categories": ["cat", "dog", "sofa"], "images": labels}))
    before = (model / "config.json").read_bytes()
    try:
        result = run("calibrate", model, place / "photos", "--output", tmp_path / "fitted")
    finally:
        (place / "photos" / "labels.json").unlink()
    assert result.exit_code == 0, result.stderr
    assert "calibration error" in result.stdout and "2 labelled images" in result.stdout
    assert (model / "config.json").read_bytes() == before
    config = json.loads((tmp_path / "fitted" / "config.json").read_text())
    assert len(config["score_thresholds"]) == 3 and config["score_scale"] != 1.0


def test_train_calibrates_and_says_so(place, tmp_path):
    options = [
        "--base",
        place / "base",
        "--labels",
        "dog,cat,bus",
        "--captions",
        place / "captions.txt",
        "--steps",
        "1",
    ]
    options += ["--set", f"feature_cache_dir={place / 'cache'}", "--batch-size", "2", "--no-templates"]
    options += ["--recipe", "paper", "--eval-captions", place / "captions.txt"]
    result = run("train", *options, "--calibrate-images", place / "photos", "--output", tmp_path / "m")
    assert result.exit_code == 0, result.stderr
    assert "only rank" not in result.stdout
    fitted_on = json.loads((tmp_path / "m" / "config.json").read_text())["score_calibration"]
    assert fitted_on == f"{PHOTOGRAPHS} unlabelled images, shares of labels from 4 captions"  # those that name a label
    assert "images without a label" in result.stdout


def test_scores_that_only_rank_are_told(place, model):
    cat = place / "photos" / "cat.jpg"
    assert "only rank labels" in run("predict", cat, "--model", model).stderr
    assert "only rank labels" not in run("predict", cat).stderr  # the checkpoint that ships


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["org/model", "PHOTOS"], "name another folder with --output"),
        (["MODEL", "none"], "The image source 'none' does not exist"),
        (["MODEL", "PHOTOS"], "give --captions as well"),
        (["MODEL", "EMPTY", "-c", "CAPTIONS"], "There are no images in"),
        (["MODEL", "BROKEN", "-c", "CAPTIONS"], "cannot read image"),
        (["MODEL", "PHOTOS", "-c", "none.txt"], "none.txt"),
        (
            ["MODEL", "PHOTOS", "-c", "CAPTIONS", "--labels-per-image", "3"],
            "per image are expected of 3 labels",
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said(place, model, tmp_path, arguments, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "text.jpg").write_text("no picture")
    places = {"MODEL": model, "PHOTOS": place / "photos", "CAPTIONS": place / "captions.txt"}
    places |= {"EMPTY": tmp_path / "empty", "BROKEN": tmp_path / "broken"}
    before = (model / "config.json").read_bytes()
    assert reason in fails("calibrate", *(places.get(argument, argument) for argument in arguments))
    assert (model / "config.json").read_bytes() == before
