"""What the command says is in its own words: options have a text, and messages name options."""

from __future__ import annotations

import ast
import logging
import re
import shutil
from pathlib import Path

import pytest
import typer

from taidpt_cli.app import COMMANDS, app
from taidpt_cli.wording import ALIASES, in_options

from ..conftest import make_clip
from .test_app import CAT, fails, run

PACKAGE = Path(__file__).parents[2] / "modeling_taidpt"
# Rooms whose messages a command reaches; what Python alone can set is not looked for.
REACHED = {
    "label": ["captions"],
    "train": ["captions", "training/arguments.py", "training/captions.py", "training/sampling.py"],
    "tag": ["serving/tagging.py"],
}
# Arguments of functions of Python that no command calls with values of its own, and words that are none.
PYTHON_ONLY = {"max_captions", "label_column", "warmup_epochs", "class_names", "num_captions"}


def command(name: str):
    return typer.main.get_command(app).get_command(None, name)


def options(name: str) -> set[str]:
    return {text for one in command(name).params for text in (*one.opts, *one.secondary_opts) if text[:2] == "--"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_text(name):
    for one in command(name).params:
        if one.name != "help":
            assert one.help and one.help.strip()[-1] in ".)", f"{name} {one.opts}: {one.help!r}"


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_take_no_values(name):
    shown = run(name, "--help").stdout
    for one in command(name).params:
        if getattr(one, "is_flag", False):
            assert one.metavar == ""
    assert "<bool>" not in shown and "range>" not in shown


def test_aliases_are_options():
    every = set().union(*map(options, COMMANDS))
    assert set(ALIASES.values()) <= every


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("label", "name it in `caption_column`.", "name it in `--column`."),
        ("train", "name it in `caption_column`.", "name it in `--column`."),
        ("train", "`loss` is 'x': take `loss='bce'`.", "`--loss` is 'x': take `--loss bce`."),
        ("train", "set `dataloader_drop_last=False`.", "set `--set dataloader_drop_last=False`."),
        ("train", "lower `per_device_train_batch_size`", "lower `--batch-size`"),
        ("train", "leave out `add_templates=False`", "leave out `--no-templates`"),
        ("tag", "give a number, or leave `candidate_labels` out", "give a number, or leave `--labels` out"),
        ("tag", "with `shard_size` 2, not 3", "with `--shard-size` 2, not 3"),
        ("predict", "`threshold='auto'` needs `score_thresholds`", "`--threshold auto` needs `score_thresholds`"),
        ("push", "log in with `hf auth login`, or pass a `token=`.", "log in with `hf auth login`, or set HF_TOKEN."),
        ("predict", "a `TaiDptModel` and `pip install x`", "a `TaiDptModel` and `pip install x`"),
    ],
)
def test_arguments_become_options(name, text, expected):
    assert in_options(text, options(name)) == expected


def messages(path: Path):
    """Texts of what a module raises and warns of."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "warning"
        ):
            parts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            yield " ".join(part for part in parts if isinstance(part, str))


@pytest.mark.parametrize("name", REACHED)
def test_messages_that_a_command_reaches_name_no_argument_of_python(name):
    known, left = options(name), set()
    for place in REACHED[name]:
        path = PACKAGE / place
        for file in path.glob("*.py") if path.is_dir() else [path]:
            for text in messages(file):
                said = in_options(text, known)
                left |= {(file.name, word) for word in re.findall(r"`([a-z]+(?:_[a-z]+)+)[`=]", said)}
    assert {word for _, word in left} <= PYTHON_ONLY, left


def test_errors_and_warnings_of_a_run_are_in_options(tmp_path, caplog):
    (tmp_path / "c.csv").write_text("text,other\na dog,b\n")
    assert "`--column`" in fails("label", tmp_path / "c.csv", "--labels", "dog")
    make_clip().save_pretrained(tmp_path / "base")
    lines = [f"a {name} number {number}" for name in ("dog", "cat") for number in range(40)]
    (tmp_path / "c.txt").write_text("\n".join(lines))
    arguments = ["train", "-l", "dog,cat", "-c", tmp_path / "c.txt", "-b", tmp_path / "base", "-o", tmp_path / "m"]
    arguments += ["--set", f"feature_cache_dir={tmp_path / 'cache'}", "--no-templates", "--steps", "1"]
    assert "lower `--batch-size` or set `--set dataloader_drop_last=False`" in fails(*arguments, "--batch-size", "900")
    with caplog.at_level(logging.WARNING):
        result = run(*arguments, "--batch-size", "8", "--max-captions-per-class", "10")
    assert result.exit_code == 0, result.stderr
    assert "Learning from 20 of 76 captions" in caplog.text and "`--max-captions-per-class` says" in caplog.text
    assert "4 held-out captions" in result.stdout and "4 captions are too few" in result.stderr
    assert not re.search(r"\d\.\d\d", result.stdout)  # one decimal
    assert logging.getLogRecordFactory() is logging.LogRecord


def test_a_missing_folder_is_no_network_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "pets").mkdir(parents=True)
    said = fails("predict", CAT, "--model", "runs/petz")
    assert said.startswith("taidpt: There is no folder 'runs/petz' here ('runs' holds 'pets')")


def test_photographs_that_cannot_be_read_are_left_out_and_counted(tmp_path):
    from taidpt_cli.calibrate import read_calibration_images

    for name in ("a.jpg", "b.jpg"):
        shutil.copy(CAT, tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    found = read_calibration_images(str(tmp_path), ["cat"])
    assert [Path(image).name for image in found.images] == ["a.jpg", "b.jpg"] and found.labels is None
    (tmp_path / "labels.csv").write_text("file_name,labels\nbroken.jpg,dog\nb.jpg,cat\n")
    found = read_calibration_images(str(tmp_path), ["cat", "dog"])
    assert len(found.images) == 1 and found.labels.tolist()[0][0] == 1
    for name in ("a.jpg", "b.jpg", "labels.csv"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"None of the 1 images in .* can be read: .*broken"):
        read_calibration_images(str(tmp_path), ["cat"])


def test_folders_that_are_named_by_labels_are_read_as_the_message_says(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for number in range(2):
            shutil.copy(CAT, tmp_path / "tree" / name / f"{number}.jpg")
    said = fails("evaluate", tmp_path / "tree")
    way = ["--dataset", "hub", "--data", "label_column=label"]
    assert f"read with `{' '.join(way)}`" in said
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from modeling_taidpt.data.loaders import load_images

    data = load_images(str(tmp_path / "tree"), "hub", label_column="label", cache_dir=str(tmp_path / "cache"))
    assert [len(row) for row in data["labels"]] == [1] * 4


def test_a_folder_to_predict_names_tag(tmp_path):
    assert f"`taidpt tag {tmp_path} --output tags`" in fails("predict", tmp_path)
