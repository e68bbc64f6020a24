"""Images that somebody made to do harm: programs, servers that never end, pipes."""

from __future__ import annotations

import ast
import base64
import gzip
import http.server
import os
import threading
import time
from io import BytesIO

import datasets
import pytest
from PIL import EpsImagePlugin, Image, UnidentifiedImageError
from transformers.pipelines.pt_utils import KeyDataset

from modeling_taidpt.data.collator import open_image
from modeling_taidpt.pipelines import image_reading
from modeling_taidpt.pipelines.image_reading import FORMATS, open_encoded

from ..conftest import ROOT
from .conftest import LABELS, encoded, picture

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 30 30
%%EndComments
(owned) print
%%EOF
"""


@pytest.fixture
def ghostscript(monkeypatch):
    """What Ghostscript would have been asked to do."""
    calls = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: calls.append(args))
    return calls


@pytest.mark.parametrize("name", ["image.jpg", "image.eps", "image.png", "image.ai"])
def test_postscript_reaches_no_other_program(pipe, tmp_path, ghostscript, name):
    path = tmp_path / name
    path.write_bytes(POSTSCRIPT)
    text = base64.b64encode(POSTSCRIPT).decode()
    entry = {"bytes": POSTSCRIPT, "path": name}
    column = datasets.Dataset.from_dict({"image": [entry]}).cast_column("image", datasets.Image())
    forms = [str(path), POSTSCRIPT, BytesIO(POSTSCRIPT), text, f"data:image/png;base64,{text}", entry]
    forms += [Image.open(path), [str(path)], column["image"], KeyDataset(column, "image")]
    for form in forms:
        with pytest.raises(ValueError, match="cannot read image"):
            list(pipe(form))
    for form in (str(path), POSTSCRIPT, Image.open(path)):
        with pytest.raises(ValueError, match="cannot read image"):
            open_image(form)
    assert ghostscript == []


def test_every_format_that_is_read_is_read_still(pipe):
    expected = len(LABELS)
    for kind in FORMATS:
        if kind in Image.SAVE and kind in Image.OPEN and kind not in ("DDS", "ICNS"):  # saved at fixed sizes or modes
            assert len(pipe(encoded(picture(), kind))) == expected, kind
    for kind in ("EPS", "PDF", "BUFR", "GRIB", "HDF5", "WMF", "IPTC", "SPIDER"):
        assert kind not in FORMATS


def test_every_file_is_opened_with_a_list_of_formats():
    """`Image.open` alone takes whatever Pillow knows."""
    folders = ("modeling_taidpt", "pipelines", "cli", "hub_cards", "examples", "benchmarks")
    wrong = []
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open"):
                wrong += [f"{path}:{node.lineno}"] * all(keyword.arg != "formats" for keyword in node.keywords)
    assert not wrong
    with pytest.raises(UnidentifiedImageError):
        open_encoded(BytesIO(POSTSCRIPT))


def test_a_pipe_is_not_waited_for(pipe, tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match="not a regular file"):
        pipe(str(tmp_path / "x.jpg"))


class _Endless(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            if self.path == "/silent.png":
                self.server.over.wait(20)
                return
            if self.path == "/slow_head.png":
                for byte in b"HTTP/1.0 200 OK\r\nX-Slow: " + b"x" * 200:
                    self.wfile.write(bytes([byte]))
                    if self.server.over.wait(0.1):
                        return
            if self.path == "/turning.png":
                self.server.over.wait(0.1)
                self.send_response(302)
                self.send_header("Location", "/turning.png")
                self.end_headers()
                return
            self.send_response(200)
            if self.path == "/large.png":
                self.send_header("Content-Length", str(10**12))
            packed = gzip.compress(bytes(5_000_000)) if self.path.startswith("/packed") else b""
            if packed:
                twice = self.path == "/packed_twice.png"
                self.send_header("Content-Encoding", "gzip, gzip" if twice else "gzip")
                self.end_headers()
                self.wfile.write(gzip.compress(packed) if twice else packed)
                return
            self.end_headers()
            while not self.server.over.is_set():
                self.wfile.write(b"x" * (1 if self.path == "/slow.png" else 2**16))
                if self.path == "/slow.png":
                    self.server.over.wait(0.1)
        except OSError:
            pass

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def endless():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        server.over, server.daemon_threads = threading.Event(), True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.over.set()
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("silent", "took longer than 1 seconds"),
        ("slow_head", "took longer than 1 seconds"),
        ("slow", "took longer than 1 seconds"),
        ("turning", "took longer than 1 seconds"),
        ("endless", "sends more than 1000000 bytes"),
        ("large", "sends more than 1000000 bytes"),
        ("packed", "sends more than 1000000 bytes"),
        ("packed_twice", "sends it packed"),
    ],
)
def test_a_server_costs_limited_time_and_memory_by_default(pipe, endless, monkeypatch, name, reason):
    monkeypatch.setattr(image_reading, "DOWNLOAD_SECONDS", 1)
    monkeypatch.setattr(image_reading, "DOWNLOAD_BYTES", 1_000_000)
    started = time.monotonic()
    with pytest.raises(ValueError, match=rf"{name}\.png': the server {reason}"):
        pipe(f"{endless}/{name}.png")
    assert time.monotonic() - started < 4


def test_the_limits_are_those_that_the_documentation_names():
    assert (image_reading.DOWNLOAD_SECONDS, image_reading.DOWNLOAD_BYTES) == (30, 100 * 2**20)
