"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from modeling_taidpt.atomic import (
    DiskFullError,
    recover_folder,
    remove_leftovers,
    scratch_folder,
    staged_file,
    staged_folder,
)


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


def stop_after(monkeypatch, left: list[int]) -> None:
    """Lets a process die at a change of the disk, and make no other one."""

    def watch(module, function):
        original = getattr(module, function)

        def called(*arguments, **options):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            original(*arguments, **options)

        monkeypatch.setattr(module, function, called)

    watch(os, "replace")
    watch(Path, "unlink")
    watch(shutil, "rmtree")


def write_model(folder, name, obsolete=None):
    with staged_folder(folder, obsolete) as staged:
        for file in ("model.onnx", "labels.json", "config.json"):
            (staged / file).write_text(name)


def test_a_move_that_is_killed_leaves_no_folder_of_two_models(tmp_path, monkeypatch):
    """What says what the weights are is away as long as files of two models may be there; then one is whole."""
    left = [-1]
    names = ("model.onnx", "labels.json", "config.json")
    write_model(tmp_path / "model", "old")
    (tmp_path / "model" / "model_quantized.onnx").write_text("old")
    old, new = dict.fromkeys((*names, "model_quantized.onnx"), "old"), dict.fromkeys(names, "new")
    stop_after(monkeypatch, left)
    outcomes = []
    for point in range(100):
        model = tmp_path / str(point) / "model"
        shutil.copytree(tmp_path / "model", model)
        left[0] = point
        try:
            write_model(model, "new", lambda written: {"model_quantized.onnx"})
            break
        except KeyboardInterrupt:
            found = files(model)
            assert not {"config.json", "labels.json"} <= found.keys() or len(set(found.values())) == 1, (point, found)
        finally:
            left[0] = -1
        (model.parent / "reads").mkdir()
        recover_folder(model)  # whoever reads it finds a whole model
        outcomes.append(files(model))
        remove_leftovers(model.parent)  # and whoever writes beside it leaves nothing
        assert sorted(entry.name for entry in model.parent.iterdir()) == ["model", "reads"]
        assert files(model) == outcomes[-1]
    assert files(model) == new
    assert old in outcomes and new in outcomes and len(outcomes) >= 8
    assert all(outcome in (old, new) for outcome in outcomes)


def test_a_model_that_was_saved_since_is_not_moved_over(tmp_path, monkeypatch):
    """The moves of a killed process are not made where another machine has saved meanwhile."""
    left = [-1]
    write_model(tmp_path / "model", "old")
    stop_after(monkeypatch, left)
    left[0] = 3
    with pytest.raises(KeyboardInterrupt):
        write_model(tmp_path / "model", "new")
    left[0] = -1
    for file in ("model.onnx", "labels.json", "config.json"):
        (tmp_path / "model" / file).write_text("other")
    remove_leftovers(tmp_path)
    assert set(files(tmp_path).values()) == {"other"}


@pytest.mark.parametrize("place", ["old", "link", "file"])
def test_a_plan_of_moves_reaches_nothing_outside_of_its_folder(tmp_path, monkeypatch, place):
    """It may have come with an archive of anybody."""
    left = [-1]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("mine")
    (tmp_path / "all" / "model").mkdir(parents=True)
    stop_after(monkeypatch, left)
    left[0] = 1  # after the plan is in its place
    with pytest.raises(KeyboardInterrupt):
        write_model(tmp_path / "all" / "model", "new")
    left[0] = -1
    hidden = next(entry for entry in (tmp_path / "all").iterdir() if entry.name.startswith("."))
    if place == "old":
        (hidden / "model.moves").write_text('["../../mine/config.json"]')
    elif place == "link":
        (tmp_path / "all" / "model").rmdir()
        (tmp_path / "all" / "model").symlink_to(tmp_path / "mine")
    else:
        (hidden / "model" / "sub").mkdir()
        (hidden / "model" / "sub" / "config.json").write_text("new")
        (tmp_path / "all" / "model" / "sub").symlink_to(tmp_path / "mine")
    remove_leftovers(tmp_path / "all")
    assert files(tmp_path / "mine") == {"config.json": "mine"}
    assert [entry.name for entry in (tmp_path / "all").iterdir()] == ["model"]


def test_a_folder_that_is_deleted_meanwhile_is_one_sentence(tmp_path):
    said = r"^'[^']*model' or the folder that it is in was deleted while it was written: [^\n]*$"
    with pytest.raises(FileNotFoundError, match=said), staged_folder(tmp_path / "runs" / "model") as staged:
        shutil.rmtree(tmp_path / "runs")
        raise KeyError("of a library that could not open its file")
    assert not staged.exists()
    with pytest.raises(FileNotFoundError, match=r"file\.txt"), staged_file(tmp_path / "runs" / "file.txt") as staged:
        staged.write_text("new")
        shutil.rmtree(tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_is_nobody_else_s_and_goes_with_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as scratch:
        assert scratch.parent.stat().st_mode & 0o77 == 0 and list(scratch.iterdir()) == []
        (scratch / "model").write_text("secret")
        left = scratch.parent.with_name(re.sub(r"-\d+\.", f"-{dead_process()}.", scratch.parent.name))
        shutil.copytree(scratch.parent, left)
        with scratch_folder() as other:
            assert other != scratch and not left.exists() and files(scratch) == {"model": "secret"}
    assert list(tmp_path.iterdir()) == []


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


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


def test_a_link_that_leads_to_itself_is_one_sentence(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    sentence = r"loop' is a link that leads to itself: name another folder\.$"
    with pytest.raises(OSError, match=sentence), staged_folder(tmp_path / "loop"):
        pass
    (tmp_path / "gone").symlink_to(tmp_path / "target")  # is made where it leads
    with staged_folder(tmp_path / "gone") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "target" / "a").read_text() == "a"
