"""The study of training: its rows, what it keeps, its figures; and the making of the checkpoint that ships."""

from __future__ import annotations

import dataclasses
import gzip
import importlib
import json
import shutil
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil

from modeling_taidpt import (
    ImageFeatures,
    TaiDptConfig,
    TaiDptModel,
    clip_tokenizer,
    mean_average_precision,
    paired_bootstrap,
)

from ..conftest import make_clip

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LABELS = ["dog", "cat", "bus"]
CAPTIONS = [
    "a dog beside a cat", "the bus stops", "a dog runs", "a cat sleeps on a bus", "a sleepy cat", "two dogs",
    "nothing of that kind", "a red bus and a dog",
]  # fmt: skip
RECIPE = {
    "name": "tiny",
    "model": {"num_context_tokens": 2},
    "training": {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "caption_prototype_weight": 1.0,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    },
}


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module("embedded_base.training_rows"), importlib.import_module(
        "embedded_base.training_report"
    )


@pytest.fixture
def base(tmp_path, monkeypatch):
    """Folder of a tiny CLIP with tokenizer and image processor; features are kept beside it."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "base"
    make_clip().save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


def test_every_row_is_a_change_that_training_knows(parts):
    rows, report = parts
    recipe = json.loads((ROOT / "examples" / "embedded_base" / "ranking_and_prototypes.json").read_text())
    options = {entry.name for entry in dataclasses.fields(TaiDptConfig)} | {"context_init"}  # of `from_clip`
    from embedded_base.study_trainer import StudyArguments

    for table in rows.TABLES.values():
        assert not set(report.BASELINES.values()) & set(table)  # the names of what is not learned
        for name, row in table.items():
            assert row.corpus in rows.CORPORA, name
            assert row.prompts is None or table[row.prompts].prompts is None, name
            assert set(row.model) <= options, name
            arguments = StudyArguments.from_recipe(recipe, output_dir="unused", **row.training)
            changed = [key for key, value in row.training.items() if recipe["training"].get(key) != value]
            assert len(changed) == len(row.training), f"{name} changes nothing of the recipe"
            assert all(getattr(arguments, key) == value for key, value in row.training.items()), name


def test_corpora_are_labelled(parts):
    rows, _ = parts
    corpora = rows.Corpora(LABELS, CAPTIONS)
    assert list(corpora["real"]["caption"]) == [text for text in CAPTIONS if text != "nothing of that kind"]
    assert corpora.named.tolist()[0] == [1, 1, 0]
    assert len(corpora["templates"]) == 3 * 89 and np.asarray(corpora["templates"]["labels"]).sum() == 3 * 89
    for corpus in ("made", "made, co-occurrence"):
        named = np.asarray(corpora[corpus]["labels"])  # (captions, classes)
        assert len(named) == 600 and (named.sum(axis=0) > 150).all()


def test_what_was_learned_is_kept_and_not_learned_again(parts, base, tmp_path):
    rows, _ = parts
    corpora = rows.Corpora(LABELS, CAPTIONS)
    held_out = corpora.encode(TaiDptModel.from_pretrained(_zero_shot(base, tmp_path)))
    arguments = {"seed": 3, "folder": tmp_path / "run", "corpora": corpora, "held_out": held_out}
    noisy = rows.Row({"feature_noise": 0.1})
    folder = rows.learn(str(base), RECIPE, noisy, **arguments)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert 0 < json.loads((folder / "all_results.json").read_text())["caption_map"] <= 100
    assert rows.learn(str(base), RECIPE, noisy, **arguments) == folder
    assert times == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(ValueError, match="prompts of another recipe"):
        rows.learn(str(base), RECIPE, rows.Row({"feature_noise": 0.2}), **arguments)
    # A memory is given at the time of scoring, and changes no prompt.
    captions = corpora.encode(TaiDptModel.from_pretrained(folder))
    plain = rows.load_row(folder, rows.Row(), captions, None, seed=3)
    mapped = rows.load_row(folder, rows.Row(memory={"size": 5, "weight": 0.5}), captions, None, seed=3)
    assert torch.equal(plain.prompt_learner.global_context, mapped.prompt_learner.global_context)
    assert plain.caption_memory is None and mapped.caption_memory.shape == (5, 24)
    assert (mapped.memory_scale, mapped.memory_weight) == (40.0, 0.5)
    centered = rows.load_row(folder, rows.Row({"center_features": True}), captions, None, seed=3)
    assert set(centered.feature_means) == {"caption", "token"}
    # One that was stopped is learned anew.
    (folder / "row.json").unlink()
    rows.learn(str(base), RECIPE, noisy, **arguments)
    assert (folder / "row.json").is_file()


def _zero_shot(base: Path, tmp_path: Path) -> Path:
    TaiDptModel.from_clip(str(base), LABELS, num_context_tokens=2).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def test_figures_are_plain_and_as_shipped(parts, base, tmp_path):
    _, report = parts
    model = TaiDptModel.from_pretrained(_zero_shot(base, tmp_path))
    generator = torch.Generator().manual_seed(0)
    labels = [[1, -1, 0], [-1, 1, 0], [1, -1, 0], [1, 1, 0]]  # of the third nothing is known
    photographs = [{"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": row} for row in labels]
    features = ImageFeatures.encode(model, photographs, _processor(base))
    captions = tmp_path / "captions.txt"
    captions.write_text("\n".join(CAPTIONS) + "\n")
    model.config.image_spatial_scale = 5.0  # that of the checkpoint, as the temperature of its bank
    model.set_caption_bank(torch.eye(model.config.embedding_dim)[:3], caption_bank_temperature=11.0)
    scorer = report.Scorer(model, {"part": features}, str(captions), np.array([9, 5, 1]))
    found = scorer(model)
    assert model.config.caption_bank_size != 3 and model.config.caption_bank_temperature == 11.0
    present = np.array(labels)[:, :2] > 0
    outputs = {}
    for scoring, scale, standardize in (("plain", 40.0, False), ("shipped", 5.0, True)):
        model.config.image_spatial_scale = scale
        pixels = torch.stack([row["pixel_values"] for row in photographs])
        with torch.no_grad():
            outputs[scoring] = model(pixel_values=pixels, standardize=standardize).logits[:, :2].numpy()
        np.testing.assert_allclose(found.scores[scoring, "part", "merged"], outputs[scoring], atol=1e-4)
        value = mean_average_precision(found.scores[scoring, "part", "merged"], present)["map"]
        assert found.maps[scoring, "part", "merged"] == value
    assert np.abs(outputs["plain"] - outputs["shipped"]).max() > 1e-3
    assert found.mean() == found.maps["shipped", "part", "merged"]
    assert found.groups["part"]["head"] >= 0 and np.isnan(found.groups["part"]["tail"])


def _processor(base: Path) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil.from_pretrained(base)


def test_tables_hold_means_over_seeds_and_paired_gains(parts):
    _, report = parts
    generator = np.random.default_rng(0)
    truth = (generator.random((30, 4)) < 0.3).astype(np.int64)

    def figures(noise: float) -> object:
        found = report.Figures(groups={"a": {"head": 1.0, "middle": 2.0, "tail": 3.0}}, caption_map=80.0)
        for scoring in report.SCORINGS:
            for branch in ("global", "local", "merged"):
                scores = truth + noise * generator.standard_normal(truth.shape)
                found.scores[scoring, "a", branch] = scores
                found.maps[scoring, "a", branch] = mean_average_precision(scores, truth)["map"]
        return found

    class Photographs:
        labels = np.where(truth, 1, -1)

    photographs = {"a": Photographs()}
    runs = {"recipe": [figures(1.0), figures(1.0)], "better": [figures(0.3), figures(0.3)]}
    table = report.selection_table(runs, photographs).splitlines()
    means = [run.maps["shipped", "a", "merged"] for run in runs["better"]]
    spread = abs(means[0] - means[1]) / 2
    assert f"| {np.mean(means):.2f} | {spread:.2f} | 1.0 / 2.0 / 3.0 | 80.0 |" in table[3]
    assert len({line.count("|") for line in table}) == 1

    def expected(scoring: str, resamples: int) -> str:
        key = (scoring, "a", "merged")
        pairs = [
            paired_bootstrap(*(runs[name][seed].scores[key] for name in ("better", "recipe")), truth, resamples)
            for seed in range(2)
        ]
        value, low, high = (np.mean([pair[end] for pair in pairs]) for end in ("difference", "low", "high"))
        return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"

    table = report.selection_table(runs, photographs, "recipe").splitlines()
    assert f"| {spread:.2f} | {expected('shipped', 2000)} | 1.0 / 2.0 / 3.0 | 80.0 |" in table[3]
    assert f"| {spread:.2f} |" not in table[2] and "|  | 1.0 / 2.0 / 3.0 |" in table[2]
    assert len({line.count("|") for line in table}) == 1
    gains = report.gains_table(runs, photographs, ["recipe"], num_resamples=50)
    assert expected("plain", 50) in gains
    assert expected("plain", 50).startswith("+") and len({line.count("|") for line in gains.splitlines()}) == 1


def test_labelled_photographs_are_probed_class_by_class(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    study = importlib.import_module("study_labelled")
    generator = np.random.default_rng(0)
    features = generator.standard_normal((200, 5))
    present = np.stack([features[:, 0] > 0.5, features[:, 1] + features[:, 2] > 0], axis=1)
    scores = study.probe(features[:150], present[:150], features[150:])
    assert scores.shape == (50, 2)
    assert mean_average_precision(scores, present[150:].astype(np.int64))["map"] > 90


def test_package_embedded_makes_a_complete_checkpoint(base, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    with gzip.open(base / "word_counts.json.gz", "wt") as file:
        json.dump({"dog": 30}, file)
    sources = sorted((ROOT / "examples" / "images").glob("*.jpg"))
    names = (name for name in (f"{number:04d}.jpg" for number in range(1000)) if crc32(name.encode()) % 5 == 0)
    rows = []
    folder = tmp_path / "photographs"
    (folder / "images").mkdir(parents=True)
    for number, name in zip(range(6), names, strict=False):
        shutil.copy(sources[number % len(sources)], folder / "images" / name)
        rows.append({"file_name": name, "labels": [number % 3]})
    (folder / "labels.json").write_text(json.dumps({"categories": LABELS, "images": rows}))
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS) + "\n")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(RECIPE))
    command = ["package", "--model", str(_zero_shot(base, tmp_path)), "--base", str(base)]
    command += [
        "--captions",
        str(tmp_path / "captions.txt"),
        "--photographs",
        str(folder),
        "--bank",
        "3",
    ]
    command += ["--recipe", str(recipe), "--output", str(tmp_path / "shipped")]
    monkeypatch.setattr("sys.argv", command)
    importlib.import_module("package_embedded").main()
    assert "MB in" in capsys.readouterr().out
    loaded = TaiDptModel.from_pretrained(tmp_path / "shipped")
    assert loaded.config.labels == LABELS and loaded.config.recommended_recipe == RECIPE
    assert loaded.config.image_standardization == "captions" and loaded.caption_bank.features.shape == (3, 24)
    assert loaded.config.image_spatial_scale == 40 and len(loaded.config.score_thresholds) == 3
    assert loaded.config.score_calibration == "6 labelled images"
    stored = json.loads((tmp_path / "shipped" / "config.json").read_text())
    assert stored["dtype"] == "float16" and str(tmp_path) not in json.dumps(stored)
    files = {path.name for path in (tmp_path / "shipped").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "preprocessor_config.json", "word_counts.json.gz"} <= files
