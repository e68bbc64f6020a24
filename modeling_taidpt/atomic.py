"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LAST = "config.json"  # what makes a folder a checkpoint


@contextmanager
def staged_file(path: str | Path) -> Iterator[Path]:
    """A place to write a file, which takes its name when all went well; on any error nothing of it is left.

    Args:
        path (`str` or `Path`): the file; its folder is made if it does not exist, a file of that name is replaced.

    Yields:
        `Path`: the file to write, beside the final one and with the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield staged
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: str | Path) -> Iterator[Path]:
    """A place to write files, which move into a folder when all went well; on any error the folder is as it was.

    Args:
        path (`str` or `Path`): the folder; made if it does not exist. Its other files stay.

    Yields:
        `Path`: an empty folder of the same name, beside the final one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    parent = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    staged = parent / path.name
    staged.mkdir(parents=True)
    try:
        yield staged
        for file in sorted(staged.rglob("*"), key=lambda file: file.name == LAST):
            target = path / file.relative_to(staged)
            if file.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
    finally:
        shutil.rmtree(parent, ignore_errors=True)


__all__ = ["staged_file", "staged_folder"]
