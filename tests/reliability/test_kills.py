"""Processes that are killed, at random moments and right before chosen changes of their folder.

Nothing is lost, repeated, mixed or left behind: a rerun ends with what an undisturbed process makes.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from .conftest import pick
from .killing import run
from .tasks import BETWEEN, OUTCOMES, TASKS, prepare

pytestmark = pytest.mark.slow
KILLED = [task for task in TASKS if task != "push"]  # see test_killed_pushes.py
SAMPLE = {"tag": (3, 3), "encode": (2, 2), "save": (1, 3)}  # moments, changes; else one of each
FULL = (20, 10)
VISIBLE = {".tagging"}  # the one hidden name that is meant to stay


def leftovers(folder) -> list[str]:
    """What a process has not put away, in the folder of a task and beside it."""
    return [
        str(path.relative_to(folder.parent))
        for path in folder.parent.rglob("*")
        if (path.name.startswith(".") and path.name not in VISIBLE) or path.suffix in (".tmp", ".lock", ".incomplete")
    ]


def start_over(before: Path, folder: Path) -> None:
    """Makes the folder as it was before, or none; it lies in one of its own."""
    folder.parent.mkdir()
    if before.exists():
        shutil.copytree(before, folder)


@pytest.mark.parametrize("task", KILLED)
def test_a_killed_process_is_as_if_it_had_never_been(task, base, tmp_path, generator, count):
    before, undisturbed = tmp_path / "before" / "out", tmp_path / "whole" / "out"
    prepare(task, base, before)
    start_over(before, undisturbed)
    whole = run(task, base, undisturbed)
    assert whole.code == 0 and whole.events > 0
    expected = OUTCOMES[task](base, undisturbed)
    kept = leftovers(undisturbed)
    moments, changes = map(pick, SAMPLE.get(task, (1, 1)), FULL)
    points = [{"after": generator.uniform(0, whole.seconds)} for _ in range(moments)]
    chosen = generator.sample(range(1, whole.events + 1), min(changes, whole.events))
    points += [{"at_event": event} for event in sorted(chosen)]
    for number, point in enumerate(points):
        folder = tmp_path / str(number) / "out"
        start_over(before, folder)
        killed = run(task, base, folder, **point)
        assert killed.code in (-signal.SIGKILL, 0), (task, point)
        if folder.exists() and task in BETWEEN:  # looked at in a copy: whoever reads it may mend it
            shutil.copytree(folder.parent, tmp_path / "copy")
            BETWEEN[task](base, tmp_path / "copy" / "out", expected)
            shutil.rmtree(tmp_path / "copy")
        again = run(task, base, folder)
        assert again.code == 0, f"{task} does not go on after {point}"
        assert OUTCOMES[task](base, folder) == expected, (task, point)
        assert leftovers(folder) == kept, (task, point)
        count(f"kills of {task}" if killed.code else f"runs of {task} that ended before they were killed")
        shutil.rmtree(folder.parent)
