"""The commands of docs/reproduction.md, in the paper's layouts, small: every recipe is trained and measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modeling_taidpt import TaiDptModel, load_class_table
from taidpt_cli.app import app

from ..conftest import ROOT, make_clip
from .paper_trees import write_paper_data

CLASSES = {"voc2007": "voc20", "coco2014": "coco80", "nuswide": "nuswide81"}
IMAGES = {
    "voc2007": ("VOCdevkit/VOC2007", "test"),
    "coco2014": ("COCO", "val2014"),
    "nuswide": ("NUSWIDE", "test"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with the paper's data and a tiny base."""
    folder = write_paper_data(tmp_path_factory.mktemp("paper"))
    make_clip().save_pretrained(folder / "base")
    return folder


def run(*arguments: str):
    return CliRunner().invoke(app, list(map(str, arguments)))


def train(data: Path, recipe: str, output: Path, *options: str):
    command = ["train", "--recipe", recipe, "--base", data / "base", "--data-root", data, "--output", output]
    command += ["--steps", "2", "--batch-size", "8", "--set", "use_cpu=true", "--json"]
    return run(*command, "--set", f"feature_cache_dir={data / 'cache'}", *options)


@pytest.mark.parametrize("recipe", CLASSES)
def test_recipe_from_captions_to_report(data, tmp_path, recipe, monkeypatch):
    """`taidpt train --recipe` and `taidpt evaluate --baseline`: labels, figures and files of each data set."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    result = train(data, recipe, tmp_path / "run", "--no-templates")
    assert result.exit_code == 0, result.stderr
    labels = [entry["name"] for entry in load_class_table(CLASSES[recipe])]
    model = TaiDptModel.from_pretrained(tmp_path / "run")
    assert model.config.labels == labels
    assert model.config.image_spatial_scale == (4 if recipe == "nuswide" else 40)
    metrics = json.loads(result.stdout)["metrics"]
    assert {"caption_map", "zero_shot_caption_map"} <= metrics.keys()  # the clean protocol holds captions out

    folder, split = IMAGES[recipe]
    templates = "templates" if recipe == "voc2007" else "template"  # 80 sentences a class take long for 80 classes
    command = ["evaluate", data / folder, "--data", f"split={split}", "--model", tmp_path / "run", "--resamples", "20"]
    command += ["--baseline", templates, "--baseline", "brackets", "--output", tmp_path / "report", "--json"]
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    figures = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert figures == json.loads(result.stdout)
    assert list(figures["models"]) == [str(tmp_path / "run"), templates, "brackets"]
    assert (figures["images"], figures["classes"]) == (12, len(labels))
    assert len(figures["classes_without_positives"]) == len(labels) - 3  # dogs, cats and persons are shown
    assert [entry["other"] for entry in figures["differences"]] == [templates, "brackets"]
    rows = (tmp_path / "report" / "per_class.csv").read_text().splitlines()
    assert len(rows) == 1 + len(labels) and "dog,4," in "\n".join(rows)
    assert len(list((tmp_path / "report").glob("*.png"))) == 3


def test_protocols_of_coco_by_command(data, tmp_path, caplog):
    """The paper's protocol learns from captions of test images and says how many; the clean one does not."""
    words = ("--no-templates", "--set", "labeling_method=forms", "--protocol")
    sizes = {}
    for protocol in ("paper", "clean"):
        caplog.clear()
        result = train(data, "coco2014", tmp_path / protocol, *words, protocol)
        assert result.exit_code == 0, result.stderr
        assert ("captions describe 12 of the 12 test images" in caplog.text) is (protocol == "paper")
        trained = json.loads((tmp_path / protocol / "training_report.json").read_text())["corpus"]
        sizes[protocol] = (trained["captions"], trained["held_out"])
    assert sizes == {"paper": (20, 0), "clean": (9, 1)}  # of 24 and of 12 captions, the others name no class


@pytest.mark.parametrize(
    ("recipe", "options", "shape"),
    [
        ("voc2007", ["--loss", "soft_ce", "--context-tokens", "4", "--class-specific"], (20, 4, 32)),
        ("voc2007", ["--max-captions", "12", "--loss-on", "local", "--local-weight", "1"], (16, 32)),
        ("nuswide", ["--captions", "captions.txt"], (16, 32)),  # the recipe's own come labelled, these do not
    ],
)
def test_ablations_by_command(data, tmp_path, recipe, options, shape):
    (tmp_path / "captions.txt").write_text("".join(f"a dog and a cat, {number}\n" for number in range(20)))
    options = [str(tmp_path / word) if word == "captions.txt" else word for word in options]
    result = train(data, recipe, tmp_path / "run", "--no-templates", *options)
    assert result.exit_code == 0, result.stderr
    assert tuple(TaiDptModel.from_pretrained(tmp_path / "run").prompt_learner.local_context.shape) == shape


def test_missing_nltk_data_is_one_sentence(data, tmp_path, no_nltk_data):
    for recipe in ("voc2007", "nuswide"):
        result = train(data, recipe, tmp_path / "run", "--protocol", "paper")
        assert result.exit_code == 2 and "NLTK's data is missing: run `python -m nltk.downloader" in result.stderr
        assert not (tmp_path / "run").exists()


def test_images_of_two_folders_that_annotate_other_classes(data, tmp_path, monkeypatch, caplog):
    """`examples/train_images.py` on VOC and COCO at once: the 60 classes that VOC lacks are unknown in its half."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    labels = [entry["name"] for entry in load_class_table("coco80")]
    TaiDptModel.from_clip(str(data / "base"), labels, num_context_tokens=2).save_pretrained(tmp_path / "text")
    command = ["--images", str(data / "VOCdevkit" / "VOC2007"), str(data / "COCO"), "--split", "trainval", "train2014"]
    command += ["--test", str(data / "COCO"), "--test_split", "val2014", "--text", str(tmp_path / "text")]
    command += ["--output_dir", str(tmp_path / "run"), "--max_steps", "2", "--use_cpu", "true", "--report_to", "none"]
    command += ["--feature_cache_dir", str(data / "cache"), "--disable_tqdm", "true", "--num_context_tokens", "2"]
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    figures = importlib.import_module("train_images").main([*command, "--use_recipe", "partial_labels"])
    assert list(figures) == ["image prompts", "text prompts", "merged"]
    assert "62.5 % of the labels of 24 images are known." in caplog.text  # 12 x 20 and 12 x 80 of 24 x 80
    with pytest.raises(ValueError, match="Some labels are unknown, and `loss='bce'` needs all: take 'partial_asl'"):
        importlib.import_module("train_images").main([*command, "--use_recipe", "few_shot"])
    with pytest.raises(SystemExit, match="There are 1 folders and 2 splits: give one each"):
        importlib.import_module("train_images").main([*command[:2], *command[3:], "--use_recipe", "few_shot"])
