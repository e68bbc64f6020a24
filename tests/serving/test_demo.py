"""The page: what it says to people, what it refuses to machines, and how it works in a real browser."""

from __future__ import annotations

import html
import http.server
import json
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import gradio
import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from modeling_taidpt.serving import read_results
from modeling_taidpt.serving.demo import MAX_UPLOAD, PageView, build_demo, example_photographs, launch_demo
from modeling_taidpt.serving.photograph_tagger import PhotographTagger, read_own_labels, write_table
from modeling_taidpt.serving.shown_text import escape

from ..browser import open_browser
from ..conftest import ROOT

IMAGES = ROOT / "examples" / "images"
CAT, COFFEE = str(IMAGES / "cat.jpg"), str(IMAGES / "coffee.jpg")
SPACE = ROOT / "examples" / "space"


@pytest.fixture(scope="module")
def server():
    return PhotographTagger()


@pytest.fixture
def view(server, tmp_path):
    return PageView(server, tmp_path / "cache")


@pytest.fixture(scope="module")
def page(server):
    page = launch_demo(server.tagger, prevent_thread_lock=True, quiet=True)
    yield page
    page.close()


# ------------------------------------------------------------------ functions


def test_own_labels_are_read_once_each():
    assert read_own_labels("cup,  stop   sign\nspoon,") == (["cup", "stop sign", "spoon"], [])
    assert read_own_labels(" \n") == ([], [])
    labels, notes = read_own_labels("a, Dog, dog, a, cat, dog")
    assert labels == ["a", "Dog", "cat"]
    assert notes == ["Written more than once, counted once: dog, a."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (", ,\n,", "no label between the commas"),
        ("\u3164, \u0301", "no label between the commas"),
        ("x" * 5000, "has 5000 characters, 200 are taken"),
        (", ".join(f"label {i}" for i in range(101)), "There are 101 labels, 100 are taken"),
    ],
)
def test_bad_labels_get_one_sentence(server, text, message):
    tagged, said = server.tag([CAT], text)
    assert tagged == [] and message in said and len(said) < 200


def pipeline_scores(server, file, **options):
    return [(row["label"], row["score"]) for row in server.tagger(file, center_crop=False, **options)]


def test_scores_are_those_of_the_pipeline_on_the_whole_photograph(server):
    (cat, coffee), said = server.tag([CAT, COFFEE], "")
    assert said == "" and [cat.name, coffee.name] == ["cat.jpg", "coffee.jpg"]
    for photograph in (cat, coffee):
        assert [(tag.label, tag.score) for tag in photograph.tags] == pipeline_scores(
            server, photograph.file, threshold=0
        )
        present = {row[0] for row in pipeline_scores(server, photograph.file, threshold="auto")}
        assert {tag.label for tag in photograph.tags if tag.present} == present != set()
    assert max(cat.thumbnail.size) == 400
    (cat,), said = server.tag([CAT], "newspaper, kitten, zzyzx, kitten")
    labels = ["newspaper", "kitten", "zzyzx"]
    assert [(tag.label, tag.score) for tag in cat.tags] == pipeline_scores(server, CAT, candidate_labels=labels)
    present = {row[0] for row in pipeline_scores(server, CAT, candidate_labels=labels, threshold="auto")}
    assert {tag.label for tag in cat.tags if tag.present} == present
    for sentence in ("counted once: kitten", "No prompts were learned for newspaper", "hardly saw the words zzyzx"):
        assert sentence in said
    assert server.tag(None, "cup") == server.tag([], "cup") == ([], "")


def test_what_is_shown_follows_the_threshold(server, view):
    tagged, _ = server.tag([CAT, COFFEE], "")
    best = tagged[0].tags
    chips, bars, choice = view.show_one(tagged, 0, 0.5, True)
    assert [text.rpartition(" ")[0] for text, _ in chips] == [tag.label for tag in best if tag.present]
    assert {kind for _, kind in chips} == {"found"}
    assert list(bars.items()) == [(tag.label, tag.score) for tag in best[:10]] or len(best) > 10
    assert choice.value == best[0].label and [name for name, _ in choice.choices] == [tag.label for tag in best[:10]]
    between = (best[1].score + best[2].score) / 2
    chips, *_ = view.show_one(tagged, 0, between, False)
    assert [text for text, _ in chips] == [f"{tag.label} {tag.score:.0%}" for tag in best[:2]]
    assert view.show_one(tagged, 0, 1.0, False)[0] == [("No label has this score.", None)]
    none = [tagged[0]._replace(tags=[tag._replace(present=False) for tag in best])]
    assert view.show_one(none, 0, 0.5, True)[0] == [("No label reaches its threshold.", None)]
    assert view.show_one([], 0, 0.5, True)[:2] == ([], None)
    many = view.show_one(tagged, 5, 0.0, False)[0]  # an index of photographs that are gone
    assert len(many) == 31 and many[-1] == ("and 50 more", None)


def test_labels_of_any_checkpoint_are_shown_as_text_that_hides_nothing(server, view, monkeypatch):
    tagged, _ = server.tag([CAT], "")
    labels = ["\u202egnp.exe", "x" * 900, "cat\u200b"]
    tags = [tag._replace(label=label) for tag, label in zip(tagged[0].tags, labels, strict=False)]
    tagged = [tagged[0]._replace(name="a\u202egpj.exe", tags=tags)]
    located = []
    monkeypatch.setattr(server, "locate", lambda photograph, label: located.append(label))
    chips, bars, choice = view.show_one(tagged, 0, 0.0, False)
    shown = [" gnp.exe", "x" * 199 + "…", "cat "]
    assert list(bars) == [name for name, _ in choice.choices] == shown
    assert [text.rpartition(" ")[0] for text, _ in chips] == shown
    view.locate(tagged, 0, shown[0])
    assert located == labels[:1] and view.locate(tagged, 0, labels[0]) is None
    _, table, _, _ = view.show_all(tagged, 0.0, False)
    assert table[0][:2] == ["a gpj.exe", ", ".join(shown)]
    assert escape("www.example.org") == "www&#46;example&#46;org"  # renderers make links of bare addresses


def test_all_photographs_are_shown_and_downloaded(server, view):
    tagged, _ = server.tag([CAT, COFFEE], "")
    gallery, table, download, slider = view.show_all(tagged, 0.5, False)
    assert [image.size for image, _ in gallery] == [photograph.thumbnail.size for photograph in tagged]
    wanted = [[tag for tag in photograph.tags if tag.score >= 0.5] for photograph in tagged]
    for (_, caption), row, tags, photograph in zip(gallery, table, wanted, tagged, strict=True):
        assert caption.startswith(f"{tags[0].label} {tags[0].score:.0%}")
        assert row[:2] == [photograph.name, ", ".join(tag.label for tag in tags)]
    assert slider.maximum == 1 and slider.visible and download.interactive
    rows = list(read_results(download.value["path"] if isinstance(download.value, dict) else download.value))
    assert [row.path for row in rows] == ["cat.jpg", "coffee.jpg"]
    assert [row.labels for row in rows] == [[tag.label for tag in tags] for tags in wanted]
    assert view.show_all(tagged, 1.0, False)[0][0][1] == "nothing found"
    gallery, table, download, slider = view.show_all([], 0.5, True)
    assert gallery == table == [] and not download.interactive and not slider.visible


def test_the_slider_ends_at_the_best_score_where_scores_only_rank(server, view, monkeypatch):
    tagged, _ = server.tag([CAT], "")
    small = [tagged[0]._replace(tags=[tag._replace(score=tag.score / 1000) for tag in tagged[0].tags])]
    monkeypatch.setattr(server.tagger.model.config, "score_calibration", None)
    slider = view.show_all(small, 0.5, False)[3]
    best = small[0].tags[0].score
    assert best <= slider.maximum < 1.2 * best and slider.value == slider.maximum
    assert len(view.show_one(small, 0, slider.maximum / 2, False)[0]) >= 1


def test_cells_of_the_download_are_no_formulas(tmp_path, server):
    tagged, _ = server.tag([CAT], "cup, =2+5, @SUM(A1)")
    write_table([tagged[0]._replace(name="=cmd.jpg")], 0.0, tmp_path / "tags.csv")
    text = (tmp_path / "tags.csv").read_text().splitlines()[1]
    assert text.startswith("'=cmd.jpg") and "'=2+5" in text and "'@SUM" in text
    (row,) = read_results(tmp_path / "tags.csv")
    assert row.path == "=cmd.jpg" and {"=2+5", "@SUM(A1)"} < set(row.labels)


def test_names_of_labels_and_files_are_no_markup(server, tmp_path):
    _, said = server.tag([CAT], "<img src=x onerror=alert(1)>")
    assert "<" not in said and "(" not in said
    broken = tmp_path / "[x](y)<b>.jpg"
    broken.write_text("no picture")
    _, said = server.tag([CAT, str(broken)], "")
    assert "This file cannot be read" in said and "<" not in said and "[x](" not in said


def test_labels_turn_no_text_around(server):
    assert read_own_labels("\u202egnp.exe, \x1b[31mred, 👩\u200d🚀")[0] == ["gnp.exe", "[31mred", "👩\u200d🚀"]
    assert "\u202e" not in escape("a\u202eb\x9b") and escape("<b>") == "&#60;b&#62;"


def test_heatmap_of_the_chosen_label(server, view):
    for text in ("", "kitten, sofa"):
        tagged, _ = server.tag([CAT, COFFEE], text)
        picture = view.locate(tagged, 0, tagged[0].tags[1].label)
        assert picture.size == (451, 300)
        assert np.asarray(picture)[:, :70].max() > 90  # the whole photograph is looked at
        assert view.locate(tagged, 1, tagged[1].tags[0].label).size == (600, 400)
    assert view.locate(tagged, 0, "no label of these") is None
    assert view.locate([], 0, "sofa") is None
    gone = [tagged[0]._replace(file=str(ROOT / "gone.jpg"))]
    with pytest.raises(gradio.Error, match="deleted after an hour"):
        view.locate(gone, 0, "sofa")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture at all", "it is not an image, or not of a format that is read here"),
        (Path(CAT).read_bytes()[:9000], "it is broken or cut off"),
        (b"", "it is not an image"),
    ],
)
def test_broken_files_get_one_sentence_without_paths(server, tmp_path, content, message):
    file = tmp_path / "secret-folder" / "photo.jpg"
    file.parent.mkdir()
    file.write_bytes(content)
    tagged, said = server.tag([str(file)], "cup")
    assert tagged == [] and "This file cannot be read" in said and message in said
    assert "secret" not in said and "\n" not in said
    tagged, said = server.tag([CAT, str(file), COFFEE], "cup")  # the others are tagged all the same
    assert [photograph.name for photograph in tagged] == ["cat.jpg", "coffee.jpg"]
    assert "photo.jpg: This file cannot be read" in html.unescape(said) and "secret" not in said
    assert [tag.label for tag in tagged[1].tags] == ["cup"]


def test_odd_photographs_are_read_and_huge_ones_refused(server, tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (12000, 10000)).save(bomb)  # 120 million pixels in a few kB
    tagged, said = server.tag([str(bomb)], "")
    assert tagged == [] and "has more than 40 million pixels" in said
    Image.new("1", (20000, 10000)).save(bomb)  # Pillow itself refuses it
    assert "has more than 40 million pixels" in server.tag([str(bomb)], "")[1]
    cmyk = tmp_path / "cmyk.jpg"
    Image.open(CAT).convert("CMYK").save(cmyk)
    grey = tmp_path / "grey.png"
    Image.fromarray(np.asarray(Image.open(CAT).convert("L")).astype(np.uint16) * 257).save(grey)
    for photograph in server.tag([str(cmyk), str(grey)], "")[0]:
        assert photograph.tags[0].label == "cat"


def test_photographs_over_the_limit_are_left_out_and_said(server, tmp_path):
    small = tmp_path / "small.jpg"
    Image.new("RGB", (32, 32)).save(small)
    tagged, said = server.tag([str(small)] * 30, "cup, spoon")
    assert len(tagged) == 24 and "There are 30 photographs, 24 are taken at once" in said


def test_missing_gradio_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r'run `pip install "taidpt\[demo\]"`'):
        build_demo()


# ------------------------------------------------------------------ server


def ask(page, function: int, data: list) -> dict:
    """Sends a request as the page would, and returns the last event of its answer."""
    session = uuid.uuid4().hex
    body = {"data": data, "fn_index": function, "session_hash": session}
    with httpx.Client(base_url=page.local_url, timeout=60) as client:
        answer = client.post("/gradio_api/queue/join", json=body)
        if answer.status_code != 200:
            return {"success": False, "output": {"error": answer.text}}
        with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as events:
            for line in events.iter_lines():
                event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if event.get("msg") == "process_completed":
                    return event
    raise AssertionError("no answer")


@pytest.fixture
def address():
    """A server on this machine that counts what is fetched from it."""
    hits = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(Path(CAT).read_bytes())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{service.server_port}/photo.jpg", hits
        service.shutdown()


def functions_with_photograph(page) -> list[tuple[int, list]]:
    """Every function of the page that takes the photograph, with its other inputs."""
    config = httpx.get(page.local_url.rstrip("/") + "/config").json()
    uploads = {part["id"] for part in config["components"] if part["type"] in ("file", "image", "gallery")}
    return [(entry["id"], entry["inputs"]) for entry in config["dependencies"] if uploads & set(entry["inputs"])]


def test_requests_that_name_an_address_or_a_server_path_are_refused(page, address, monkeypatch):
    url, hits = address
    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", None)  # ours must come first
    meta = {"_type": "gradio.FileData"}
    data = "data:image/jpeg;base64,/9j/4AAQ"
    functions = functions_with_photograph(page)
    assert functions
    for function, inputs in functions:
        for photograph in (
            {"path": url, "meta": meta},
            {"path": url, "url": url, "meta": meta},
            {"path": "ftp://127.0.0.1/photo.jpg", "meta": meta},
            {"path": "/etc/passwd", "meta": meta},
            {"path": CAT, "meta": meta},
            {"path": CAT},
            {"path": url},
            {"path": None, "url": url, "meta": meta},
            {"path": None, "url": data, "meta": meta},
            {"path": str(ROOT), "meta": meta},
            url,
            CAT,
        ):
            for sent in (photograph, [photograph], [{"path": CAT, "meta": meta}, photograph]):
                event = ask(page, function, [sent, *[None for _ in inputs[1:]]])
                assert event["success"] is False, (function, sent)
                assert "root:" not in json.dumps(event)
    assert hits == []
    event = ask(page, functions[0][0], [[{"path": url, "meta": meta}], ""])
    assert event["output"]["error"] == "Upload the photograph: addresses are not fetched here."


def test_uploads_are_limited_and_other_files_not_served(page):
    with httpx.Client(base_url=page.local_url, timeout=60) as client:
        large = client.post("/gradio_api/upload", files={"files": ("large.jpg", b"x" * (MAX_UPLOAD + 1))})
        assert large.status_code == 413
        for path in ("/etc/passwd", CAT, str(ROOT / "pyproject.toml")):
            assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)
        small = client.post("/gradio_api/upload", files={"files": ("cat.jpg", Path(CAT).read_bytes())})
        photograph = {"path": small.json()[0], "meta": {"_type": "gradio.FileData"}}
        event = ask(page, functions_with_photograph(page)[0][0], [[photograph], "kitten, , 'sofa"])
    assert event["success"] is True
    assert "No prompts were learned for kitten" in event["output"]["data"][1]


# ------------------------------------------------------------------ Space


def test_space_works_as_it_stands():
    header = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (SPACE / header["app_file"]).is_file() and header["sdk"] == "gradio"
    assert len(header["short_description"]) <= 60
    assert (SPACE / "requirements.txt").read_text().split() == ["taidpt[demo]"]
    assert int(header["sdk_version"].split(".")[0]) >= 6
    assert 'demo = ["gradio>=6"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = sorted(path.name for path in IMAGES.glob("*.jpg") if path.name != "coffee.jpg")
    assert [Path(path).name for path in example_photographs()] == ["coffee.jpg", *names]


@pytest.mark.slow
def test_space_serves_the_page(tmp_path):
    code = "import runpy, gradio; gradio.Blocks.launch = lambda page, **options: print(sorted(options), page.title); "
    code += "runpy.run_path('app.py', run_name='__main__')"
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=SPACE, env=environment, capture_output=True, text=True, timeout=300)
    assert output.returncode == 0, output.stderr[-2000:]
    assert "max_file_size" in output.stdout and "Tag photographs with your own labels" in output.stdout


# ------------------------------------------------------------------ browser


@pytest.fixture
def browser_page(page):
    with open_browser() as (tab, requests, _):
        open_page(tab, page)
        yield tab, requests


def wait_for_choices(tab, labels):
    script = "wanted => [...document.querySelectorAll('#choice label')].map(x => x.innerText.trim()).join() == wanted"
    tab.wait_for_function(script, arg=",".join(labels))


def wait_for_chips(tab, view, tagged, index, threshold, own):
    wanted = ",".join(text for text, _ in view.show_one(tagged, index, threshold, own)[0])
    script = "wanted => [...document.querySelectorAll('#found .text')].map(x => x.innerText.trim()).join() == wanted"
    tab.wait_for_function(script, arg=wanted)
    return wanted


def open_page(tab, page):
    """Opens the page and waits until its examples are tagged."""
    tab.goto(page.local_url)
    tab.wait_for_selector("#heatmap img")


@pytest.mark.slow
def test_labels_are_text_in_a_browser(browser_page, address, page):
    """Neither chips, bars, gallery, table, choices nor messages run, fetch or lay out what a label says."""
    tab, requests = browser_page
    url, hits = address
    labels = [f"<img src={url} onerror=window.owned=1>", f"![x]({url})", "[x](javascript:window.owned=2)"]
    labels += ["<script>window.owned=3</script>", "<b>bold</b>", "{{7*7}}", "\u202egnp.exe"]
    tab.click("label:has-text('Thresholds of the checkpoint')")
    tab.wait_for_selector("#threshold input[type=number]")
    tab.fill("#threshold input[type=number]", "0")  # all are found
    tab.keyboard.press("Tab")
    tab.fill("#labels textarea", "\n".join(labels))
    tab.click("#tag")
    tab.wait_for_function(f"document.querySelectorAll('#choice label').length == {len(labels)}")
    shown = {choice.inner_text().strip() for choice in tab.query_selector_all("#choice label")}
    assert shown == {*labels[:-1], "gnp.exe"}
    tab.click("button:has-text('All results as a table')")
    tab.wait_for_selector("#table [role=gridcell]:visible")
    tab.wait_for_timeout(1000)
    made = "#choice, #found, #message, #scores, #table, #gallery .caption-label"
    tags = ", ".join(f":is({made}) {tag}" for tag in ("img", "a", "b", "script"))
    assert tab.evaluate(f"document.querySelectorAll('{tags}').length") == 0
    assert tab.evaluate("window.owned") is None and hits == []
    assert not [url for url in requests if not url.startswith((page.local_url, "data:", "blob:"))]


@pytest.mark.slow
def test_page_opens_with_tagged_examples(browser_page, server, view):
    tab, _ = browser_page
    tagged, _ = server.tag(example_photographs(), "")
    wait_for_choices(tab, [tag.label for tag in tagged[0].tags[:10]])
    wait_for_chips(tab, view, tagged, 0, 0.5, server.has_thresholds)
    bars = tab.evaluate("[...document.querySelectorAll('#scores dl')].map(x => x.innerText.replace(/\\s+/g, ' '))")
    assert bars == [f"{tag.label} {tag.score:.0%}" for tag in tagged[0].tags[:10]]
    assert tab.locator("#gallery .gallery-item").count() == len(tagged)
    if os.environ.get("TAIDPT_SCREENSHOT"):  # a file to look at, and the picture in docs/images
        tab.wait_for_timeout(1000)
        tab.screenshot(path=os.environ["TAIDPT_SCREENSHOT"], full_page=True)
    before = tab.get_attribute("#heatmap img", "src")
    tab.click("#gallery .gallery-item:nth-child(2) button")  # another photograph
    wait_for_choices(tab, [tag.label for tag in tagged[1].tags[:10]])
    tab.wait_for_function("old => document.querySelector('#heatmap img')?.src != old", arg=before)
    before = tab.get_attribute("#heatmap img", "src")
    tab.click("#scores button:nth-of-type(2)")  # the bar of another label shows where it is
    tab.wait_for_function("old => document.querySelector('#heatmap img')?.src != old", arg=before)
    assert tab.input_value("#choice input:checked") == tagged[1].tags[1].label


@pytest.mark.slow
def test_page_in_a_browser(browser_page, server, view, page, tmp_path):
    tab, requests = browser_page
    own = server.has_thresholds
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    tab.click("#photographs [aria-label='Clear']")
    tab.wait_for_function("document.querySelectorAll('#gallery .gallery-item').length == 0")
    tab.set_input_files("#photographs input[type=file]", [CAT, str(broken), COFFEE])  # several at once
    tagged, _ = server.tag([CAT, COFFEE], "")
    wait_for_choices(tab, [tag.label for tag in tagged[0].tags[:10]])
    wait_for_chips(tab, view, tagged, 0, 0.5, own)
    assert "broken.jpg: This file cannot be read" in tab.inner_text("#message")
    assert tab.locator("#gallery .gallery-item").count() == 2

    if own:  # the slider takes the place of the checkpoint's thresholds
        tab.click("label:has-text('Thresholds of the checkpoint')")
    tab.wait_for_selector("#threshold input[type=range]")
    seen = set()
    for value in ("0.05", "0.4"):
        tab.fill("#threshold input[type=number]", value)
        tab.keyboard.press("Tab")
        seen.add(wait_for_chips(tab, view, tagged, 0, float(value), False))
    assert len(seen) == 2
    with tab.expect_download() as download:  # what the slider leaves is what the file holds
        tab.click("#download")
    rows = list(read_results(download.value.path().rename(tmp_path / "tags.csv")))
    assert [row.path for row in rows] == ["cat.jpg", "coffee.jpg"]
    assert rows[0].labels == [tag.label for tag in tagged[0].tags if tag.score >= 0.4]
    if own:
        tab.click("label:has-text('Thresholds of the checkpoint')")

    tab.fill("#labels textarea", "newspaper, kitten, Kitten")  # own labels change the scores
    tab.click("#tag")
    wait_for_choices(tab, ["kitten", "newspaper"])
    tagged, _ = server.tag([CAT, COFFEE], "newspaper, kitten")
    wait_for_chips(tab, view, tagged, 0, 0.4, own)
    assert "counted once: Kitten" in tab.inner_text("#message")

    tab.click("#examples")  # the examples and the checkpoint's labels again
    tagged, _ = server.tag(example_photographs(), "")
    wait_for_choices(tab, [tag.label for tag in tagged[0].tags[:10]])
    assert tab.input_value("#labels textarea") == ""
    outside = [url for url in requests if not url.startswith((page.local_url, "data:", "blob:"))]
    assert outside == []
