"""Reads every kind of image that the pipeline takes: paths, URLs, base64 text, bytes, PIL images, arrays.

Neither torch nor transformers is imported: `taidpt predict` answers before they would be.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

# What Pillow decodes itself. Others it hands to another program (PostScript to Ghostscript), to a handler that
# somebody has registered, or, as IPTC, to any format again. Those without a magic number come last.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "MPO", "ICO", "QOI"),
    *("PSD", "DDS", "ICNS", "SGI", "PCX", "TGA"),
)
DOWNLOAD_SECONDS = 30.0  # for a URL, from the request to the last byte
DOWNLOAD_BYTES = 100 * 2**20  # of a URL
BROKEN = (UnicodeError, OSError, RuntimeError, zlib.error)  # what else a download ends in
IMAGE_KINDS = "a path, a URL, base64 text, bytes, a PIL image, or a uint8 or uint16 array"


@dataclass(frozen=True)
class ImageEntry:
    """One image of the input, and its index there; `error` is what its dataset raised instead of an image."""

    source: Any
    index: int | None = None
    error: Exception | None = None

    @property
    def name(self) -> str:
        """What an error message calls it: its path or URL, else its index and kind."""
        source = self.source
        if isinstance(source, dict) and source.get("path"):
            source = source["path"]
        elif isinstance(source, Image.Image):
            source = getattr(source, "filename", None) or source
        if isinstance(source, (str, Path)) and len(str(source)) <= 500 and not str(source).startswith("data:"):
            return repr(str(source))
        kind = "base64 text" if isinstance(source, str) else type(source).__name__
        if isinstance(source, np.ndarray) or is_tensor(source):
            kind = f"array of shape {tuple(source.shape)}"
        if isinstance(source, (bytes, bytearray, memoryview)):
            kind = f"{len(source)} bytes"
        elif isinstance(source, Image.Image):
            kind = f"PIL image, {source.width} x {source.height} pixels, mode {source.mode}"
        elif self.error is not None:
            kind = "from the dataset"
        return f"({kind})" if self.index is None else f"at index {self.index} ({kind})"


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of PyTorch, which need not be imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def unreadable(entry: ImageEntry, reason: str) -> ValueError:
    """The error for an image that cannot be read: its name and why."""
    return ValueError(f"cannot read image {entry.name}: {reason}.")


def read_image(entry: ImageEntry, timeout: float | None = None, max_pixels: int | None = None) -> Image.Image:
    """Reads any kind of image.

    Args:
        entry (`ImageEntry`): the image.
        timeout (`float`, *optional*, defaults to 30): seconds for a URL, from the request to the last byte.
        max_pixels (`int`, *optional*): width times height at most, found before any pixel is decoded;
            `PIL.Image.MAX_IMAGE_PIXELS` holds besides.

    Returns:
        `PIL.Image.Image`: RGB, turned as its EXIF data say.

    Raises:
        ValueError: it cannot be read; one sentence that names it.
    """
    if entry.error is not None:
        raise unreadable(entry, _one_line(entry.error)) from entry.error
    source = entry.source
    if isinstance(source, dict) and {"bytes", "path"} & set(source):
        source = source.get("bytes") or source.get("path")
    if is_tensor(source):
        source = source.numpy(force=True)
    if isinstance(source, np.ndarray):
        source = _from_array(entry, source)
    elif isinstance(source, (str, Path)):
        source = _find(entry, str(source), DOWNLOAD_SECONDS if timeout is None else timeout)
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = BytesIO(source)
    if not isinstance(source, (str, BytesIO, Image.Image)):
        raise unreadable(entry, f"its type is not an image; give {IMAGE_KINDS}")
    image = _decode(entry, source, max_pixels)
    if 0 in image.size:
        raise unreadable(entry, "it has no pixels")
    return image


def require_resizable(entry: ImageEntry, image: Image.Image, resized: tuple[int, int] | None) -> None:
    """Raises a `ValueError` where an image would have more pixels than Pillow's limit after resizing."""
    if is_too_large(resized):
        raise unreadable(entry, f"its sides ({image.width} x {image.height}) are too unequal for resizing")


def is_too_large(size: tuple[int, int] | None) -> bool:
    """Whether an image of that height and width has more pixels than Pillow reads."""
    return size is not None and Image.MAX_IMAGE_PIXELS is not None and size[0] * size[1] > Image.MAX_IMAGE_PIXELS


def open_encoded(source: str | Path | BytesIO) -> Image.Image:
    """Opens an encoded image of one of the [`FORMATS`]; its pixels are not decoded yet. Raises as `Image.open`."""
    return Image.open(source, formats=_installed_formats())


@functools.lru_cache(maxsize=1)
def _installed_formats() -> tuple[str, ...]:
    """Those of the formats that this Pillow was built with."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def _find(entry: ImageEntry, text: str, timeout: float) -> str | bytes:
    """The path of a file, or the bytes behind a URL or in base64 text."""
    if text.startswith(("http://", "https://")):
        return _download(entry, text, timeout)
    if os.path.isdir(text):
        raise unreadable(entry, "it is a folder; list the files in it")
    if os.path.exists(text):
        if not os.path.isfile(text):  # to open a pipe would wait for ever
            raise unreadable(entry, "it is not a regular file")
        if not os.path.getsize(text):  # some of the system's own are endless
            raise unreadable(entry, "it is empty")
        return text
    is_data = text.startswith("data:image/")
    with contextlib.suppress(Exception):
        content = base64.b64decode("".join((text.partition(",")[2] if is_data else text).split()), validate=True)
        open_encoded(BytesIO(content)).close()  # raises where it is not an image
        return content
    raise unreadable(entry, "its base64 text holds no image" if is_data else "there is no such file")


def _download(entry: ImageEntry, url: str, timeout: float) -> bytes:
    """What a server sends, within a limit of time and one of size."""
    import httpx  # most images are files

    large = unreadable(entry, f"the server sends more than {DOWNLOAD_BYTES} bytes; download it yourself")
    content, deadline = bytearray(), time.monotonic() + timeout
    try:
        with (
            httpx.Client(timeout=timeout, follow_redirects=True) as client,
            _closing_after(timeout, client),
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
        ):
            if not response.is_success:
                reason = f"the server answered {response.status_code} {response.reason_phrase}"
                raise unreadable(entry, reason.rstrip())
            announced = response.headers.get("content-length", "")
            if announced.isdecimal() and int(announced) > DOWNLOAD_BYTES:
                raise large
            packing = response.headers.get("content-encoding", "identity").strip().lower()
            unpacker = zlib.decompressobj(wbits=47) if packing in ("gzip", "x-gzip", "deflate") else None
            if packing not in ("", "identity") and unpacker is None:
                raise unreadable(entry, f"the server sends it packed ({packing[:40]!r}); download it yourself")
            for chunk in response.iter_raw():
                # a few bytes may unpack to any number: never to more than are taken
                content += unpacker.decompress(chunk, DOWNLOAD_BYTES + 1) if unpacker else chunk
                if len(content) > DOWNLOAD_BYTES:
                    raise large
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, *BROKEN) as error:
        if isinstance(error, httpx.TimeoutException) or time.monotonic() >= deadline:
            raise unreadable(entry, f"the server took longer than {timeout:g} seconds (`timeout`)") from error
        raise unreadable(entry, f"the server gave no answer ({_one_line(error)})") from error
    return bytes(content)


@contextlib.contextmanager
def _closing_after(timeout: float, client: Any) -> Iterator[None]:
    """Closes a client after some seconds: its own timeout begins anew with every byte that a slow server sends."""
    timer = threading.Timer(timeout, client.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _decode(entry: ImageEntry, source: str | BytesIO | Image.Image, max_pixels: int | None) -> Image.Image:
    """Decodes an image whole, and turns it and its colours.

    Pillow raises nearly any exception on broken files, so all of them are caught here.
    """
    too_large = f"it has more than {(max_pixels or 0) / 1e6:g} million pixels; make it smaller"
    try:
        with refused_bombs():
            image = source if isinstance(source, Image.Image) else open_encoded(source)
            if isinstance(image, ImageFile.ImageFile) and image.tile and image.format not in FORMATS:
                raise UnidentifiedImageError  # opened by others, not decoded yet
            if max_pixels is None or image.width * image.height <= max_pixels:
                image.load()
                with contextlib.suppress(Exception):  # a broken EXIF block does not spoil the image
                    image = ImageOps.exif_transpose(image)
                return _to_rgb(image)
    except UnidentifiedImageError as error:
        reason = "it is not an image, or not of a format that is read here; convert it to PNG or JPEG"
        raise unreadable(entry, reason) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = (
            f"it has more pixels than the limit of {Image.MAX_IMAGE_PIXELS} that guards against decompression bombs; "
            "make it smaller, or raise `PIL.Image.MAX_IMAGE_PIXELS` if you trust it"
        )
        raise unreadable(entry, reason if max_pixels is None else too_large) from error
    except PermissionError as error:
        raise unreadable(entry, "its file may not be read by this user") from error
    except Exception as error:
        raise unreadable(entry, f"it is broken or cut off ({_one_line(error)})") from error
    raise unreadable(entry, too_large)


@contextlib.contextmanager
def refused_bombs() -> Iterator[None]:
    """Makes an error of Pillow's warning of an image with too many pixels.

    The filters of warnings belong to all threads: where several read, an outer one of these must be around them, so
    that whatever they restore in whatever order refuses such images too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _one_line(error: Exception) -> str:
    """The message of an exception without line breaks and full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB: transparent images on white, 16-bit ones scaled to 8 bit (Pillow would clip them)."""
    if image.mode.startswith(("I", "F")):  # "I;16" too
        image = Image.fromarray(_to_8_bit(np.asarray(image)))  # mode L
    transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if transparent or (image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info):
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Grey values as uint8: 16-bit ones are scaled; wider ones too unless they fit into 8 bit as they are."""
    if values.dtype.kind == "f":
        top = 1.0 if values.size and np.nanmax(values) <= 1 else 255.0
        values = np.nan_to_num(values) * (255.0 / top)
    elif values.dtype.itemsize == 2 or (values.size and values.max() > 255):
        values = values / 257.0  # 65535 becomes 255
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _from_array(entry: ImageEntry, array: np.ndarray) -> Image.Image:
    """An image of a uint8 or uint16 array `(height, width)`, `(height, width, channels)` or channels first."""
    if array.dtype not in (np.uint8, np.uint16):
        raise unreadable(entry, f"its values are {array.dtype}; give uint8 (0 to 255) or uint16 (0 to 65535)")
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)  # (height, width, channels)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]  # (height, width)
    if array.ndim != 2 and (array.ndim != 3 or array.shape[-1] not in (3, 4)):
        raise unreadable(entry, "its shape is not (height, width) or (height, width, 3 or 4); list several images")
    return Image.fromarray(np.ascontiguousarray(_to_8_bit(array) if array.dtype == np.uint16 else array))


__all__ = [
    "FORMATS",
    "IMAGE_KINDS",
    "ImageEntry",
    "is_tensor",
    "is_too_large",
    "open_encoded",
    "read_image",
    "refused_bombs",
    "require_resizable",
    "unreadable",
]
