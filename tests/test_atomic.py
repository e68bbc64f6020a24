"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from modeling_taidpt.atomic import DiskFullError, staged_file, staged_folder


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    with staged_file(path) as staged:
        staged.write_text("new")
        assert staged.suffix == ".csv" and not path.exists()
    assert files(tmp_path) == {"deep/table.csv": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(error), staged_file(path) as staged:
        staged.write_text("half")
        raise error
    with pytest.raises(error), staged_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("half")
        raise error
    assert files(tmp_path) == {"table.csv": "old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def test_a_folder_keeps_its_other_files(tmp_path):
    model = tmp_path / "model"
    (model / "checkpoint-1").mkdir(parents=True)
    (model / "checkpoint-1" / "state").write_text("kept")
    (model / "config.json").write_text("old")
    with staged_folder(model) as staged:
        assert staged.name == "model"
        (staged / "config.json").write_text("new")
        (staged / "sub").mkdir()
        (staged / "sub" / "weights").write_text("w")
    assert files(tmp_path) == {
        "model/checkpoint-1/state": "kept",
        "model/config.json": "new",
        "model/sub/weights": "w",
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_writer_of_the_same_number_left_is_removed(tmp_path):
    """A container that is started again has the name and the process numbers that it had."""
    with staged_file(tmp_path / "a.json") as outer:
        left = outer.parent.with_name(outer.parent.name[:-8] + "01234567")
        left.mkdir()
        with staged_folder(tmp_path / "b") as staged:
            (staged / "config.json").write_text("new")
        assert not left.exists() and outer.parent.exists()  # that is at work
        outer.write_text("newer")
    assert files(tmp_path) == {"a.json": "newer", "b/config.json": "new"}


def test_a_full_disk_is_one_sentence_that_names_the_file(tmp_path):
    said = r"^The disk is full: '[^']*a\.json' could not be written\. [^\n]*$"
    with pytest.raises(DiskFullError, match=said), staged_file(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_move_that_is_killed_leaves_no_folder_of_two_models(tmp_path, monkeypatch):
    """What says what the weights are is away as long as files of two models may be there."""

    def write(folder, name, obsolete=None):
        with staged_folder(folder, obsolete) as staged:
            for file in ("model.onnx", "labels.json", "config.json"):
                (staged / file).write_text(name)

    left = [0]

    def watch(module, function):
        original = getattr(module, function)

        def called(*arguments, **options):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            original(*arguments, **options)

        monkeypatch.setattr(module, function, called)

    model = tmp_path / "model"
    write(model, "old")
    (model / "model_quantized.onnx").write_text("old")
    watch(os, "replace")
    watch(Path, "unlink")
    for point in range(100):
        shutil.copytree(model, tmp_path / str(point))
        left[0] = point
        try:
            write(tmp_path / str(point), "new", lambda written: {"model_quantized.onnx"})
        except KeyboardInterrupt:
            found = files(tmp_path / str(point))
            whole = {"config.json", "labels.json"} <= found.keys()
            assert not whole or set(found.values()) == {"old"}, (point, found)
        else:
            assert files(tmp_path / str(point)) == dict.fromkeys(("model.onnx", "labels.json", "config.json"), "new")
            break
    assert point >= 6


def test_a_staged_folder_inside_another_of_its_path_is_a_part_of_it(tmp_path):
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "old").write_text("old")
    with staged_folder(model) as outer:
        with staged_folder(tmp_path / "." / "model", lambda written: {"old", "config.json"}) as inner:
            (inner / "config.json").write_text("new")
        assert files(model) == {"old": "old"}
        (outer / "tokenizer.json").write_text("new")
    assert files(tmp_path) == {"model/config.json": "new", "model/tokenizer.json": "new"}
