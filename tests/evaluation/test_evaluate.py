"""Evaluation on labelled photographs: matching of labels, figures, report files, `taidpt evaluate`."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from huggingface_hub import ModelCard
from PIL import Image

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    TaiDptModel,
    baseline_models,
    evaluate_scores,
    load_templates,
    match_labels,
    score_images,
    with_classes,
    write_report,
)
from modeling_taidpt.evaluation.plots import class_mean_precision, precision_recall
from modeling_taidpt.evaluation.report import json_value
from modeling_taidpt.model_card import MARK

from ..cli.test_app import IMAGES, fails, run
from ..test_checkpoints import make_resnet


def test_labels_are_matched_by_name_and_by_the_synonyms_of_the_tables():
    labels = ["airplane", "couch", "dining table", "tv", "person", "dog"]
    names = ["aeroplane", "diningtable", "dog", "sofa", "tvmonitor", "Person", "horse"]
    assert match_labels(names, labels) == ["airplane", "dining table", "dog", "couch", "tv", "person", None]
    assert match_labels(["dog", "puppy"], ["dog"]) == ["dog", None]  # no label serves two classes


def test_baselines_pool_as_clip_does_and_learned_prompts_as_the_paper(tmp_path):
    """The zero-shot CLIP of the paper pools with positions, TaI-DPT without: one evaluation needs both."""
    clip = make_resnet()
    model = TaiDptModel.from_clip(clip, ["dog", "cat"], num_context_tokens=2)
    models = {"learned": model, **baseline_models(model, ["templates", "brackets"])}
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(3)]
    rows = Dataset.from_dict({"image": pictures}, features=Features({"image": ImageFeature()}))
    scores = score_images(models, rows, cache_dir=str(tmp_path), progress=False)
    for name, templates in (("templates", ("imagenet", None)), ("brackets", ("coarse", "fine"))):
        direct = TaiDptModel.zero_shot(clip, ["dog", "cat"], templates[0], local_templates=templates[1])
        expected = score_images(direct, rows, cache_dir=str(tmp_path), progress=False)
        np.testing.assert_allclose(scores[name]["merged"], expected["merged"], atol=1e-5)
    learned = score_images(model, rows, cache_dir=str(tmp_path / "alone"), progress=False)
    np.testing.assert_allclose(scores["learned"]["global"], learned["global"], atol=1e-6)
    assert [entry.config.pool_with_positions for entry in models.values()] == [False, True, True]
    unplaced = model.with_class_embeddings(model.encode_templates(load_templates("imagenet")))
    without = score_images(unplaced, rows, cache_dir=str(tmp_path), progress=False)
    assert not np.allclose(scores["templates"]["global"], without["global"], atol=1e-3)
    np.testing.assert_allclose(scores["templates"]["local"], without["local"], atol=1e-5)


@pytest.fixture
def figures_input():
    generator = np.random.default_rng(0)
    labels = (generator.random((60, 4)) < 0.4).astype(int)
    labels[:, 3] = 0
    noise = {name: generator.normal(size=(60, 4)) for name in ("a", "b", "weak")}
    runs = {name: 2.0 * labels + noise[name] for name in ("a", "b")}
    weak = 0.2 * labels + noise["weak"]
    every = {name: dict.fromkeys(("global", "local", "merged"), values) for name, values in runs.items()}
    return every, {"weak": dict.fromkeys(("global", "local", "merged"), weak)}, labels


def test_figures_of_runs_and_differences(figures_input):
    runs, others, labels = figures_input
    figures = evaluate_scores(runs, labels, ["w", "x", "y", "z"], others, num_resamples=200)
    maps = [figures["models"][name]["map"]["merged"] for name in ("a", "b")]
    assert figures["runs"]["mean"]["merged"] == pytest.approx(np.mean(maps))
    assert figures["runs"]["deviation"]["merged"] == pytest.approx(abs(maps[0] - maps[1]) / 2**0.5)
    assert figures["classes_without_positives"] == ["z"]
    for entry, value in zip(figures["differences"], maps, strict=True):
        assert entry["difference"] == pytest.approx(value - figures["models"]["weak"]["map"]["merged"])
        assert 0 < entry["low"] < entry["difference"] < entry["high"]
    assert evaluate_scores({"a": runs["a"]}, labels, list("wxyz"))["runs"]["deviation"]["merged"] is None


@pytest.mark.parametrize("kind", ["indices", "names", "column", "lists", "frame", "tensor"])
def test_labels_to_evaluate_on_may_be_a_column(kind):
    names, indices = ["cat", "dog", "horse"], [0, 1, 2, 0, 1, 0]
    matrix = np.eye(3, dtype=int)[indices]
    scores = {"a": dict.fromkeys(("global", "local", "merged"), np.random.default_rng(0).normal(size=(6, 3)))}
    given = {
        "indices": indices,
        "names": [names[index] for index in indices],
        "column": Dataset.from_dict({"labels": indices}).cast_column("labels", ClassLabel(names=names))["labels"],
        "lists": matrix.tolist(),
        "frame": pd.DataFrame(matrix, columns=names),
        "tensor": torch.from_numpy(matrix),
    }[kind]
    unknown = [[0, 0, 0]] * 6
    found = evaluate_scores(scores, given, names, unknown=unknown, num_resamples=0)
    assert found == evaluate_scores(scores, matrix, names, num_resamples=0)


def test_unknown_labels_do_not_count(figures_input):
    runs, _, labels = figures_input
    wrong, unknown = labels.copy(), np.zeros_like(labels)
    negatives = np.flatnonzero(labels[:, 0] == 0)[:5]
    unknown[negatives, 0] = 1
    runs["a"]["merged"][negatives, 0] = 100.0  # would rank first
    kept = np.setdiff1d(np.arange(len(labels)), negatives)
    masked = evaluate_scores({"a": runs["a"]}, wrong, list("wxyz"), unknown=unknown, num_resamples=0)
    alone = {branch: values[kept] for branch, values in runs["a"].items()}
    reference = evaluate_scores({"a": alone}, labels[kept], list("wxyz"), num_resamples=0)
    per_class = (values["models"]["a"]["per_class"]["w"] for values in (masked, reference))
    assert next(per_class) == pytest.approx(next(per_class))


def test_precision_and_recall_by_hand():
    scores, labels = np.array([0.9, 0.8, 0.8, 0.1]), np.array([1, 0, 1, 1])
    precision, recall = precision_recall(scores, labels)  # the two of 0.8 count together
    assert precision == pytest.approx([100, 200 / 3, 75])
    assert recall == pytest.approx([100 / 3, 200 / 3, 100])
    unknown = (np.append(scores, [-np.inf, -np.inf]), np.append(labels, [0, 0]))
    for known, masked in zip((precision, recall), precision_recall(*unknown), strict=True):
        assert masked == pytest.approx(known)  # no further point for unknown labels
    mean = class_mean_precision(scores[:, None], labels[:, None], np.array([0.0, 50.0, 100.0]))
    assert mean == pytest.approx([100, 75, 75])  # the best precision at that recall or above


def test_report_holds_figures_table_and_plots(figures_input, tmp_path):
    runs, others, labels = figures_input
    figures = evaluate_scores(runs, labels, ["$w$", "x" * 90, "y", "z"], others, num_resamples=20)
    folder = write_report(tmp_path / "report", figures, runs | others, labels)
    assert json.loads((folder / "metrics.json").read_text()) == json_value(figures)
    rows = list(csv.DictReader((folder / "per_class.csv").open()))
    assert list(rows[0]) == ["class", "positives", "a", "b", "weak"]
    assert float(rows[0]["a"]) == pytest.approx(figures["models"]["a"]["per_class"]["$w$"], abs=0.01)
    assert rows[3]["a"] == "" and rows[3]["positives"] == "0"
    for name in ("per_class_ap.png", "precision_recall.png", "score_histograms.png"):
        with Image.open(folder / name) as picture:
            assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 10  # something is drawn
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    plot = (folder / "precision_recall.png").read_bytes()
    unknown = (np.arange(labels.size).reshape(labels.shape) % 3 == 0) & (labels == 0)
    write_report(folder, figures, runs | others, labels, unknown.astype(np.int64))
    assert (folder / "precision_recall.png").read_bytes() != plot  # unknown labels do not count as absent


# ------------------------------------------------------------------ the command


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_taidpt.features.images.feature_cache_dir", lambda kind: str(tmp_path / kind))
    folder = tmp_path / "photographs"
    folder.mkdir()
    rows = {"astronaut.jpg": ["person"], "cat.jpg": ["cat"], "coffee.jpg": ["cup", "spoon"]}
    for name in rows:
        shutil.copy(IMAGES / name, folder)
    table = [{"file_name": name, "labels": labels} for name, labels in rows.items()]
    (folder / "labels.json").write_text(json.dumps({"categories": ["cat", "cup", "person", "spoon"], "images": table}))
    return folder


def test_evaluate_writes_a_report(photographs, tmp_path):
    report = tmp_path / "report"
    options = ["--baseline", "template", "--baseline", "brackets", "--resamples", "20", "--output", report]
    result = run("evaluate", photographs, *options, "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures == json.loads((report / "metrics.json").read_text())
    assert list(figures["models"]) == ["taidpt-coco80", "template", "brackets"]
    assert figures["models"]["taidpt-coco80"]["map"]["merged"] == 100
    assert (figures["images"], figures["classes"], len(figures["differences"])) == (3, 4, 2)


def test_evaluate_compares_runs_and_names_new_labels(photographs, tmp_path):
    text = (photographs / "labels.json").read_text()
    (photographs / "labels.json").write_text(text.replace("spoon", "saucer"))
    other = tmp_path / "other"
    shutil.copytree(DEFAULT_CHECKPOINT, other)
    options = ["--model", "taidpt-coco80", "--model", str(other), "--resamples", "0"]
    result = run("evaluate", photographs, *options)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"2 runs: merged \d+\.\d, standard deviation 0\.0", result.stdout)
    assert "no label for 1 of 4 classes: 'saucer'" in fails("evaluate", photographs, "--strict")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["./nothing"], "does not exist"),
        ([str(IMAGES)], "label file"),
        (["PHOTOGRAPHS", "--model", "./nothing"], "neither a folder nor the name of a repository"),
        (["PHOTOGRAPHS", "--baseline", "magic"], "Unknown baseline 'magic'"),
        (["PHOTOGRAPHS", "--baseline", "prototypes"], "give a corpus"),
        (["PHOTOGRAPHS", "--data", "split"], "is not NAME=VALUE"),
        (["PHOTOGRAPHS", "--data", "split=val"], "split"),
        (["PHOTOGRAPHS", "--dataset", "imagenet"], "There is no loader 'imagenet'"),
        (["PHOTOGRAPHS", "--model", "a", "--model", "a"], "named twice"),
    ],
    ids=lambda value: " ".join(value)[-24:] if isinstance(value, list) else "",
)
def test_evaluate_says_what_is_wrong(photographs, arguments, reason):
    arguments = [str(photographs) if argument == "PHOTOGRAPHS" else argument for argument in arguments]
    assert reason in fails("evaluate", *arguments)


@pytest.mark.parametrize("change", ["missing", "broken", "label"])
def test_evaluate_names_the_image_or_label_that_is_wrong(photographs, change):
    if change == "missing":
        (photographs / "cat.jpg").unlink()
    elif change == "broken":
        (photographs / "cat.jpg").write_text("no picture")
    else:
        text = (photographs / "labels.json").read_text()
        (photographs / "labels.json").write_text(text.replace('["cup", "spoon"]', '["cup", "comet"]'))
    reason = fails("evaluate", photographs, "--resamples", "0")
    assert ("comet" if change == "label" else "cat.jpg") in reason


def test_with_classes_keeps_what_was_learned():
    model = TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT)
    other = with_classes(model, ["sofa", "comet"])
    assert other.config.labels == ["couch", "comet"]
    assert other.config.label_origin == {"couch": "learned", "comet": "template"}


def test_evaluate_notes_its_figure_in_the_card(photographs, tmp_path):
    model = tmp_path / "pets"
    TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT).with_labels(["cat", "cup", "person"]).save_pretrained(model)
    assert "never evaluated" in (model / "README.md").read_text()
    command = ["evaluate", photographs, "--model", model, "--baseline", "template", "--resamples", "0", "--json"]
    for _ in range(2):  # the second time it is replaced
        result = run(*command, "--update-card")
        assert result.exit_code == 0, result.stderr
    card, figures = ModelCard.load(model / "README.md"), json.loads(result.stdout)["models"]
    (found,) = card.data.eval_results
    assert found.metric_value == round(figures[str(model)]["map"]["merged"], 2)
    assert found.dataset_name == f"{photographs.name}, 3 images, 4 classes"
    assert "never evaluated" not in card.text
    assert f"| {round(figures['template']['map']['merged'], 2)} |" in card.text  # the template beside it
    # an edited card keeps its words, and what is saved or pushed next keeps the figure
    (model / "README.md").write_text(str(card).replace(MARK, "") + "My words.\n")
    assert run(*command, "--update-card", "--dataset-name", "Three photographs").exit_code == 0
    card = ModelCard.load(model / "README.md")
    assert [entry.dataset_name for entry in card.data.eval_results][1] == "Three photographs"
    assert "My words." in card.text
    (model / "README.md").unlink()
    TaiDptModel.from_pretrained(model).save_pretrained(tmp_path / "copy")
    assert len(ModelCard.load(tmp_path / "copy" / "README.md").data.eval_results) == 2
    assert "'taidpt-coco80' is none" in fails("evaluate", photographs, "--update-card")


def test_prototypes_of_some_labels_of_a_table_are_those_of_their_captions():
    """Labels of COCO get its synonyms, and the columns of its other classes are left out."""
    model = TaiDptModel.from_clip(make_resnet(), ["cat", "dog"], num_context_tokens=2)
    captions = ["A puppy sleeps.", "A cat plays.", "The bus is late."]
    prototypes = baseline_models(model, ["prototypes"], captions)["prototypes"].class_embeddings_global
    expected = model.encode_texts([captions[1], captions[0]])  # (classes, dim)
    torch.testing.assert_close(prototypes, torch.nn.functional.normalize(expected, dim=-1), atol=1e-3, rtol=0)
