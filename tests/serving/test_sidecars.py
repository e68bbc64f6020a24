"""XMP sidecars: what is written, what is kept, what is refused, and what exiftool reads."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import xml.etree.ElementTree as ET

import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from modeling_taidpt.serving.formats import SCHEMA, TaggedImage, write_rows
from modeling_taidpt.serving.sidecars import add_keywords, write_sidecars
from taidpt_cli.app import app

EXIFTOOL = shutil.which("exiftool")
LIGHTROOM = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="uuid:1" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:crs="urn:settings"
    xmp:Rating="4" crs:Exposure="+0.35" crs:Note="two&#10;lines &amp; &lt;more&gt;"/>
  <rdf:Description rdf:about="uuid:1" xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Ünï 🐶</rdf:li></rdf:Alt></dc:title>
   <!-- mine --><?mine too?>
   <dc:subject><rdf:Bag><rdf:li>Anna</rdf:li><rdf:li>cat</rdf:li></rdf:Bag></dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


def keywords(path, name="{http://purl.org/dc/elements/1.1/}subject"):
    elements = list(ET.parse(path).getroot().iter(name))
    assert len(elements) <= 1
    return [item.text for element in elements for item in element.iter(f"{RDF}li")]


def exiftool(path) -> dict:
    if EXIFTOOL is None:
        pytest.skip("needs exiftool: install the system's package `libimage-exiftool-perl`")
    done = subprocess.run([EXIFTOOL, "-json", "-struct", str(path)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[0]


def write_results(path, rows):
    write_rows(pa.Table.from_pylist([row._asdict() for row in rows], schema=SCHEMA), path)
    return path


def test_a_new_sidecar_is_read_by_exiftool(tmp_path):
    path = tmp_path / "photo.jpg.xmp"
    labels = ["cat", "<b>&amp; \x00\x0b\ud800\n🐱", "a|b", "cat"]
    assert add_keywords(path, labels, [("animal", "cat"), ("a|b",)])
    assert not add_keywords(path, labels, [("animal", "cat")])
    assert [file.name for file in tmp_path.iterdir()] == ["photo.jpg.xmp"]
    found = exiftool(path)
    assert found["Subject"] == ["cat", "<b>&amp; 🐱", "a|b"]
    assert found["HierarchicalSubject"] == ["animal|cat", "a/b"]
    assert "Warning" not in found


def test_a_sidecar_that_is_there_loses_nothing(tmp_path):
    path = tmp_path / "photo.xmp"
    path.write_text(LIGHTROOM, encoding="utf-8")
    path.chmod(0o640)
    before = ET.parse(path).getroot()
    assert add_keywords(path, ["cat", "dog"], [("animal", "cat"), ("animal", "dog")])
    assert keywords(path) == ["Anna", "cat", "dog"]
    text = path.read_text(encoding="utf-8")
    for kept in (
        "<!-- mine -->",
        "<?mine too?>",
        'crs:Exposure="+0.35"',
        'xmp:Rating="4"',
        "xpacket begin",
        "Core 7.0",
    ):
        assert kept in text
    after = ET.parse(path).getroot()
    added = {f"{RDF}li", f"{RDF}Bag", "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject"}
    for old in before.iter():
        if old.tag not in added:
            assert any((new.tag, new.attrib) == (old.tag, old.attrib) for new in after.iter()), old.attrib
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    found = exiftool(path)
    assert (found["Rating"], found["Title"], found["Subject"]) == (4, "Ünï 🐶", ["Anna", "cat", "dog"])
    assert found["HierarchicalSubject"] == ["animal|cat", "animal|dog"]


def test_a_sidecar_that_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.xmp")
    (tmp_path / "endless.xmp").symlink_to("/dev/zero")
    (tmp_path / "folder.xmp").mkdir()
    (tmp_path / "lost.xmp").symlink_to(tmp_path / "elsewhere.xmp")
    for name in ("pipe", "endless", "folder", "lost"):
        with pytest.raises(ValueError, match=r"' is (not a regular file|a link to nothing) and stays as it is\.$"):
            add_keywords(tmp_path / f"{name}.xmp", ["cat"])
    assert not (tmp_path / "elsewhere.xmp").exists()


def test_rows_whose_name_no_file_can_have_have_no_sidecar(tmp_path):
    rows = [TaggedImage(name, ["cat"], [0.9], None) for name in ("x" * 5000 + ".png", "a\0b.png")]
    report = write_sidecars(write_results(tmp_path / "tags.parquet", rows))
    assert (report.no_file, report.written, report.errors) == (2, 0, [])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:subject="Anna"/>', ["Anna", "cat"]),
        ("<rdf:Description><dc:subject>Anna</dc:subject></rdf:Description>", ["Anna", "cat"]),
        ("<rdf:Description><dc:subject/></rdf:Description>", ["cat"]),
        (
            "<rdf:Description><dc:subject><rdf:Seq><rdf:li>Anna</rdf:li></rdf:Seq></dc:subject></rdf:Description>",
            ["Anna", "cat"],
        ),
        ("", ["cat"]),
    ],
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_every_way_to_write_keywords_is_kept(tmp_path, body, expected, wrapped):
    path = tmp_path / "photo.xmp"
    namespaces = f'xmlns:rdf="{RDF[1:-1]}" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    text = f"<rdf:RDF {namespaces}>{body}</rdf:RDF>"
    path.write_text(f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{text}</x:xmpmeta>' if wrapped else text, encoding="utf-16")
    assert add_keywords(path, ["cat"])
    assert keywords(path) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no xml",
        b"<html/>",
        LIGHTROOM.encode()[:-80],
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&b;</x:xmpmeta>',
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&a;</x:xmpmeta>',
        b'<?xml version="1.0" encoding="klingon"?><x:xmpmeta xmlns:x="adobe:ns:meta/"/>',
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</x:xmpmeta>",
    ],
)
def test_what_is_not_xmp_stays_as_it_is(tmp_path, content):
    path = tmp_path / "photo.xmp"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"photo.xmp' .* stays as it is"):
        add_keywords(path, ["cat"])
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1


def test_sidecars_of_a_run(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    photographs = {path: path.read_bytes() for path in tmp_path.glob("*.jpg")}
    (tmp_path / "d.jpg.xmp").write_text("broken")
    scores = {"a.jpg": [0.9, 0.6], "b.jpg": [0.4, 0.1], "d.jpg": [0.9, 0.1], "gone.jpg": [0.9, 0.9]}
    rows = [TaggedImage(str(tmp_path / name), ["dog", "pizza"], values, None) for name, values in scores.items()]
    rows.append(TaggedImage(str(tmp_path / "c.jpg"), [], [], "cannot read image"))
    results = write_results(tmp_path / "tags.csv", rows)
    report = write_sidecars(results)
    assert (report.written, report.unchanged, report.no_file, len(report.errors)) == (1, 1, 1, 1)
    assert "d.jpg.xmp' is not XMP" in report.errors[0]
    assert keywords(tmp_path / "a.jpg.xmp") == ["dog", "pizza"]
    lightroom = "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject"
    assert keywords(tmp_path / "a.jpg.xmp", lightroom) == ["animal|dog", "food|pizza"]
    assert write_sidecars(results).written == 0
    assert write_sidecars(results, replace_suffix=True, threshold=0, parents={"dog": "friend"}).written == 3
    assert keywords(tmp_path / "b.xmp", lightroom) == ["friend|dog", "food|pizza"]
    assert all(path.read_bytes() == content for path, content in photographs.items())


def test_command(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (40, 40), "red").save(photos / "a.jpg")
    (tmp_path / "pets.json").write_text('[{"name": "cat", "parent": "pet"}, "tree"]')
    arguments = ["tag", str(photos), "--labels", str(tmp_path / "pets.json"), "--threshold", "0", "--num-workers", "0"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "tags"), "--xmp"])
    assert result.exit_code == 0, result.output
    assert "1 sidecars written" in result.stderr
    lightroom = "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject"
    assert "pet|cat" in keywords(photos / "a.jpg.xmp", lightroom)
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "tags"), "--xmp-replace-suffix", "--json"])
    assert json.loads(result.stdout)["sidecars"]["written"] == 1 and (photos / "a.xmp").is_file()


def test_labels_of_an_earlier_run_go_and_keywords_of_others_stay(tmp_path):
    path = tmp_path / "photo.xmp"
    path.write_text(LIGHTROOM, encoding="utf-8")
    lightroom = "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject"
    theirs = keywords(path, lightroom)
    assert add_keywords(path, ["bird", "Anna"], [["animal", "bird"], ["someone", "Anna"]])
    assert add_keywords(path, ["dog"], [["animal", "dog"]])
    # Anna was there before, and stays though a run found her too
    assert keywords(path) == ["Anna", "cat", "dog"] and keywords(path, lightroom) == [*theirs, "animal|dog"]
    assert not add_keywords(path, ["dog"], [["animal", "dog"]])
    assert add_keywords(path, ["dog"], [["pet", "dog"]])  # another hierarchy
    assert keywords(path, lightroom) == [*theirs, "pet|dog"]
    assert add_keywords(path, [])  # nothing is found any more
    assert keywords(path) == ["Anna", "cat"] and keywords(path, lightroom) == theirs
    assert not add_keywords(path, [])


def test_a_photograph_without_labels_loses_those_of_an_earlier_run(tmp_path):
    photo = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(photo)
    for labels, expected in ((["dog"], ["dog"]), ([], [])):
        row = TaggedImage(str(photo), labels, [0.9] * len(labels), None)
        assert write_sidecars(write_results(tmp_path / "tags.csv", [row])).written == 1
        assert keywords(tmp_path / "a.jpg.xmp") == expected
