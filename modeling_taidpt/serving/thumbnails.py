"""Small copies of images for a page: each written whole, none twice, broken images passed over with their reason."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ..atomic import DiskFullError, staged_file
from ..data.sources import ImageItem
from ..onnx_graphs import count_processors
from ..pipelines.image_reading import ImageEntry, open_encoded, read_image, refused_bombs

SIDE = 360  # pixels of the longer side
QUALITY = 80
AT_ONCE = 64  # images between reading and writing


def write_thumbnails(items: Iterable[ImageItem], folder: Path) -> Iterator[tuple[str, str | None]]:
    """Writes a thumbnail of each image; one that an earlier call has written of the same file stays.

    Args:
        items (`Iterable[ImageItem]`): the images; at most 64 are held at a time.
        folder (`Path`): where the files go, as `ab/cdef….jpg`.

    Returns:
        `Iterator[tuple[str, str | None]]`: for each image the name of its file, with forward slashes, and `None`; or
        an empty name and why there is none.
    """
    stream = iter(items)
    with ThreadPoolExecutor(min(count_processors(), 8)) as pool:
        while batch := list(itertools.islice(stream, AT_ONCE)):
            with refused_bombs():
                yield from list(pool.map(lambda item: _write(item, folder), batch))


def _write(item: ImageItem, folder: Path) -> tuple[str, str | None]:
    if item.error is not None:
        return "", item.error
    try:
        if isinstance(item.payload, dict):  # a member of an archive, a cell of a table: its bytes are read here
            item = item._replace(payload=item.payload.get("bytes") or item.payload["path"])
        name = _name(item.payload)
        if not (folder / name).exists():
            with _open_small(item) as image, staged_file(folder / name) as staged:
                image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
                image.save(staged, "JPEG", quality=QUALITY)  # without EXIF: no location or camera travels with it
        return name, None
    except ValueError as error:
        return "", str(error)
    except DiskFullError:
        raise
    except OSError as error:
        if error.filename is not None and str(folder) in str(error.filename):
            raise  # no room, or not ours to write: the gallery cannot be finished
        return "", f"cannot read image {item.name!r}: {error.strerror or error}."


def _name(payload: Any) -> str:
    """A name that changes when the image does."""
    digest = hashlib.sha1(usedforsecurity=False)
    if isinstance(payload, bytes):
        digest.update(payload)
    elif isinstance(payload, Image.Image):
        digest.update(f"{payload.mode} {payload.size}".encode() + payload.tobytes())
    else:
        digest.update(os.fsencode(os.path.abspath(payload)))
        with contextlib.suppress(OSError):
            status = os.stat(payload)
            digest.update(f" {status.st_size} {status.st_mtime_ns}".encode())
    return f"{digest.hexdigest()[:2]}/{digest.hexdigest()[2:24]}.jpg"


def _open_small(item: ImageItem) -> Image.Image:
    """The image as RGB, upright; a JPEG is decoded at the size of the thumbnail and no larger than needed.

    Raises:
        ValueError: it cannot be read; one sentence that names it.
    """
    with contextlib.suppress(Exception):  # what is wrong is said below
        source = BytesIO(item.payload) if isinstance(item.payload, bytes) else item.payload
        with open_encoded(source) as image:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            return read_image(ImageEntry(image))
    payload = {"path": item.name, "bytes": item.payload} if isinstance(item.payload, bytes) else item.payload
    return read_image(ImageEntry(payload))


__all__ = ["SIDE", "write_thumbnails"]
