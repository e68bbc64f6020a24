"""The output folder of a tagging run: which run it belongs to, and which images each of its files holds.

Beside the files lies a hidden folder `.tagging`, which no pattern of file names and no reader of data sets finds. It
holds the settings of the run and, for each file, its digest and what identifies its images. So a run that goes on
where another one stopped finds what has changed meanwhile: the options, the model, the images, the files themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock
from PIL import Image

from ..atomic import remove_leftovers, staged_file
from ..data.sources import ImageItem
from ..data.stored_images import is_regular
from ..onnx_graphs import BACKENDS
from .formats import FORMATS, write_rows

RECORDS = ".tagging"
Identity = list[Any]  # a cheap mark that changes whenever the content may have changed, and a digest of the content


class TaggingOutput:
    """The output folder of a run.

    Args:
        folder (`Path`): the folder; made with the first file.
        settings (`dict`): what the rows depend on, as JSON has it; `"model"` is only its name.
        format (`str`, *optional*, defaults to `"parquet"`): format of the files.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], format: str = "parquet") -> None:
        self.folder, self.format = Path(folder), format
        self.settings = json.loads(json.dumps(settings))
        self.seen: list[int] = []  # numbers of the files of this run
        self.is_claimed = False

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:08d}.{self.format}"

    def check(self) -> None:
        """Makes sure that what is in the folder comes from the same settings.

        Raises:
            ValueError: it comes from another run, or nobody knows from which; one sentence.
        """
        path = self.folder / RECORDS / "settings.json"
        if not path.exists():
            other = min((file for kind in FORMATS for file in self.folder.glob(f"part-*.{kind}")), default=None)
            if other is not None:
                raise ValueError(
                    f"The folder {str(self.folder)!r} holds {other.name!r}, but not {RECORDS!r}, which says with "
                    "which settings its files were made: name another folder, or delete this one."
                )
            return
        older = {"backend": "torch", "tokenizer": self.settings.get("tokenizer")}  # what earlier versions did not name
        stored = older | _read_record(path)
        for name in (name for name in self.settings if name != "model"):
            if stored.get(name) != self.settings[name]:
                raise ValueError(
                    f"The folder {str(self.folder)!r} holds the output of another run, "
                    f"{_difference(name, stored, self.settings)}: name another folder, or delete this one."
                )

    def claim(self) -> None:
        """Makes the folder and writes the settings, or finds that another run was first.

        Raises:
            ValueError: the other run has other settings.
        """
        path = self.folder / RECORDS / "settings.json"
        text = json.dumps(self.settings, indent=2) + "\n"
        with contextlib.suppress(FileExistsError), staged_file(path) as staged:
            staged.write_text(text, encoding="utf-8")
            try:
                os.link(staged, path)  # exclusive: of several runs that start together one succeeds
            except (OSError, NotImplementedError) as error:  # a file system without links
                if not isinstance(error, FileExistsError):
                    with path.open("x", encoding="utf-8") as file:
                        file.write(text)
            raise FileExistsError  # by now it is there, and nothing takes its place
        self.check()
        self.is_claimed = True

    def holds(self, number: int, items: Sequence[ImageItem]) -> bool:
        """Whether the file of a part is there; then it must hold these images, unchanged.

        Raises:
            ValueError: it holds other images, or is damaged; one sentence.
        """
        path, record = self.path(number), self._record(number)
        self.seen.append(number)
        if not path.exists():
            return False
        if not record.exists():
            raise ValueError(f"Nobody knows which images {str(path)!r} holds: delete it, and they are tagged again.")
        stored = _read_record(record)
        if stored.get("digest") != _digest(_read_bytes(path)):
            raise ValueError(
                f"{str(path)!r} is damaged, or was written by others: delete it, and its images are tagged again."
            )
        images = stored.get("images")
        if stored.get("names") != digest_names(items) or not isinstance(images, list) or len(images) != len(items):
            raise ValueError(
                f"{str(path)!r} holds other images than the source gives there: the source has changed since. "
                "Name another output folder, or delete this one."
            )
        for item, identity in zip(items, images, strict=True):
            if not _is_same(item, identity):
                raise ValueError(
                    f"The image {item.name!r} has changed since it was tagged: delete {str(path)!r}, and its images "
                    "are tagged again, or name another output folder."
                )
        return True

    def save(self, number: int, table: pa.Table, images: Sequence[Identity], names: str) -> None:
        """Writes the file of a part, whole or not at all.

        Args:
            number (`int`): the part.
            table (`pa.Table`): its rows.
            images (`Sequence`): [`identify`] of each image, from before it was read.
            names (`str`): [`digest_names`] of the images.

        Raises:
            FileNotFoundError: the folder was deleted meanwhile.
        """
        if not self.is_claimed:
            self.claim()
        self._require_folder()
        lock = FileLock(self.folder / RECORDS / "lock")  # two runs may write the same part: record and file of one
        with lock, staged_file(self.path(number)) as staged:
            write_rows(table, staged)
            self._require_folder()  # it may have been deleted meanwhile, and made again for this file alone
            record = {"digest": _digest(staged.read_bytes()), "names": names, "images": list(images)}
            with staged_file(self._record(number)) as file:  # first: a record without its file does no harm
                file.write_text(json.dumps(record), encoding="utf-8")
        self._journal(number).unlink(missing_ok=True)

    def keep_rows(self, number: int, start: int, images: Sequence[Identity], rows: Sequence[Any]) -> None:
        """Notes rows of a part that is not whole yet, so that a run that is stopped loses a batch and not the part.

        Args:
            number (`int`): the part.
            start (`int`): index of the first of the rows in it.
            images (`Sequence`): [`identify`] of each image of the part.
            rows (`Sequence`): results and error of each image, as JSON has them.
        """
        if not self.is_claimed:
            self.claim()
        self._require_folder()
        lines = [json.dumps([index, images[index], row]) for index, row in enumerate(rows, start=start)]
        with self._journal(number).open("a", encoding="utf-8") as file:
            file.write("".join(f"{_digest(line.encode())} {line}\n" for line in lines))

    def kept_rows(self, number: int, images: Sequence[Identity]) -> list[Any]:
        """The first rows of a part that a run which was stopped has noted, as far as their images are the same."""
        rows: list[Any] = []
        if not os.path.lexists(self._journal(number)):
            return rows
        for line in _read_bytes(self._journal(number)).splitlines():
            digest, _, text = line.partition(b" ")
            if digest != _digest(text).encode():  # damaged, or cut off where the run was stopped
                continue
            index, image, row = json.loads(text)
            if index == len(rows) and index < len(images) and image == images[index] and image != [None, None]:
                rows.append(row)
        return rows

    def finish(self) -> list[Path]:
        """The files of this run, in their order.

        Raises:
            FileNotFoundError: one was deleted meanwhile.
        """
        for folder in (self.folder, self.folder / RECORDS):
            remove_leftovers(folder)  # of a run that was killed after its last file
        if not self.seen:
            return []
        self._require_folder()
        there = {entry.name for entry in os.scandir(self.folder)}
        paths = [self.path(number) for number in self.seen]
        missing = [path for path in paths if path.name not in there]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} files of the output are missing, as {str(missing[0])!r}: they were deleted while "
                "images were tagged. Run the same command again."
            )
        return paths

    def _record(self, number: int) -> Path:
        return self.folder / RECORDS / f"part-{number:08d}.json"

    def _journal(self, number: int) -> Path:
        return self.folder / RECORDS / f"part-{number:08d}.rows"

    def _require_folder(self) -> None:
        if not (self.folder / RECORDS / "settings.json").exists():
            raise FileNotFoundError(
                f"The output folder {str(self.folder)!r} was deleted while images were tagged: run the same command "
                "again."
            )
        self.check()


def stored_backend(folder: Path) -> str | None:
    """The backend of the run whose output is in a folder; `None` where there is none that says it."""
    try:
        stored = _read_record(Path(folder) / RECORDS / "settings.json")
    except (OSError, ValueError):  # said by `TaggingOutput.check`
        return None
    backend = stored.get("backend", "torch")
    return backend if backend in BACKENDS else None


def identify(item: ImageItem) -> Identity:
    """What tells whether an image is still the same, see `Identity`; None where that cannot be known."""
    return [_mark(item.payload), _digest_content(item.payload)]


def digest_names(items: Sequence[ImageItem]) -> str:
    """A digest of the names of images in their order."""
    return _digest(json.dumps([item.name for item in items]).encode())


def _is_same(item: ImageItem, identity: Any) -> bool:
    mark, digest = identity if isinstance(identity, list) and len(identity) == 2 else (None, "")
    if mark is not None and mark == _mark(item.payload):
        return True  # without reading it
    return digest == _digest_content(item.payload)


def _mark(payload: Any) -> list[Any] | None:
    """Size and times of the file that an image is or lies in, and where there; None where it is not in a file."""
    # images in archives and tables say where they are: the file, and then numbers or names
    place = getattr(payload, "place", None) or getattr(payload, "cell", None) or (payload,)
    if not isinstance(place[0], (str, Path)):
        return None
    try:
        status = os.stat(place[0])
    except (OSError, ValueError):  # an address, or no possible name
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, *place[1:]]


def _digest_content(payload: Any) -> str | None:
    """A digest of an image; None where there is no image to read."""
    try:
        if isinstance(payload, dict):  # `get` of a stored image reads it
            payload = payload.get("bytes") or payload.get("path")
        if isinstance(payload, (str, Path)):
            return _digest(Path(payload).read_bytes()) if os.path.isfile(payload) else None
        if isinstance(payload, Image.Image):
            payload = f"{payload.mode} {payload.size} ".encode() + payload.tobytes()
        elif isinstance(payload, np.ndarray):
            payload = f"{payload.dtype} {payload.shape} ".encode() + payload.tobytes()
        return _digest(payload) if isinstance(payload, (bytes, bytearray, memoryview)) else None
    except (OSError, ValueError, SyntaxError):  # what readers raise on broken images
        return None


def _digest(content: bytes | bytearray | memoryview) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _read_bytes(path: Path) -> bytes:
    """A file of the output folder; a pipe would be waited for."""
    if not is_regular(path):
        raise ValueError(f"{str(path)!r} is not a regular file: delete the output folder, or name another one.")
    return path.read_bytes()


def _read_record(path: Path) -> dict[str, Any]:
    content = _read_bytes(path)
    try:
        stored = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged: delete the output folder, or name another one.") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{str(path)!r} is damaged: delete the output folder, or name another one.")
    return stored


def _difference(name: str, stored: dict[str, Any], settings: dict[str, Any]) -> str:
    if name not in ("fingerprint", "tokenizer"):
        return f"with `{name}` {stored.get(name)!r}, not {settings[name]!r}"
    if stored.get("model") == settings.get("model"):
        return f"with an earlier state of the model {settings.get('model')!r}"
    return f"with the model {stored.get('model')!r}, not {settings.get('model')!r}"


__all__ = ["TaggingOutput", "digest_names", "identify", "stored_backend"]
