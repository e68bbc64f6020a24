"""The gallery: what it holds, what it refuses, and how it works in a real browser from a disk."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from modeling_taidpt.data.sources import open_images
from modeling_taidpt.serving import thumbnails
from modeling_taidpt.serving.formats import SCHEMA, TaggedImage, write_rows
from modeling_taidpt.serving.gallery import write_gallery
from taidpt_cli.app import app

from ..browser import open_browser

EVIL = "<img src=x onerror=alert(1)>"


def picture(path: Path, color: str, size=(60, 40), **options) -> str:
    Image.new("RGB", size, color).save(path, **options)
    return str(path)


def write_results(path: Path, rows: list[TaggedImage]) -> Path:
    write_rows(pa.Table.from_pylist([row._asdict() for row in rows], schema=SCHEMA), path)
    return path


@pytest.fixture
def results(tmp_path) -> Path:
    """Six rows: two with labels, one without, one broken since, one broken when it was tagged, one with evil names."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "broken.jpg").write_text("no image")
    evil = picture(photos / "<b>&'%23 ü.png", "green")
    rows = [
        TaggedImage(picture(photos / "a.jpg", "red"), ["cat", "dog"], [0.9, 0.3], None),
        TaggedImage(picture(photos / "b.jpg", "blue"), ["dog", "cat"], [0.8, 0.6], None),
        TaggedImage(picture(photos / "c.jpg", "gray"), ["cat", "dog"], [0.2, 0.1], None),
        TaggedImage(str(photos / "broken.jpg"), ["cat"], [0.7], None),
        TaggedImage("gone.jpg", [], [], "cannot read image 'gone.jpg': there is no such file."),
        TaggedImage(evil, [EVIL, "</script><script>alert(2)</script>"], [0.95, 0.55], None),
    ]
    return write_results(tmp_path / "tags.parquet", rows)


def chunks(folder: Path) -> list[dict]:
    scripts = sorted(folder.glob("data-*/chunk-*.js"))
    return [json.loads(path.read_text().removeprefix("addRows(").removesuffix(");\n")) for path in scripts]


def unpacked(text: str) -> list[int]:
    return np.frombuffer(base64.b64decode(text), "<u2").tolist()


def test_folder_holds_page_data_and_thumbnails(results, tmp_path):
    report = write_gallery(results, progress=False)
    folder = tmp_path / "tags_gallery"
    assert (report.images, report.errors, report.index) == (6, 2, str(folder / "index.html"))
    (chunk,) = chunks(folder)
    assert unpacked(chunk["sizes"]) == [2, 2, 2, 1, 0, 2]
    assert unpacked(chunk["labels"])[:5] == [0, 1, 1, 0, 0]
    assert unpacked(chunk["scores"])[:2] == [58950, 19650]
    assert sorted(chunk["errors"]) == ["3", "4"] and "not an image" in chunk["errors"]["3"]
    assert [bool(name) for name in chunk["thumbs"]] == [True, True, True, False, False, True]
    assert chunk["full"][0] == "../photos/a.jpg" and "<" not in chunk["full"][5]
    with Image.open(folder / chunk["thumbs"][0]) as image:
        assert image.size == (60, 40)
    assert not [path for path in folder.rglob(".*") if path.name != ".nomedia"]


def test_thumbnails_are_small_upright_and_without_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    path = picture(tmp_path / "large.jpg", "red", (3000, 2000), exif=exif)
    write_gallery(write_results(tmp_path / "tags.jsonl", [TaggedImage(path, [], [], None)]), progress=False)
    (thumbnail,) = (tmp_path / "tags_gallery" / "thumbs").glob("*/*.jpg")
    with Image.open(thumbnail) as image:
        assert image.size == (240, 360) and not image.getexif()


def test_a_second_gallery_keeps_thumbnails_and_drops_what_it_does_not_use(results, tmp_path, monkeypatch):
    folder = tmp_path / "tags_gallery"
    write_gallery(results, progress=False)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("thumbs/*/*.jpg")}
    assert len(before) == 4
    opened = []
    open_small = thumbnails._open_small
    monkeypatch.setattr(thumbnails, "_open_small", lambda item: opened.append(item.name) or open_small(item))
    picture(tmp_path / "photos" / "a.jpg", "yellow", (80, 40))
    write_gallery(results, progress=False)
    assert sorted(Path(name).name for name in opened) == ["a.jpg", "broken.jpg"]
    after = {path: path.stat().st_mtime_ns for path in folder.glob("thumbs/*/*.jpg")}
    assert len(after) == 4 and len(set(before.items()) & set(after.items())) == 3
    assert len(list(folder.glob("data-*"))) == 1


def test_a_killed_run_leaves_the_earlier_gallery_whole(results, tmp_path, monkeypatch):
    folder = tmp_path / "tags_gallery"
    write_gallery(results, progress=False)
    page = (folder / "index.html").read_bytes()

    def killed(item):
        raise KeyboardInterrupt

    for path in folder.glob("thumbs/*/*.jpg"):
        path.unlink()
    monkeypatch.setattr(thumbnails, "_open_small", killed)
    with pytest.raises(KeyboardInterrupt):
        write_gallery(results, progress=False)
    assert (folder / "index.html").read_bytes() == page
    assert [path.name for path in folder.glob("data-*")] == re.findall(rb"data-[0-9a-f]{8}", page)[0].decode().split()


def test_what_cannot_be_a_gallery_is_one_sentence(results, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_gallery(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="give a score from 0 to 1"):
        write_gallery(results, threshold=2)
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<p>my page</p>")
    with pytest.raises(ValueError, match="is not the page of a gallery"):
        write_gallery(results, site)
    assert [path.name for path in site.iterdir()] == ["index.html"]
    moved = write_results(tmp_path / "moved.csv", [TaggedImage("elsewhere/a.jpg", ["cat"], [0.9], None)])
    with pytest.raises(FileNotFoundError, match=r"None of the images .* is there, as 'elsewhere/a.jpg'"):
        write_gallery(moved, progress=False)
    assert not (tmp_path / "moved_gallery" / "index.html").exists()


def test_a_page_that_is_no_file_is_not_waited_for(results, tmp_path):
    (tmp_path / "page").mkdir()
    os.mkfifo(tmp_path / "page" / "index.html")
    with pytest.raises(ValueError, match="is not the page of a gallery"):
        write_gallery(results, tmp_path / "page", progress=False)


def test_no_text_of_a_page_hides_or_turns_around(tmp_path):
    """Signs that are not seen or turn the direction of all that follows, and labels of a whole page."""
    path = picture(tmp_path / "photo\u202egpj.exe\u200b.png", "red")
    labels = ["\u202egnp.exe", "a\u200bb\x1b", "x" * 10_000, "e\u0301 \u200d 🏳️\u200d🌈"]
    rows = [TaggedImage(path, labels, [0.9, 0.8, 0.7, 0.6], None)]
    rows.append(TaggedImage("gone.png", [], [], "cannot read \u202ex\u2028."))
    report = write_gallery(write_results(tmp_path / "tags.parquet", rows), title="Photos \u202ex", progress=False)
    (chunk,) = chunks(tmp_path / "tags_gallery")
    assert chunk["paths"][0].endswith("photo gpj.exe .png") and chunk["errors"]["1"] == "cannot read  x ."
    page = Path(report.index).read_text()
    meta = json.loads(re.search(r'id="meta">(.*?)</script>', page)[1])
    assert meta["labels"] == [" gnp.exe", "a b ", "x" * 199 + "…", labels[3]] and "\u202e" not in page
    assert "%E2%80%AE" in chunk["full"][0]  # the address is that of the file


def test_images_of_an_archive(results, tmp_path):
    archive = tmp_path / "photos.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            tar.add(tmp_path / "photos" / name, name)
    rows = [TaggedImage(f"{archive}/{name}", ["cat"], [0.9], None) for name in ("a.jpg", "c.jpg", "d.jpg")]
    report = write_gallery(write_results(tmp_path / "tar.csv", rows), images=[str(archive)], progress=False)
    assert (report.images, report.errors) == (3, 1)
    (chunk,) = chunks(tmp_path / "tar_gallery")
    assert chunk["full"] == ["", "", ""] and [bool(name) for name in chunk["thumbs"]] == [True, True, False]


def test_commands(results, tmp_path):
    done = CliRunner().invoke(app, ["gallery", str(results), "--json", "--output", str(tmp_path / "page")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"images": 6, "errors": 2, "index": str(tmp_path / "page" / "index.html")}
    command = ["tag", str(tmp_path / "photos"), "-o", str(tmp_path / "new.csv"), "--labels", "cat, dog", "--gallery"]
    done = CliRunner().invoke(app, [*command, "--num-workers", "0", "--threshold", "0"])
    assert done.exit_code == 0, done.output
    assert f"Open the gallery in a browser: {tmp_path / 'new_gallery' / 'index.html'}" in done.stderr
    page = (tmp_path / "new_gallery" / "index.html").read_text()
    assert json.loads(re.search(r'id="meta">(.*?)</script>', page)[1])["threshold"] == 0


# ------------------------------------------------------------------ browser


def names(tab) -> list[str]:
    return tab.eval_on_selector_all("#grid .file", "all => all.map(one => one.textContent)")


def move_slider(tab, value: float) -> None:
    script = "([slider, value]) => { slider.value = value; slider.dispatchEvent(new Event('input')); }"
    tab.evaluate(script, [tab.query_selector("#threshold"), value])
    tab.wait_for_function("value => document.querySelector('#least').textContent === value", arg=f"{value:.2f}")


@pytest.mark.slow
def test_gallery_in_a_browser_from_a_disk(results, tmp_path):
    index = write_gallery(results, title=f"Photos {EVIL}", progress=False).index
    with open_browser() as (tab, requests, errors):
        tab.on("dialog", lambda dialog: errors.append(dialog.message))
        tab.goto(Path(index).as_uri())
        tab.wait_for_selector("#grid button")
        assert tab.inner_text("h1") == f"Photos {EVIL}" and tab.query_selector("h1 img") is None
        assert tab.inner_text("#status") == "6 of 6 images"
        groups = {"all": 6, "labels": 4, "nothing": 1, "errors": 2}
        assert {name: int(tab.inner_text(f"#group-{name}").split()[-1]) for name in groups} == groups
        bars = tab.eval_on_selector_all("#labels button", "all => all.map(one => one.innerText.split('\\n'))")
        assert bars[0] == ["cat", "3"] and [EVIL, "1"] in bars
        assert tab.eval_on_selector("#grid .chip", "chip => chip.textContent") == "cat0.90"

        move_slider(tab, 0.9)  # filters at once, and a score equal to it is kept
        assert tab.inner_text("#group-labels") == "With labels 2"
        move_slider(tab, 0.5)
        tab.click("#group-errors")
        assert names(tab) == ["broken.jpg", "gone.jpg"] and "there is no such file" in tab.inner_text("#grid")
        tab.click("#group-nothing")
        assert names(tab) == ["c.jpg"]
        tab.click("#group-all")
        tab.click("#labels button:has-text('dog')")
        assert names(tab) == ["b.jpg"]
        tab.click("#chosen button")
        tab.select_option("#sort", label="Score of dog")
        assert names(tab)[:3] == ["b.jpg", "a.jpg", "c.jpg"]
        tab.select_option("#sort", "")

        tab.focus("#grid li:first-child button")  # by keyboard alone
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "Enter"):
            tab.keyboard.press(key)
        assert tab.inner_text("#name").endswith("b.jpg")
        for _ in range(4):
            tab.keyboard.press("ArrowRight")
        assert "<b>&'%23 ü.png" in tab.inner_text("#name") and tab.inner_text("#chips .chip").startswith(EVIL)
        wait = "() => document.querySelector('#photo').complete && document.querySelector('#photo').naturalWidth"
        tab.wait_for_function(wait)
        assert tab.get_attribute("#photo", "src").startswith("../photos/")  # the image itself, not its thumbnail
        tab.keyboard.press("Escape")
        tab.wait_for_function("() => document.activeElement.dataset.position === '5'")

        (tmp_path / "photos" / "a.jpg").unlink()  # moved since: the thumbnail is shown
        tab.click("#grid li:first-child button")
        tab.wait_for_function("() => document.querySelector('#photo').getAttribute('src').startsWith('thumbs/')")
        assert errors == [] and [url for url in requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.slow
def test_gallery_on_a_phone(results):
    index = write_gallery(results, progress=False).index
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with open_browser(**phone) as (tab, _, errors):
        tab.goto(Path(index).as_uri())
        tab.wait_for_selector("#grid button")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert not tab.is_visible("#labels")
        tab.tap("summary")
        assert tab.is_visible("#labels")
        tab.tap("#grid li:nth-child(2) button")
        swipe = """([from, to]) => { const frame = document.querySelector('#frame');
            const touch = x => new Touch({identifier: 1, target: frame, clientX: x, clientY: 100});
            frame.dispatchEvent(new TouchEvent('touchstart', {touches: [touch(from)], changedTouches: [touch(from)]}));
            frame.dispatchEvent(new TouchEvent('touchend', {touches: [], changedTouches: [touch(to)]})); }"""
        tab.evaluate(swipe, [300, 100])
        assert tab.inner_text("#name").endswith("c.jpg")
        tab.tap("#close")
        assert errors == []


@pytest.mark.slow
def test_fifty_thousand_images_do_not_freeze_the_page(tmp_path):
    path = picture(tmp_path / "a.jpg", "red")
    generator = np.random.default_rng(0)
    labels = np.array([f"label {number}" for number in range(80)])
    order = generator.permuted(np.tile(np.arange(80), (1000, 1)), axis=1)  # (rows, labels)
    scores = np.sort(generator.random((1000, 80)) ** 4, axis=1)[:, ::-1]  # (rows, labels)
    values = {"path": [path] * 1000, "labels": labels[order].tolist(), "scores": scores.tolist()}
    table = pa.table({**values, "error": pa.nulls(1000, pa.string())}, schema=SCHEMA)
    write_rows(iter([table] * 50), tmp_path / "tags.parquet")
    report = write_gallery(tmp_path / "tags.parquet", progress=False)
    assert report.images == 50_000
    with open_browser() as (tab, _, errors):
        tab.goto(Path(report.index).as_uri())
        tab.wait_for_selector("#grid button", timeout=5_000)  # the first images are there before all are loaded
        tab.wait_for_function("() => document.querySelector('#status').textContent === '50,000 of 50,000 images'")
        assert tab.locator("#grid li").count() == 120
        script = """values => { const slider = document.querySelector('#threshold'); const times = [];
            for (const value of values) { slider.value = value; const start = performance.now(); first();
            times.push(performance.now() - start); } return Math.max(...times); }"""
        assert tab.evaluate(script, [0.9, 0.5, 0.1, 0.0]) < 1500  # milliseconds; 20 times what an idle machine takes
        tab.fill("#page", "417")
        tab.press("#page", "Enter")
        assert tab.locator("#grid li").count() == 80 and errors == []


def test_a_gallery_beside_photographs_does_not_hide_them(results, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    picture(folder / "own.jpg", "red")
    write_gallery(results, folder, progress=False)
    assert [item.name for item in open_images(folder)] == [str(folder / "own.jpg")]


@pytest.mark.parametrize("images", ["missing", "notes.xyz"])
def test_a_wrong_source_leaves_no_folder(results, tmp_path, images):
    (tmp_path / "notes.xyz").write_text("")
    with pytest.raises((FileNotFoundError, ValueError), match=images):
        write_gallery(results, tmp_path / "new", images=[str(tmp_path / images)], progress=False)
    assert not (tmp_path / "new").exists()


def test_rows_without_their_images_leave_no_folder(results, tmp_path):
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(FileNotFoundError, match="None of the images"):
        write_gallery(results, tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_not_taken_for_broken_images(results, tmp_path, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="The disk is full"):
        write_gallery(results, tmp_path / "page", progress=False)
