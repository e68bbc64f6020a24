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

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from modeling_taidpt.serving.demo import (
    MAX_UPLOAD,
    PhotographTagger,
    build_demo,
    escape,
    example_photographs,
    launch_demo,
    read_own_labels,
)

from ..browser import open_browser
from ..conftest import ROOT

IMAGES = ROOT / "examples" / "images"
CAT = str(IMAGES / "cat.jpg")
SPACE = ROOT / "examples" / "space"


@pytest.fixture(scope="module")
def server():
    return PhotographTagger()


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
        ("x" * 5000, "has 5000 characters, 200 are taken"),
        (", ".join(f"label {i}" for i in range(101)), "There are 101 labels, 100 are taken"),
    ],
)
def test_bad_labels_get_one_sentence(server, text, message):
    tags, said = server.tag(CAT, text)
    assert tags == [] and message in said and len(said) < 200


def test_scores_are_those_of_the_pipeline(server):
    tags, said = server.tag(CAT, "")
    assert said == "" and len(tags) == 80 and tags[0].label == "cat"
    assert [(tag.label, tag.score) for tag in tags] == [(row["label"], row["score"]) for row in server.tagger(CAT)]
    tags, said = server.tag(CAT, "newspaper, kitten, zzyzx, kitten")
    assert {tag.label for tag in tags} == {"newspaper", "kitten", "zzyzx"} and tags[0].label == "kitten"
    for sentence in ("counted once: kitten", "No prompts were learned for newspaper", "hardly saw the words zzyzx"):
        assert sentence in said
    assert server.tag(None, "cup") == ([], "")


def test_what_is_shown_follows_the_threshold(server):
    tags, _ = server.tag(CAT, "")
    heading, chart, choice, slider = server.show(tags, 0, False)
    assert heading == "### cat" and choice.value == "cat" and len(choice.choices) == 10
    assert tags[0].score <= slider.maximum < 1.2 * tags[0].score
    data = chart.value["data"] if isinstance(chart.value, dict) else chart.value.data
    assert [row[0] for row in data] == [tag.label for tag in tags[:10]] and {row[2] for row in data} == {"reached"}
    between = (tags[1].score + tags[2].score) / 2
    heading, chart, *_ = server.show([list(tag) for tag in tags], between, False)  # as the browser sends them
    assert heading == f"### {tags[0].label} · {tags[1].label}"
    data = chart.value["data"] if isinstance(chart.value, dict) else chart.value.data
    assert [row[2] for row in data] == ["reached"] * 2 + ["below"] * 8
    heading, *_, slider = server.show([tag._replace(present=False) for tag in tags], 0, True)
    assert heading == "### No label reaches the threshold" and not slider.visible
    assert server.show([], 0.5, False)[0] == ""


def test_names_of_labels_are_no_markup(server):
    tags, said = server.tag(CAT, "<img src=x onerror=alert(1)>")
    heading = server.show(tags, 0, False)[0]
    assert "<" not in said + heading and "(" not in said + heading


def test_labels_turn_no_text_around(server):
    assert read_own_labels("\u202egnp.exe, \x1b[31mred, 👩\u200d🚀")[0] == ["gnp.exe", "[31mred", "👩\u200d🚀"]
    assert "\u202e" not in escape("a\u202eb\x9b") and escape("<b>") == "&#60;b&#62;"


def test_heatmap_of_the_chosen_label(server):
    for text in ("", "kitten, sofa"):
        tags, _ = server.tag(CAT, text)
        picture = server.locate(CAT, tags, tags[1].label)
        assert picture.size == (451, 300)
        assert np.asarray(picture)[:, :70].max() <= 90  # cropped away: dark
    assert server.locate(CAT, tags, "no label of these") is None
    assert server.locate(None, tags, "sofa") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture at all", "it is not an image, or not of a format that is read here"),
        (Path(CAT).read_bytes()[:9000], "it is broken or cut off"),
        (b"", "it is not an image"),
    ],
)
def test_broken_files_get_one_sentence_without_paths(server, tmp_path, content, message):
    file = tmp_path / "secret-folder-photo.jpg"
    file.write_bytes(content)
    tags, said = server.tag(str(file), "cup")
    assert tags == [] and "This file cannot be read" in said and message in said
    assert "secret" not in said and "\n" not in said
    assert server.show(tags, 0, False)[0] == ""


def test_odd_photographs_are_read_and_huge_ones_refused(server, tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (12000, 10000)).save(bomb)  # 120 million pixels in a few kB
    tags, said = server.tag(str(bomb), "")
    assert tags == [] and "has more than 40 million pixels" in said
    Image.new("1", (20000, 10000)).save(bomb)  # Pillow itself refuses it
    assert "has more than 40 million pixels" in server.tag(str(bomb), "")[1]
    cmyk = tmp_path / "cmyk.jpg"
    Image.open(CAT).convert("CMYK").save(cmyk)
    grey = tmp_path / "grey.png"
    Image.fromarray(np.asarray(Image.open(CAT).convert("L")).astype(np.uint16) * 257).save(grey)
    for file in (cmyk, grey):
        assert server.tag(str(file), "")[0][0].label == "cat"


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
    images = {part["id"] for part in config["components"] if part["type"] == "image"}
    return [(entry["id"], entry["inputs"]) for entry in config["dependencies"] if images & set(entry["inputs"])]


def test_requests_that_name_an_address_or_a_server_path_are_refused(page, address, monkeypatch):
    url, hits = address
    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", None)  # ours must come first
    meta = {"_type": "gradio.FileData"}
    data = "data:image/jpeg;base64,/9j/4AAQ"
    functions = functions_with_photograph(page)
    assert len(functions) >= 2
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
            event = ask(page, function, [photograph, *[None for _ in inputs[1:]]])
            assert event["success"] is False, (function, photograph)
            assert "root:" not in json.dumps(event)
    assert hits == []
    event = ask(page, functions[0][0], [{"path": url, "meta": meta}, ""])
    assert event["output"]["error"] == "Upload the photograph: addresses are not fetched here."


def test_uploads_are_limited_and_other_files_not_served(page):
    with httpx.Client(base_url=page.local_url, timeout=60) as client:
        large = client.post("/gradio_api/upload", files={"files": ("large.jpg", b"x" * (MAX_UPLOAD + 1))})
        assert large.status_code == 413
        for path in ("/etc/passwd", CAT, str(ROOT / "pyproject.toml")):
            assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)
        small = client.post("/gradio_api/upload", files={"files": ("cat.jpg", Path(CAT).read_bytes())})
        photograph = {"path": small.json()[0], "meta": {"_type": "gradio.FileData"}}
        event = ask(page, functions_with_photograph(page)[0][0], [photograph, "kitten, , 'sofa"])
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
    assert [Path(path).name for path in example_photographs()] == ["astronaut.jpg", "cat.jpg", "coffee.jpg"]


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
        tab.goto(page.local_url)
        yield tab, requests


def plain(heading: str) -> str:
    return html.unescape(heading.removeprefix("### "))


def wait_for_choices(tab, labels):
    script = "wanted => [...document.querySelectorAll('#choice label')].map(x => x.innerText.trim()).join() == wanted"
    tab.wait_for_function(script, arg=",".join(labels))


@pytest.mark.slow
def test_labels_are_text_in_a_browser(browser_page, address, page):
    """Neither chart, its tooltips, choices nor messages run, fetch or lay out what a label says."""
    tab, requests = browser_page
    url, hits = address
    labels = [f"<img src={url} onerror=window.owned=1>", f"![x]({url})", "[x](javascript:window.owned=2)"]
    labels += ["<script>window.owned=3</script>", "<b>bold</b>", "{{7*7}}", "\u202egnp.exe"]
    tab.fill("#labels textarea", "\n".join(labels))
    tab.set_input_files("#photograph input[type=file]", CAT)
    tab.wait_for_function(f"document.querySelectorAll('#choice label').length == {len(labels)}")
    shown = {choice.inner_text().strip() for choice in tab.query_selector_all("#choice label")}
    assert shown == {*labels[:-1], "gnp.exe"}
    chart = tab.wait_for_selector("#chart canvas, #chart svg.marks")
    chart.scroll_into_view_if_needed()
    box, tips = chart.bounding_box(), set()
    for place in range(1, 40):  # bars from left to right
        tab.mouse.move(box["x"] + place * box["width"] / 40, box["y"] + 0.42 * box["height"])
        tab.wait_for_timeout(40)
        tips.add(tab.evaluate("document.querySelector('#vg-tooltip-element')?.innerText || ''"))
    assert len(tips) > 2
    made = "#choice, #found, #message, #vg-tooltip-element, #chart"
    tags = ", ".join(f":is({made}) {tag}" for tag in ("img", "a", "b", "script"))
    assert tab.evaluate(f"document.querySelectorAll('{tags}').length") == 0
    assert tab.evaluate("window.owned") is None and hits == []
    assert not [url for url in requests if not url.startswith((page.local_url, "data:", "blob:"))]


@pytest.mark.slow
def test_page_in_a_browser(browser_page, server, page, tmp_path):
    tab, requests = browser_page
    own = server.tagger.model.config.score_thresholds is not None
    tab.set_input_files("#photograph input[type=file]", CAT)
    tags, _ = server.tag(CAT, "")
    wait_for_choices(tab, [tag.label for tag in tags[:10]])
    tab.wait_for_selector("#chart canvas, #chart svg.marks")
    assert tab.inner_text("#found").strip() == plain(server.show(tags, 0, own)[0])
    first = tab.wait_for_selector("#heatmap img").get_attribute("src")

    if os.environ.get("TAIDPT_SCREENSHOT"):  # a file to look at, and the picture in docs/images
        tab.wait_for_timeout(1000)
        tab.screenshot(path=os.environ["TAIDPT_SCREENSHOT"], full_page=True)

    tab.click("#choice label:nth-child(2)")  # the heatmap of another label
    tab.wait_for_function("old => document.querySelector('#heatmap img')?.src != old", arg=first)

    if own:  # the slider takes the place of the checkpoint's thresholds
        tab.click("label:has-text('Thresholds of the checkpoint')")
    tab.wait_for_selector("#threshold input[type=range]")
    tab.wait_for_timeout(2000)  # until the range is that of the scores and the page has settled around it
    seen = set()
    for part in (0.9, 0.05):  # moving it changes what is found
        track = tab.locator("#threshold input[type=range]")
        size = track.bounding_box()
        track.click(position={"x": part * size["width"], "y": size["height"] / 2})
        tab.wait_for_function("Number(document.querySelector('#threshold input[type=number]').value) > 0")
        value = float(tab.input_value("#threshold input[type=number]"))
        heading = plain(server.show(tags, value, False)[0])
        wait = "wanted => document.querySelector('#found').innerText.trim() == wanted"
        tab.wait_for_function(wait, arg=heading)
        seen.add(heading)
    assert len(seen) == 2
    if os.environ.get("TAIDPT_SCREENSHOT"):
        tab.wait_for_timeout(1000)
        tab.screenshot(path=os.environ["TAIDPT_SCREENSHOT"].replace(".png", "_slider.png"), full_page=True)
    if own:
        tab.click("label:has-text('Thresholds of the checkpoint')")

    tab.fill("#labels textarea", "newspaper, kitten, Kitten")  # own labels change the scores
    tab.click("#tag")
    wait_for_choices(tab, ["kitten", "newspaper"])
    heading = server.show(server.tag(CAT, "newspaper, kitten")[0], 0, own)[0]
    assert tab.inner_text("#found").strip() == plain(heading)
    assert "counted once: Kitten" in tab.inner_text("#message")
    tab.wait_for_selector("#heatmap img")

    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    tab.click("#photograph [aria-label='Clear'], #photograph [title='Clear'], #photograph [aria-label='Remove Image']")
    tab.set_input_files("#photograph input[type=file]", str(broken))
    tab.wait_for_function("document.querySelector('#message').innerText.includes('This file cannot be read')")
    wait_for_choices(tab, [])

    tab.click("button:has(img[src*='coffee'])")  # an example photograph
    wait_for_choices(tab, [tag.label for tag in server.tag(str(IMAGES / "coffee.jpg"), "newspaper, kitten")[0]])
    outside = [url for url in requests if not url.startswith((page.local_url, "data:", "blob:"))]
    assert outside == []
