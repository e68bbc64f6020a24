"""Tagging of many images into Parquet: sources, rows, errors, resumption, engines."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, pipeline
from typer.testing import CliRunner

from modeling_taidpt import TaiDptModel, image_backends
from modeling_taidpt.data.sources import count_images, open_images
from modeling_taidpt.serving import tagging
from modeling_taidpt.serving.formats import read_results
from modeling_taidpt.serving.gallery import write_gallery
from modeling_taidpt.serving.parts import PartTagger
from modeling_taidpt.serving.tagging import tag_images
from taidpt_cli.app import app

from ..conftest import make_clip

LABELS = ["cat", "dog", "tree"]
PROCESSOR = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


@pytest.fixture(scope="module")
def tagger():
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=2)
    return pipeline("multi-label-image-classification", model=model, image_processor=CLIPImageProcessor(**PROCESSOR))


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8))


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Seven images in two folders; `b.png` is no image."""
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "c.png", "d.png", "sub/e.png", "sub/f.png", "z.png")):
        picture(seed).save(root / name)
    (root / "b.png").write_text("no image")
    (root / "notes.md").write_text("not listed")
    return root


def rows(output: Path) -> list[dict]:
    return pq.read_table(output).to_pylist()


def test_rows_are_what_the_pipeline_says(tagger, folder, tmp_path):
    report = tag_images(folder, tmp_path / "out", tagger, batch_size=2, num_workers=0, shard_size=3, progress=False)
    assert (report.images, report.errors, report.skipped, report.parts) == (7, 1, 0, 3)
    found = rows(tmp_path / "out")
    names = ["a.png", "b.png", "c.png", "d.png", "sub/e.png", "sub/f.png", "z.png"]
    assert [row["path"] for row in found] == [str(folder / name) for name in names]
    for row in found:
        if row["path"].endswith("b.png"):
            assert row["labels"] == [] and row["scores"] == []
            assert row["error"].startswith(f"cannot read image '{folder / 'b.png'}'")
            continue
        expected = tagger(row["path"])
        assert row["error"] is None
        assert row["labels"] == [result["label"] for result in expected]
        assert row["scores"] == pytest.approx([result["score"] for result in expected], abs=1e-6)


def test_options_and_worker_processes(tagger, folder, tmp_path):
    report = tag_images(folder, tmp_path / "out", tagger, top_k=1, num_workers=1, batch_size=3, progress=False)
    assert report.images == 7
    tag_images(folder, tmp_path / "own", tagger, candidate_labels=["bird"], num_workers=0, progress=False)
    assert all(len(row["labels"]) == 1 for row in rows(tmp_path / "out") if row["error"] is None)
    assert {label for row in rows(tmp_path / "own") for label in row["labels"]} == {"bird"}


def test_a_killed_run_goes_on_without_repeating_or_losing_a_row(tagger, folder, tmp_path, monkeypatch):
    options = {"num_workers": 0, "shard_size": 2, "progress": False}
    tag_images(folder, tmp_path / "whole", tagger, **options)
    calls = []
    tag = PartTagger._tag_batches

    def killed(self, items):
        calls.append(len(items))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tag(self, items)

    monkeypatch.setattr(PartTagger, "_tag_batches", killed)
    with pytest.raises(KeyboardInterrupt):
        tag_images(folder, tmp_path / "out", tagger, **options)
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 2
    before = (tmp_path / "out" / "part-00000000.parquet").stat().st_mtime_ns
    report = tag_images(folder, tmp_path / "out", tagger, **options)
    assert (report.skipped, report.images, report.parts) == (4, 3, 2)
    assert (tmp_path / "out" / "part-00000000.parquet").stat().st_mtime_ns == before
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".tagging"]


def test_machines_share_the_work(tagger, folder, tmp_path):
    options = {"num_workers": 0, "shard_size": 2, "progress": False}
    tag_images(folder, tmp_path / "whole", tagger, **options)
    reports = [tag_images(folder, tmp_path / "out", tagger, part=(machine, 2), **options) for machine in (1, 0)]
    assert [report.images for report in reports] == [3, 4]
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_other_formats_are_resumed_alike(tagger, folder, tmp_path, format):
    options = {"num_workers": 0, "shard_size": 2, "progress": False}
    tag_images(folder, tmp_path / "parquet", tagger, **options)
    out = tmp_path / "out"
    tag_images(folder, out, tagger, format=format, **options)
    (out / f"part-00000001.{format}").unlink()
    report = tag_images(folder, out, tagger, format=format, **options)
    assert (report.skipped, report.images) == (5, 2)
    expected = list(read_results(tmp_path / "parquet"))
    assert [row[:2] + row[3:] for row in read_results(out)] == [row[:2] + row[3:] for row in expected]
    with pytest.raises(ValueError, match="another run, with `format`"):
        tag_images(folder, out, tagger, **options)


@pytest.mark.parametrize("name", ["tags.csv", "tags.jsonl", "tags.parquet"])
def test_one_file_is_written_whole_and_resumed(tagger, folder, tmp_path, monkeypatch, name):
    options = {"num_workers": 0, "shard_size": 2, "progress": False}
    tag, calls = PartTagger._tag_batches, []

    def killed(self, items):
        calls.append(items)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tag(self, items)

    monkeypatch.setattr(PartTagger, "_tag_batches", killed)
    with pytest.raises(KeyboardInterrupt):
        tag_images(folder, tmp_path / name, tagger, **options)
    assert not (tmp_path / name).exists()
    report = tag_images(folder, tmp_path / name, tagger, **options)
    assert (report.skipped, report.images, report.output_dir) == (4, 3, str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir() if path != folder] == [name]
    names = [Path(row.path).name for row in read_results(tmp_path / name)]
    assert names == ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png", "z.png"]


def test_progress_counts_images_and_knows_the_total(tagger, folder, tmp_path, monkeypatch):
    bars = []

    class Bar(tagging.tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.steps = []
            bars.append(self)

        def update(self, n=1):
            self.steps.append(n)
            return super().update(n)

    monkeypatch.setattr(tagging, "tqdm", Bar)
    tag_images(folder, tmp_path / "out", tagger, num_workers=0, batch_size=3, shard_size=4)
    assert (bars[0].total, bars[0].n) == (7, 7) and max(bars[0].steps) <= 3
    (tmp_path / "out" / "part-00000000.parquet").unlink()
    tag_images(folder, tmp_path / "out", tagger, num_workers=0, shard_size=4)
    assert (bars[1].total, bars[1].n) == (4, 4)
    for machine, total in ((0, 5), (1, 2)):
        assert tagging._images_of(7, 2, (machine, 3)) == {0: 3, 1: 2}[machine]
        assert tagging._images_of(7, 5, (machine, 2)) == total


@pytest.mark.parametrize("kind", ["list", "parquet", "tar", "dataset", "stream"])
def test_every_source_gives_the_same_images(folder, tmp_path, kind):
    names = ["a.png", "b.png", "c.png"]
    contents = [(folder / name).read_bytes() for name in names]
    if kind == "list":
        source = folder / "list.txt"
        source.write_text("\n".join(names) + "\n")
    elif kind == "parquet":
        source = tmp_path / "images.parquet"
        stored = [{"bytes": content, "path": name} for name, content in zip(names, contents, strict=True)]
        pq.write_table(pa.table({"image": stored, "other": [1, 2, 3]}), source)
    elif kind == "tar":
        source = tmp_path / "images.tar"
        with tarfile.open(source, "w") as archive:
            for name in names:
                archive.add(folder / name, name)
            archive.add(folder / "notes.md", "a.txt")
    else:
        stored = {"image": [{"bytes": content, "path": name} for name, content in zip(names, contents, strict=True)]}
        source = datasets.Dataset.from_dict(stored, features=datasets.Features({"image": datasets.Image()}))
        source = source if kind == "dataset" else source.to_iterable_dataset()
    items = list(open_images(source))
    assert [Path(item.name).name for item in items] == names
    read = [
        item.payload["bytes"]
        if isinstance(item.payload, dict)
        else item.payload
        if isinstance(item.payload, bytes)
        else Path(item.payload).read_bytes()
        for item in items
    ]
    assert read == contents
    assert count_images(source) == (None if kind == "stream" else len(names))


def test_errors_of_sources_are_rows_or_one_sentence(tagger, folder, tmp_path):
    broken = tmp_path / "cut.tar"
    with tarfile.open(broken, "w") as archive:
        archive.add(folder / "a.png", "a.png")
        archive.add(folder / "c.png", "c.png")
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 4])
    tag_images(broken, tmp_path / "cut", tagger, num_workers=0, progress=False)
    assert "cannot read archive" in rows(tmp_path / "cut")[-1]["error"]
    table = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"image": pa.array([encoded(0), None], pa.binary())}), table)
    tag_images(table, tmp_path / "null", tagger, num_workers=0, progress=False)
    assert [row["error"] is None for row in rows(tmp_path / "null")] == [True, False]
    for source, sentence in (
        (tmp_path / "nowhere", "does not exist"),
        (folder / "notes.md", "is of an unknown kind"),
        (datasets.DatasetDict(train=datasets.Dataset.from_dict({"image": []})), "dictionary of splits"),
        (datasets.Dataset.from_dict({"picture": ["a.png"]}), "There is no column 'image'"),
        (7, "The images are of type 'int'"),
    ):
        with pytest.raises((TypeError, ValueError, FileNotFoundError), match=sentence):
            tag_images(source, tmp_path / "never", tagger, progress=False)


def test_folders_without_media_are_passed_over(folder):
    (folder / "sub" / ".nomedia").touch()
    assert [Path(item.name).name for item in open_images(folder)] == ["a.png", "b.png", "c.png", "d.png", "z.png"]
    assert count_images(folder) == 5


def test_wrong_outputs(tagger, folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for output, options, sentence in (
        ("notes.txt", {}, "is a file: name a folder"),
        ("tags.csv", {"format": "jsonl"}, "ends in .csv and `format` is 'jsonl'"),
        ("tags.csv", {"part": (0, 2)}, "write into a folder"),
    ):
        with pytest.raises(ValueError, match=sentence):
            tag_images(folder, tmp_path / output, tagger, progress=False, **options)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_folder_we_are_in_is_an_output(tagger, folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    report = tag_images(folder, ".", tagger, num_workers=0, progress=False)
    assert tag_images(folder, ".", tagger, num_workers=0, progress=False).skipped == report.images
    page = write_gallery(".", progress=False)
    assert page.index == str(tmp_path / "here_gallery" / "index.html")


@pytest.mark.parametrize("kind", ["pipe", "lost", "device", "names\udcff"])
def test_an_output_that_is_no_folder_and_no_file_is_one_sentence(tagger, folder, tmp_path, kind):
    for suffix in ("", ".csv"):
        path = tmp_path / f"{kind}{suffix}"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind in ("lost", "device"):
            path.symlink_to("/dev/null" if kind == "device" else tmp_path / "nowhere" / "x")
        with pytest.raises(ValueError, match=r"(name|choose) another one\.$"):
            tag_images(folder, path, tagger, num_workers=0, progress=False)
        assert not (tmp_path / "nowhere").exists() and path.is_symlink() == (kind in ("lost", "device"))


def test_a_folder_of_another_run_is_not_mixed(tagger, folder, tmp_path):
    options = {"num_workers": 0, "progress": False}
    tag_images(folder, tmp_path / "out", tagger, shard_size=3, **options)
    with pytest.raises(ValueError, match="another run, with `shard_size` 3, not 4"):
        tag_images(folder, tmp_path / "out", tagger, shard_size=4, **options)
    (folder / "a.png").unlink()
    with pytest.raises(ValueError, match="the source has changed since"):
        tag_images(folder, tmp_path / "out", tagger, shard_size=3, **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"engine": "spark"}, "`engine` is 'spark'"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"shard_size": 0}, "`shard_size` is 0"),
        ({"part": (2, 2)}, "`part` is"),
        ({"top_k": 0}, "`top_k` is 0"),
        ({"format": "xml"}, "`format` is 'xml'"),
    ],
)
def test_wrong_options(tagger, folder, tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        tag_images(folder, tmp_path / "out", tagger, progress=False, **options)


@pytest.mark.slow
def test_ray_writes_the_same_rows(tagger, folder, tmp_path):
    ray = pytest.importorskip("ray")
    tagger.save_pretrained(tmp_path / "model")
    tagger.model.get_tokenizer().save_pretrained(tmp_path / "model")
    options = {"model": str(tmp_path / "model"), "shard_size": 2, "progress": False}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker of Ray: another number rounds the last digit otherwise
    try:
        tag_images(folder, tmp_path / "local", num_workers=0, **options)
    finally:
        torch.set_num_threads(threads)
    try:
        report = tag_images(folder, tmp_path / "ray", engine="ray", concurrency=2, **options)
        with pytest.raises(ValueError, match="by its folder or repository"):
            tag_images(folder, tmp_path / "object", tagger, engine="ray", progress=False)
    finally:
        ray.shutdown()
    assert (report.images, report.errors, report.parts) == (7, 1, 4)
    assert rows(tmp_path / "ray") == rows(tmp_path / "local")


def test_command(folder, tmp_path):
    arguments = ["tag", str(folder), "--output", str(tmp_path / "out"), "--top-k", "2", "--labels", "cat, tree"]
    result = CliRunner().invoke(app, [*arguments, "--num-workers", "0", "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    summary = printed.pop("summary")
    assert (
        printed.pop("seconds") > 0
        and printed.pop("gallery") is printed.pop("sidecars") is None
        and Path(printed.pop("output_dir")) == tmp_path / "out"
    )
    assert printed.pop("selection") == {"top_k": 2, "threshold": None}
    assert printed == {"images": 7, "errors": 1, "skipped": 0, "parts": 1}
    assert (summary["images"], summary["errors"], summary["threshold"]) == (7, 1, 0.5)
    found = [score >= 0.5 for row in rows(tmp_path / "out") for score in row["scores"]]
    assert summary["labels"] == sum(found) == sum(summary["counts"].values())
    assert {len(row["labels"]) for row in rows(tmp_path / "out")} == {0, 2}
    for wrong, sentence in ((["--part", "1:2"], "write M/N"), (["--part", "2/2"], "0 <= machine < machines")):
        result = CliRunner().invoke(app, [*arguments, *wrong])
        assert result.exit_code == 2
        assert sentence in result.stderr


def test_summary_counts_nothing_where_scores_only_rank(folder, tagger, tmp_path):
    tagger.model.save_pretrained(tmp_path / "model")
    tagger.image_processor.save_pretrained(tmp_path / "model")
    arguments = ["tag", str(folder), "--model", str(tmp_path / "model"), "--num-workers", "0"]
    for options, sentence in (
        ([], "The 5 best labels of each image are kept"),
        (["--labels", "cat, tree"], "All labels of each image are kept"),
        (["--xmp"], "which says little here"),
    ):
        name = tmp_path / ("out" + "".join(options))
        said = " ".join(CliRunner().invoke(app, [*arguments, *options, "-o", str(name)]).stderr.split())
        assert sentence in said and "scores only rank labels until `taidpt calibrate` fits them." in said
        assert "labels found" not in said and "Most frequent" not in said
    said = CliRunner().invoke(app, [*arguments, "--threshold", "0.5", "-o", str(tmp_path / "chosen")]).stderr
    assert "labels found" in said and "labels of each image" not in said


def test_summary_says_what_was_found_and_how_to_open_it(folder, tmp_path):
    arguments = ["tag", str(folder), "--labels", "cat, tree", "--threshold", "0", "--num-workers", "0"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "7 images tagged into" in said and "1 could not be read" in said and "images a second." in said
    assert "12 labels found, in 6 of 7 images." in said and "cat 6" in said and "tree 6" in said
    assert f"pandas.read_parquet({str(tmp_path / 'out')!r})" in said
    again = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    assert "0 images tagged" in again.stderr and "7 were there" in again.stderr
    table = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "tags.csv")])
    assert "pandas" not in table.stderr
    assert [row.labels for row in read_results(tmp_path / "tags.csv")][1] == []


def test_what_is_found_follows_the_thresholds_of_the_checkpoint(folder, tmp_path):
    for name in ("c.png", "d.png", "z.png", "sub/e.png", "sub/f.png"):
        (folder / name).unlink()
    arguments = ["tag", str(folder), "-o", str(tmp_path / "out"), "--top-k", "0", "--num-workers", "0", "--json"]
    summary = json.loads(CliRunner().invoke(app, [*arguments, "--xmp", "--gallery"]).stdout)["summary"]
    (row,) = [row for row in rows(tmp_path / "out") if row["error"] is None]
    scores = dict(zip(row["labels"], row["scores"], strict=True))
    assert len(summary["threshold"]) == len(scores) == 80
    found = {label for label, score in scores.items() if score >= summary["threshold"][label]}
    assert set(summary["counts"]) == found
    assert (folder / "a.png.xmp").exists() is bool(found)
    assert (tmp_path / "out_gallery" / "index.html").is_file()


def test_a_second_look_is_a_setting_of_the_run(tagger, folder, tmp_path):
    options = {"num_workers": 0, "progress": False}
    tag_images(folder, tmp_path / "out", tagger, second_look=True, **options)
    row = next(row for row in rows(tmp_path / "out") if row["path"].endswith("a.png"))
    expected = tagger(row["path"], second_look=True)
    assert row["scores"] == pytest.approx([result["score"] for result in expected], abs=1e-6)
    assert tag_images(folder, tmp_path / "out", tagger, second_look=True, **options).skipped == 7
    with pytest.raises(ValueError, match="output of another run"):
        tag_images(folder, tmp_path / "out", tagger, **options)


def test_a_part_goes_on_where_it_was_stopped(tagger, folder, tmp_path, monkeypatch):
    whole = tag_images(folder, tmp_path / "whole", tagger, batch_size=2, num_workers=0, progress=False)
    score, batches = PartTagger._score, []

    def stop_at_the_third(self, batch, *options):
        batches.append(len(batch))
        if len(batches) == 3:
            raise KeyboardInterrupt
        yield from score(self, batch, *options)

    with monkeypatch.context() as patch:
        patch.setattr(PartTagger, "_score", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            tag_images(folder, tmp_path / "out", tagger, batch_size=2, num_workers=0, progress=False)
    (journal,) = (tmp_path / "out" / ".tagging").glob("*.rows")
    assert len(journal.read_text().splitlines()) == 4 and not list((tmp_path / "out").glob("*.parquet"))
    with journal.open("a") as file:
        file.write('[4, ["cut')  # the run was stopped while it wrote
    batches.clear()
    monkeypatch.setattr(
        PartTagger, "_score", lambda self, batch, *o: batches.append(len(batch)) or score(self, batch, *o)
    )
    again = tag_images(folder, tmp_path / "out", tagger, batch_size=2, num_workers=0, progress=False)
    assert batches == [2, 1]  # three of seven were left
    assert (again.images, again.errors) == (whole.images, whole.errors) == (7, 1)
    assert rows(tmp_path / "out") == rows(tmp_path / "whole") and not journal.exists()


def test_noted_rows_of_an_image_that_changed_are_tagged_again(tagger, folder, tmp_path, monkeypatch):
    def stop(self, batch, *options):
        raise KeyboardInterrupt

    score = PartTagger._score
    with monkeypatch.context() as patch:
        calls = iter([score, stop])
        patch.setattr(PartTagger, "_score", lambda self, batch, *o: next(calls)(self, batch, *o))
        with pytest.raises(KeyboardInterrupt):
            tag_images(folder, tmp_path / "out", tagger, batch_size=4, num_workers=0, progress=False)
    picture(99).save(folder / "c.png")
    tag_images(folder, tmp_path / "out", tagger, batch_size=4, num_workers=0, progress=False)
    tag_images(folder, tmp_path / "new", tagger, batch_size=4, num_workers=0, progress=False)
    for row, expected in zip(rows(tmp_path / "out"), rows(tmp_path / "new"), strict=True):
        assert row["path"] == expected["path"] and row["labels"] == expected["labels"]
        assert row["scores"] == pytest.approx(expected["scores"], abs=1e-6)


def columns(output: Path) -> dict:
    return pq.read_table(output / "part-00000000.parquet").to_pydict()


@pytest.mark.slow
def test_a_backend_gives_the_labels_and_scores_of_pytorch(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(image_backends.constants, "HF_HOME", str(tmp_path / "cache"))
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=2)
    make = {"model": model, "image_processor": CLIPImageProcessor(**PROCESSOR)}
    plain = pipeline("multi-label-image-classification", **make)
    tag_images(folder, tmp_path / "torch", plain, candidate_labels=["cup", "dog"], progress=False)
    quick = pipeline("multi-label-image-classification", backend="onnx", **make)
    assert model.clip.image_graph is not None
    options = {"candidate_labels": ["cup", "dog"], "progress": False}
    tag_images(folder, tmp_path / "onnx", quick, **options)  # as the pipeline is
    ours, theirs = columns(tmp_path / "onnx"), columns(tmp_path / "torch")
    assert [ours[name] for name in ("path", "labels", "error")] == [
        theirs[name] for name in ("path", "labels", "error")
    ]
    for mine, other in zip(ours["scores"], theirs["scores"], strict=True):
        assert mine == pytest.approx(other, abs=1e-4)
    with pytest.raises(ValueError, match="another run, with `backend` 'onnx', not 'torch'"):
        tag_images(folder, tmp_path / "onnx", quick, backend="torch", **options)
    model.use_backend("torch")
    report = tag_images(folder, tmp_path / "onnx", plain, **options)  # goes on as it began
    assert (report.images, report.skipped) == (0, 7) and model.clip.image_graph is not None
    settings = tmp_path / "torch" / ".tagging" / "settings.json"
    assert json.loads(settings.read_text())["backend"] == "torch"
    older = {name: value for name, value in json.loads(settings.read_text()).items() if name != "backend"}
    settings.write_text(json.dumps(older))  # of a run before there were backends
    assert tag_images(folder, tmp_path / "torch", plain, **options).skipped == 7


def test_the_checkpoint_that_ships_is_tagged_by_its_graph(folder, tmp_path):
    tag_images(folder, tmp_path / "auto", progress=False, top_k=3)
    assert json.loads((tmp_path / "auto" / ".tagging" / "settings.json").read_text())["backend"] == "onnx"
    tag_images(folder, tmp_path / "plain", backend="torch", progress=False, top_k=3)
    ours, theirs = columns(tmp_path / "auto"), columns(tmp_path / "plain")
    assert ours["labels"] == theirs["labels"]
    for mine, other in zip(ours["scores"], theirs["scores"], strict=True):
        assert mine == pytest.approx(other, abs=1e-4)


def test_without_the_runtime_pytorch_tags(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_taidpt.onnx_graphs.find_spec", lambda name: None)
    tag_images(folder, tmp_path / "auto", progress=False, top_k=3)
    assert json.loads((tmp_path / "auto" / ".tagging" / "settings.json").read_text())["backend"] == "torch"
    with pytest.raises(ImportError, match=r'pip install "taidpt\[openvino\]"'):
        tag_images(folder, tmp_path / "other", backend="openvino", progress=False)
