"""The page that tags in the browser: its files, what it refuses, and its scores in a real browser."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import shutil
import subprocess
import threading

import pytest
from PIL import Image
from transformers import CLIPImageProcessor, pipeline

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel
from modeling_taidpt.export import web
from modeling_taidpt.export.web import export_web

from ..browser import open_browser
from ..conftest import ROOT, make_clip

IMAGES = ROOT / "examples" / "images"
EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def model():
    return TaiDptModel.from_clip(make_clip(), labels=["dog", EVIL], num_context_tokens=2).eval()


def processor(**options):
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return CLIPImageProcessor(**{**size, **options})


@pytest.mark.slow
def test_files_of_a_page(model, tmp_path):
    (tmp_path / "mine.txt").write_text("stays")
    page = export_web(model, tmp_path, cdn=True, title=EVIL, image_processor=processor())
    assert page == tmp_path / "index.html"
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    files = {"index.html", "tagger.js", "config.json", "preprocessor_config.json", "labels.json", "onnx/model.onnx"}
    assert names == files | {"mine.txt"}
    assert json.loads((tmp_path / "labels.json").read_text())["labels"] == ["dog", EVIL]
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == "multi_label_classification"
    text = page.read_text()
    assert EVIL not in text and web.CDN in text and web.LIBRARY in text


@pytest.mark.parametrize(
    ("options", "sentence"), [({"resample": 1}, "resample 1"), ({"size": {"longest_edge": 32}}, "longest_edge")]
)
def test_pixels_that_the_page_cannot_make_are_refused(model, tmp_path, monkeypatch, options, sentence):
    def write(model, output, heatmaps, image_processor):
        output.mkdir()
        (output / "labels.json").write_text("{}")
        (output / "preprocessor_config.json").write_text(json.dumps({**processor().to_dict(), **options}))

    monkeypatch.setattr(web, "export_onnx", write)
    with pytest.raises(ValueError, match=sentence):
        export_web(model, tmp_path / "page", cdn=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_npm_or_a_network_nothing_is_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ImportError, match="npm is not installed"):
        export_web(model, tmp_path / "page", image_processor=processor())
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    failed = subprocess.CompletedProcess([], 1, "", "npm error code ENOTFOUND\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: failed)
    with pytest.raises(OSError, match=r"could not fetch @huggingface/.* \(npm error code ENOTFOUND\)"):
        export_web(model, tmp_path / "page", image_processor=processor())
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ browser


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page of the checkpoint that ships, on loopback."""
    folder = tmp_path_factory.mktemp("page")
    try:
        export_web(TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT), folder)
    except (ImportError, OSError) as error:
        pytest.skip(f"needs npm and its registry: {error}")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.mark.slow
def test_scores_in_the_browser_are_those_of_python(served, tmp_path):
    photographs = [IMAGES / f"{name}.jpg" for name in ("cat", "coffee", "astronaut")]
    upright = tmp_path / "turned.png"  # transparent, turned by its EXIF data, and wider than high
    image = Image.open(photographs[0]).convert("RGBA").resize((333, 222))
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(upright, exif=exif)
    tagger = pipeline("multi-label-image-classification", model=DEFAULT_CHECKPOINT)
    with open_browser() as (tab, requests, errors):
        tab.goto(served)
        tab.wait_for_function("() => document.querySelector('#status').textContent === 'Ready: 80 labels.'")
        script = """async text => await tagPhotograph(
            new File([Uint8Array.from(atob(text), letter => letter.charCodeAt(0))], "photograph"))"""
        for photograph in [*photographs, upright]:
            found = tab.evaluate(script, base64.b64encode(photograph.read_bytes()).decode())
            expected = {row["label"]: row["score"] for row in tagger(str(photograph), top_k=80)}
            allowed = 1e-3 if photograph in photographs else 5e-3  # decoders differ in the last bit under an alpha
            assert max(abs(row["score"] - expected[row["label"]]) for row in found) < allowed, photograph
            assert [row["label"] for row in found[:3]] == list(expected)[:3]
            reached = {row["label"] for row in tagger(str(photograph), threshold="auto")}
            if photograph in photographs:
                assert {row["label"] for row in found if row["found"]} == reached

        broken = tmp_path / "broken <b>\u202e\u200b.jpg"
        broken.write_text("no image")
        tab.set_input_files("#files", [str(photographs[0]), str(broken)])
        tab.wait_for_selector("article .error")
        assert tab.text_content("article:nth-child(2) h2") == "broken <b>  .jpg"
        assert tab.inner_text("article:nth-child(1) li.found").split("\n")[0] == "cat"
        before = tab.evaluate("document.querySelector('canvas').toDataURL()")
        tab.click("article:nth-child(1) li:nth-child(2) button")
        assert tab.evaluate("document.querySelector('canvas').toDataURL()") != before
        assert errors == [] and [url for url in requests if not url.startswith((served, "data:", "blob:"))] == []
