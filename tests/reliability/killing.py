"""Starts a task in a process of its own and kills it (SIGKILL), at a moment or at an event in its folder."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from .tasks import TASKS

# Its children have everything imported already, and start in a few hundredths of a second.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["modeling_taidpt", "tests.reliability.tasks"])
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.chmod", "shutil.rmtree")
LONGEST = 300  # seconds


class Run(NamedTuple):
    """How a process ended.

    Attributes:
        code (`int`): its exit code, the negative signal where it was killed.
        events (`int`): changes in the folder and beside it, of a process that came to its end.
        seconds (`float`): how long it worked.
    """

    code: int
    events: int
    seconds: float


def run(task: str, base: Path, folder: Path, at_event: int | None = None, after: float | None = None) -> Run:
    """Runs a task.

    Args:
        task (`str`): its name.
        base (`Path`): the prepared folder.
        folder (`Path`): the folder of the task, alone in another one.
        at_event (`int`, *optional*): it is killed right before this change in there, counted from 1.
        after (`float`, *optional*): it is killed after these seconds.
    """
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(task, base, folder, at_event, there))
    process.start()
    there.close()
    events, seconds, ended = 0, 0.0, False
    try:
        here.recv()  # it begins to work
        started = time.monotonic()
        if here.poll(LONGEST if after is None else after):
            events, ended = here.recv(), True  # it may have found nothing to do
        seconds = time.monotonic() - started
    except EOFError:  # killed
        pass
    if not ended:
        process.kill()
    process.join(LONGEST)
    return Run(process.exitcode, events, seconds)


def _work(task: str, base: Path, folder: Path, at_event: int | None, there: Connection) -> None:
    changes = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if (writes or event in CHANGES) and str(arguments[0]).startswith(str(folder.parent)):
            changes += 1
            if changes == at_event:
                os.kill(os.getpid(), 9)

    there.send("begins")
    sys.addaudithook(watch)
    with open(os.devnull, "w") as silent:
        os.dup2(silent.fileno(), 1)
        os.dup2(silent.fileno(), 2)
    TASKS[task](base, folder)
    there.send(changes)
