"""Files and folders that are written whole or not at all.

What is being written is in a hidden folder beside its final place, so that no pattern of file names finds it. The
folder's name says which process made it; one that was killed leaves it behind, and the next writer removes it. Of a
process that was killed while it moved files into a folder, the next writer makes the other moves first: what was there
before is gone by then, and perhaps it was all that there was of a model.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
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
    """A place to write files, which move into a folder when all went well; on an error before, it is as it was.

    What makes the folder a model (`config.json`, `labels.json` of an exported one) is taken away before anything else
    is moved, and comes last: a process that is killed in between leaves a folder that does not load, never one with
    files of two models. The other moves are made by the next process that writes beside it or reads it
    ([`recover_folder`]). A staged folder inside another of the same path is a part of it.

    Args:
        path (`str` or `Path`): the folder; made if it does not exist. Its other files stay.
        obsolete (`Callable`, *optional*): gets the names of the files that were written, gives the names in the
            folder that would speak of an older model; they are deleted.

    Yields:
        `Path`: an empty folder of the same name, in a hidden folder beside the final one.
    """
    path = _followed(Path(path))  # beside the folder itself, where that is a link: files move within one disk
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
        files = _files(stage.folder)
        for file in files:
            os.chmod(stage.folder / file, mode)
        written = {str(file) for file in files}
        old = set().union(*(names(written) for names in stage.obsolete)) - written
        if any(file.name in LAST for file in files):
            plan = parent / "plan"
            plan.write_text(json.dumps(sorted(old)), encoding="utf-8")
            os.replace(plan, _plan_of(stage.folder))  # from here on all of it is done, by whomever
        try:
            _move(stage.folder, path, old)
        except FileNotFoundError as error:
            raise _deleted(path) from error


def _followed(path: Path) -> Path:
    """Where a path leads, links followed.

    Raises:
        OSError: a link leads to itself; one sentence.
    """
    try:
        followed = path.resolve()
        loops = followed.is_symlink()  # since Python 3.13 it is not said
    except RuntimeError:
        loops = True
    if loops:
        raise OSError(f"{str(path)!r} is a link that leads to itself: name another folder.")
    return followed


def _files(folder: Path) -> list[Path]:
    """Files below a folder, relative to it."""
    return sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())


def _plan_of(staged: Path) -> Path:
    """The file that says: all of a staged folder is written, and these older files go when it is moved."""
    return staged.with_name(f"{staged.name}.moves")


def _move(staged: Path, path: Path, old: Collection[str]) -> None:
    """Moves what was staged into its folder, in an order that never leaves files of two models that load."""
    path.mkdir(exist_ok=True)
    files = _files(staged)
    for file in files:
        if file.name in LAST:
            (path / file).unlink(missing_ok=True)
    for file in sorted(files, key=lambda file: (file.name in LAST, file.name == LAST[0], str(file))):
        if file.name in LAST:  # before the folder can be taken for a model again
            _remove(path, old)
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged / file, path / file)
    _remove(path, old)


def _remove(path: Path, names: Collection[str]) -> None:
    for name in names:
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
    parent = _hidden(path)
    _own.add(parent.name)
    parent.mkdir(mode=0o700)
    try:
        probe = parent / f"mode-{uuid.uuid4().hex[:8]}"
        probe.touch()  # libraries write through temporary files that nobody else may read: the umask decides instead
        mode = probe.stat().st_mode & 0o777
        probe.unlink()
        with plain_disk_errors(path):
            yield parent, mode
    except Exception as error:  # each library has its own for a folder that is not there
        if parent.is_dir():
            raise
        raise _deleted(path) from error
    finally:
        _own.discard(parent.name)
        _clear(parent, path)


def _hidden(path: Path) -> Path:
    """A new name for a hidden folder of this process beside a path."""
    return path.with_name(f".{path.name}.{_owner(os.getpid())}.{uuid.uuid4().hex[:8]}")


def _deleted(path: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"{str(path)!r} or the folder that it is in was deleted while it was written: run the same command again."
    )


def _clear(parent: Path, path: Path) -> None:
    """Removes a hidden folder; what is whole in it, and was on its way into its folder, is moved there first.

    Args:
        parent (`Path`): the hidden folder.
        path (`Path`): what was written in it.
    """
    staged = parent / path.name
    with contextlib.suppress(OSError):  # it stays for another process
        old = _read_plan(parent, path)
        last = [file for file in _files(staged) if file.name in LAST]
        # where all of them are there, nothing was moved, or somebody else has saved there since
        if old is not None and not all((path / file).exists() for file in last):
            _move(staged, path, old)
        shutil.rmtree(parent, ignore_errors=True)


def _read_plan(parent: Path, path: Path) -> list[str] | None:
    """Which files go when a folder is moved; `None` where it is not to be moved, or would touch files elsewhere."""
    staged = parent / path.name
    if not _plan_of(staged).is_file() or path.is_symlink():
        return None
    if hasattr(os, "geteuid") and parent.stat().st_uid != os.geteuid():  # among temporary files: of somebody else
        return None
    old: list[str] = json.loads(_plan_of(staged).read_text(encoding="utf-8"))
    places = [path / name for name in (*_files(staged), *old)]
    return old if all(place.parent.resolve().is_relative_to(path) for place in places) else None


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
        if not full and not folder.is_dir():
            raise _deleted(Path(path)) from error
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

    What they were moving into a folder is moved there. Whoever writes into a folder does so first. It is called
    besides where a run may have nothing to write.
    """
    folder = Path(folder)
    if len(_swept) > MOST_SWEPT:
        _swept.clear()
    _swept.add(str(folder))
    pattern = re.compile(rf"\.(.+)\.{re.escape(_owner(0)[:-1])}(\d+)\.[0-9a-f]{{8}}")
    for entry in list(os.scandir(folder)) if folder.is_dir() else ():
        found = pattern.fullmatch(entry.name)
        # a container that is started again gives its processes the numbers and the name of the machine that they had
        is_own = found is not None and int(found.group(2)) == os.getpid()
        if found and (entry.name not in _own if is_own else not _is_alive(int(found.group(2)))):
            claimed = _hidden(folder.resolve() / found.group(1))
            _own.add(claimed.name)
            with contextlib.suppress(OSError):  # several processes may find it: one of them gets it
                os.rename(entry.path, claimed)
                _clear(claimed, folder.resolve() / found.group(1))
            _own.discard(claimed.name)


def recover_folder(folder: str | Path) -> None:
    """Makes the moves into the folder of a model that a killed process has left undone; a whole model stays as it is.

    It is called where a folder is read that may have been saved over.
    """
    folder = Path(folder)
    if folder.is_dir() and not (folder / LAST[0]).exists():
        remove_leftovers(folder.resolve().parent)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder among the temporary files; what killed processes have left of such ones is removed.

    Yields:
        `Path`: an empty folder that nobody else may read; it is gone after the block.
    """
    folder = Path(tempfile.gettempdir()).resolve()
    remove_leftovers(folder)
    with _staging(folder / "taidpt") as (parent, _):
        scratch = parent / "taidpt"
        scratch.mkdir()
        yield scratch


def _is_alive(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        with contextlib.suppress(PermissionError):
            os.kill(process, 0)
        return True
    return False


__all__ = [
    "DiskFullError",
    "plain_disk_errors",
    "recover_folder",
    "remove_leftovers",
    "require_folder",
    "scratch_folder",
    "staged_file",
    "staged_folder",
]
