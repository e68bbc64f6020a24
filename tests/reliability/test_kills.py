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
SAMPLE = {"tag": (4, 4), "encode": (3, 3), "train": (1, 2), "save": (3, 6), "export": (1, 1)}  # moments, changes
VISIBLE = {".tagging"}  # the one hidden name that is meant to stay


def leftovers(folder) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if (path.name.startswith(".") and path.name not in VISIBLE) or path.suffix in (".tmp", ".lock", ".incomplete")
    ]


def start_over(before: Path, folder: Path) -> None:
    """Makes the folder as it was before, or none."""
    if before.exists():
        shutil.copytree(before, folder)


@pytest.mark.parametrize("task", TASKS)
def test_a_killed_process_is_as_if_it_had_never_been(task, base, tmp_path, generator, count):
    prepare(task, base, tmp_path / "before")
    start_over(tmp_path / "before", tmp_path / "whole")
    whole = run(task, base, tmp_path / "whole")
    assert whole.code == 0 and whole.events > 0
    expected = OUTCOMES[task](base, tmp_path / "whole")
    kept = leftovers(tmp_path / "whole")
    moments, changes = (pick(sample, full) for sample, full in zip(SAMPLE[task], (20, 10), strict=True))
    points = [{"after": generator.uniform(0, whole.seconds)} for _ in range(moments)]
    chosen = generator.sample(range(1, whole.events + 1), min(changes, whole.events))
    points += [{"at_event": event} for event in sorted(chosen)]
    for number, point in enumerate(points):
        folder = tmp_path / str(number)
        start_over(tmp_path / "before", folder)
        killed = run(task, base, folder, **point)
        assert killed.code in (-signal.SIGKILL, 0), (task, point)
        if folder.exists() and task in BETWEEN:
            BETWEEN[task](base, folder, expected)
        again = run(task, base, folder)
        assert again.code == 0, f"{task} does not go on after {point}"
        assert OUTCOMES[task](base, folder) == expected, (task, point)
        assert leftovers(folder) == kept, (task, point)
        count(f"kills of {task}" if killed.code else f"runs of {task} that ended before they were killed")
        shutil.rmtree(folder)
