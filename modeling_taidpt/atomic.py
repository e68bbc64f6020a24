"""Files and folders that are written whole or not at all.

What is being written is in a hidden folder beside its final place, so that no pattern of file names finds it. The
folder's name says which process made it; one that was killed leaves it behind, and the next writer removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_SIGNS = (
    "The disk is full",
    "os error 28",
    "os error 122",
    "os error 27",
    "No space left",
    "inline_container",
    "file write failed",
)
# What makes a folder a checkpoint, an exported model, a report: without it nothing in the folder can be taken for one.
LAST = ("config.json", "labels.json", "metrics.json")
MOST_SWEPT = 10_000  # folders that are remembered
Obsolete = Callable[[set[str]], set[str]]


class DiskFullError(OSError):
    """There is no room for what is written; the message is one sentence that names it."""


@contextmanager
def staged_file(path: str | Path) -> Iterator[Path]:
    """A place to write a file, which takes its name when all went well; on any error nothing of it is left.

    Args:
        path (`str` or `Path`): the file; its folder is made if it does not exist, a file of that name is replaced.

    Yields:
        `Path`: the file to write, in a hidden folder beside the final one and of the same name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _staging(path) as (parent, mode):
        staged = parent / path.name
        yield staged
        os.chmod(staged, mode)
        os.replace(staged, path)


@dataclass
class _Stage:
    """What is being written for a folder: where, and which older files go with it."""

    folder: Path
    obsolete: list[Obsolete] = field(default_factory=list)


_stages: ContextVar[dict[Path, _Stage] | None] = ContextVar("stages", default=None)  # open ones, by final folder


@contextmanager
def staged_folder(path: str | Path, obsolete: Obsolete | None = None) -> Iterator[Path]:
    """A place to write files, which move into a folder when all went well; on any error the folder is as it was.

    What makes the folder a model (`config.json`, `labels.json` of an exported one) is taken away before anything else
    is moved, and comes last: a process that is killed in between leaves a folder that does not load, never one with
    files of two models. A staged folder inside another of the same path is a part of it.

    Args:
        path (`str` or `Path`): the folder; made if it does not exist. Its other files stay.
        obsolete (`Callable`, *optional*): gets the names of the files that were written, gives the names in the
            folder that would speak of an older model; they are deleted.

    Yields:
        `Path`: an empty folder of the same name, in a hidden folder beside the final one.
    """
    path = Path(path).resolve()  # beside the folder itself, where that is a link: files move within one disk
    stages = _stages.get() or {}
    if path in stages:
        stages[path].obsolete += [obsolete] if obsolete else []
        yield stages[path].folder
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    with _staging(path) as (parent, mode):
        stage = _Stage(parent / path.name, [obsolete] if obsolete else [])
        stage.folder.mkdir()
        token = _stages.set(stages | {path: stage})
        try:
            yield stage.folder
        finally:
            _stages.reset(token)
        path.mkdir(exist_ok=True)
        _move(stage, path, mode)


def _move(stage: _Stage, path: Path, mode: int) -> None:
    """Moves what was staged into its folder, in an order that never leaves files of two models that load."""
    files = sorted(file.relative_to(stage.folder) for file in stage.folder.rglob("*") if file.is_file())
    for file in files:
        os.chmod(stage.folder / file, mode)
        if file.name in LAST:
            (path / file).unlink(missing_ok=True)
    written = {str(file) for file in files}
    old = set().union(*(obsolete(written) for obsolete in stage.obsolete)) - written
    for file in sorted(files, key=lambda file: (file.name in LAST, file.name == LAST[0], str(file))):
        if file.name in LAST:  # before the folder can be taken for a model again
            while old:
                (path / old.pop()).unlink(missing_ok=True)
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage.folder / file, path / file)
    for name in old:
        (path / name).unlink(missing_ok=True)


def require_folder(path: str | Path | None) -> None:
    """Raises a `NotADirectoryError` where a folder to write into is a file, before any work is done for it."""
    if path is not None and Path(path).exists() and not Path(path).is_dir():
        raise NotADirectoryError(f"{str(path)!r} is a file: give a folder to save the model in.")


_own: set[str] = set()  # hidden folders that this process is writing
_swept: set[str] = set()  # folders that it has looked through


@contextmanager
def _staging(path: Path) -> Iterator[tuple[Path, int]]:
    """A hidden folder for what becomes `path`, and the mode that the umask gives to files."""
    if str(path.parent) not in _swept:
        remove_leftovers(path.parent)
    parent = path.parent / f".{path.name}.{_owner(os.getpid())}.{uuid.uuid4().hex[:8]}"
    _own.add(parent.name)
    parent.mkdir()
    try:
        probe = parent / f"mode-{uuid.uuid4().hex[:8]}"
        probe.touch()  # libraries write through temporary files that nobody else may read: the umask decides instead
        mode = probe.stat().st_mode & 0o777
        probe.unlink()
        with plain_disk_errors(path):
            yield parent, mode
    finally:
        shutil.rmtree(parent, ignore_errors=True)
        _own.discard(parent.name)


@contextmanager
def plain_disk_errors(path: str | Path, needed: int = 0) -> Iterator[None]:
    """A block that writes; when the disk is full, it ends in one sentence that names the folder.

    Args:
        path (`str` or `Path`): the file or folder that is written; the sentence names it.
        needed (`int`, *optional*, defaults to 0): bytes that have to be free before anything is written.

    Raises:
        OSError: If the disk is full.
    """
    folder = Path(path).absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(
            f"The disk is full: {str(path)!r} needs {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free. "
            "Free some space and go on."
        )
    try:
        yield
    except Exception as error:  # each library has its own: torch's name its writer, those of safetensors the number
        full = isinstance(error, OSError) and error.errno in FULL
        if full or any(sign in str(error) for sign in FULL_SIGNS):
            raise DiskFullError(
                f"The disk is full: {str(path)!r} could not be written. Free some space and go on."
            ) from error
        raise


def _owner(process: int) -> str:
    host = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())[:40]
    return f"{host}-{process}"


def remove_leftovers(folder: str | Path) -> None:
    """Removes what killed writers of this machine left among the entries of a folder; others may still be at work.

    Whoever writes into a folder does so first. It is called besides where a run may have nothing to write.
    """
    folder = Path(folder)
    if len(_swept) > MOST_SWEPT:
        _swept.clear()
    _swept.add(str(folder))
    pattern = re.compile(rf"\..+\.{re.escape(_owner(0)[:-1])}(\d+)\.[0-9a-f]{{8}}")
    for entry in os.scandir(folder) if folder.is_dir() else ():
        found = pattern.fullmatch(entry.name)
        # a container that is started again gives its processes the numbers and the name of the machine that they had
        is_own = found is not None and int(found.group(1)) == os.getpid()
        if found and (entry.name not in _own if is_own else not _is_alive(int(found.group(1)))):
            shutil.rmtree(entry.path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        with contextlib.suppress(PermissionError):
            os.kill(process, 0)
        return True
    return False


__all__ = ["DiskFullError", "plain_disk_errors", "remove_leftovers", "require_folder", "staged_file", "staged_folder"]
