"""The example scripts as a user runs them."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def run(*command: str, folder: Path) -> str:
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_quickstart_learns_and_tags(tmp_path):
    output = run("examples/quickstart.py", "--output", str(tmp_path / "model"), folder=tmp_path)
    template, learned = map(float, re.search(r"template ([\d.]+), learned ([\d.]+)", output).groups())
    assert learned > template
    photographs = re.split(r"^(\w+\.jpg)$", output, flags=re.MULTILINE)
    assert re.search(r"cat +0\.\d+", photographs[photographs.index("cat.jpg") + 1].split("\n")[1])
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.shared
def test_evaluate_prints_the_gain(shared, tmp_path):
    """The numbers of the card need all captions; a small corpus shows that the script runs."""
    figures = tmp_path / "figures.json"
    run(
        "examples/evaluate.py",
        "--images",
        str(shared / "data" / "coco_val_dev"),
        "--captions",
        str(ROOT / "examples" / "data" / "captions.txt"),
        "--resamples",
        "50",
        "--json",
        str(figures),
        folder=tmp_path,
    )
    table = json.loads(figures.read_text())
    gains = {entry["other"]: entry["difference"] for entry in table["differences"]}
    assert table["models"]["template"]["map"]["merged"] >= 36
    assert gains["template"] >= 2.5 and gains["templates"] >= 2 and "prototypes" in gains


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_public(script):
    source = script.read_text()
    assert len(source.splitlines()) < 120
    assert not re.search(r"(from modeling_taidpt\.\w*|import) +_\w+", source)
    assert not re.search(r"\b(?:model|trainer|pipe|tagger)\._\w+", source)


@pytest.mark.slow
@pytest.mark.shared
def test_study_of_published_scores_prints_tables_from_files_alone(shared, tmp_path):
    tables = ("examples/study_real_scores.py", "--shared", str(shared), "--tables", "tiles", "ensembles")
    output = run(*tables, "--resamples", "0", folder=tmp_path)
    assert re.search(r"\| tiles 0\.5 \| 89\.76 \|", output)
    assert re.search(r"\| min-max \| 94\.99 \|", output)


@pytest.mark.slow
@pytest.mark.shared
def test_study_of_custom_labels_beats_one_threshold(shared, tmp_path):
    data = ["--captions", str(shared / "data" / "captions" / "coco_captions.jsonl")]
    data += ["--photographs", str(shared / "data" / "coco_val_dev")]
    output = run("examples/study_own_labels.py", *data, folder=tmp_path)
    rows = {row.split("|")[1].strip(): row.split("|")[2:] for row in output.splitlines() if row.startswith("| ")}
    best = float(rows["best single threshold, with all labels"][0])
    f1, labels, untagged = map(float, rows["no label, 2.19 expected (default)"][:3])
    assert f1 > best  # though that threshold knows the truth
    assert 3.61 / 1.5 < labels < 3.61 * 1.5 and untagged < 10  # a photograph; percent


@pytest.mark.slow
@pytest.mark.shared
def test_study_of_views_prints_gains(shared, tmp_path):
    folder = str(shared / "data" / "coco_train")
    rows = ["--rows", "plain", "whole, flip", "--resamples", "50"]
    output = run("examples/study_views.py", "--images", folder, "--selection", *rows, folder=tmp_path)
    assert re.search(r"plain +global +[56]\d.* merged +[56]\d\.\d +gain \+0\.0 \[\+0\.0, \+0\.0\]", output)
    gain = re.search(r"whole, flip .* gain ([+-][\d.]+)", output)
    assert float(gain.group(1)) > 0


@pytest.mark.slow
@pytest.mark.shared
def test_study_of_transfer_scores_all_classes(shared, tmp_path):
    options = ["--images", str(shared / "data" / "coco_train"), "--selection", "--seeds", "0", "--steps", "2"]
    captions = ["--captions", str(ROOT / "examples" / "data" / "captions.txt")]
    output = run(
        "examples/study_transfer.py", *captions, *options, "--output_dir", str(tmp_path / "runs"), folder=tmp_path
    )
    assert "49 photographs, 80 classes" in output
    assert len(re.findall(r"seed 0 .* merged +\d+\.\d", output)) == 6
    assert len(list((tmp_path / "runs").glob("seed-0-part-*/config.json"))) == 4


@pytest.mark.parametrize(
    "name", ["quickstart", "visualize", "evaluate", "export", "onnx_inference", "train", "train_images"]
)
def test_examples_that_run_alone_say_what_they_need(name):
    """Their headers are those of PEP 723, which `uv run` and `pipx run` install from."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    (block,) = re.findall(r"^# /// script\n((?:#(?: .*)?\n)+)# ///$", source, re.MULTILINE)
    needs = tomllib.loads("".join(line[2:] if line.startswith("# ") else "\n" for line in block.splitlines(True)))
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    } - set(sys.stdlib_module_names)
    siblings = {path.stem for path in (ROOT / "examples").iterdir()}
    assert not imported & siblings
    if "modeling_taidpt" in imported:
        requirement = re.fullmatch(r"taidpt(?:\[(\w+)\])?", needs["dependencies"][0])
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert requirement[1] is None or requirement[1] in project["optional-dependencies"]
        assert needs["requires-python"] == project["requires-python"]
        assert needs["tool"]["uv"]["sources"]["taidpt"] == {"path": "..", "editable": True}
    else:
        assert {{"PIL": "pillow"}.get(name, name) for name in imported} == set(needs["dependencies"])


def test_photographs_that_ship_are_small_and_free():
    folder = ROOT / "examples" / "images"
    table = dict(re.findall(r"^\| `(\w+\.jpg)` \|.*\| ([^|]+) \|$", (folder / "README.md").read_text(), re.MULTILINE))
    assert set(table) == {path.name for path in folder.glob("*.jpg")} and len(table) >= 8
    assert set(table.values()) == {"CC0", "public domain"}
    for path in folder.glob("*.jpg"):
        assert path.stat().st_size < 150_000
        assert max(Image.open(path).size) <= 640 and not Image.open(path).getexif()


def test_examples_take_from_each_other_what_is_there():
    """Running them all is slow; a name that one of them no longer has is seen without."""
    trees = {path.stem: ast.parse(path.read_text()) for path in (ROOT / "examples").glob("*.py")}
    names = {}
    for stem, tree in trees.items():
        defined = [node.name for node in tree.body if hasattr(node, "name")]
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            defined += [target.id for target in targets if isinstance(target, ast.Name)]
        names[stem] = set(defined)
    for stem, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in names:
                missing = {alias.name for alias in node.names} - names[node.module]
                assert not missing, f"examples/{stem}.py takes {missing} from {node.module}.py, which has no such name"
