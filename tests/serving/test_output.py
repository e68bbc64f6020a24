"""The guard of a resumed tagging run, and its folder: nothing mixed, lost or left behind."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import shutil
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, pipeline

from modeling_taidpt import TaiDptModel
from modeling_taidpt.data.sources import ImageItem
from modeling_taidpt.pipelines import TASK
from modeling_taidpt.serving.formats import SCHEMA
from modeling_taidpt.serving.output import TaggingOutput, digest_names, identify
from modeling_taidpt.serving.parts import PartTagger
from modeling_taidpt.serving.tagging import tag_images

from ..conftest import make_clip

PROCESSOR = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
OPTIONS = {"num_workers": 0, "shard_size": 2, "progress": False}


@pytest.fixture(scope="module")
def model():
    return TaiDptModel.from_clip(make_clip(), labels=["cat", "dog"], num_context_tokens=2)


@pytest.fixture
def tagger(model):
    return pipeline(TASK, model=model, image_processor=CLIPImageProcessor(**PROCESSOR))


def write_image(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        write_image(folder / f"{number}.png", number)
    return folder


@pytest.fixture
def done(tagger, images, tmp_path) -> Path:
    """The output of a run whose second file is missing, as if it had been killed."""
    out = tmp_path / "out"
    tag_images(images, out, tagger, **OPTIONS)
    (out / "part-00000001.parquet").unlink()
    return out


def rows(out: Path) -> list[dict]:
    return [row for file in sorted(out.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def refuses(sentence, *arguments, **options):
    """The run ends with a sentence and changes no file."""
    out = Path(arguments[1])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises((ValueError, OSError), match=sentence) as error:
        tag_images(*arguments, **OPTIONS | options)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_goes_on_and_leaves_what_every_reader_takes(tagger, images, done, tmp_path):
    report = tag_images(images, done, tagger, **OPTIONS)
    assert (report.images, report.skipped) == (2, 3)
    assert [Path(row["path"]).name for row in rows(done)] == [f"{number}.png" for number in range(5)]
    loaded = datasets.load_dataset("parquet", data_dir=str(done), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == rows(done) == pq.read_table(done).to_pylist()
    assert sorted(path.name for path in done.iterdir()) == [".tagging", *(f"part-{n:08d}.parquet" for n in range(3))]


def test_another_model_under_the_same_name_is_refused(tagger, images, done, tmp_path):
    other = TaiDptModel.from_clip(make_clip(seed=1), labels=["cat", "dog"], num_context_tokens=2)
    refuses(
        "with an earlier state of the model",
        images,
        done,
        pipeline(TASK, model=other, image_processor=tagger.image_processor),
    )
    processor = CLIPImageProcessor(**PROCESSOR | {"image_mean": [0.1, 0.2, 0.3]})
    refuses("earlier state of the model", images, done, pipeline(TASK, model=tagger.model, image_processor=processor))
    # the same weights by another name go on
    tagger.model.save_pretrained(tmp_path / "saved")
    tagger.image_processor.save_pretrained(tmp_path / "saved")
    assert tag_images(images, done, str(tmp_path / "saved"), **OPTIONS).skipped == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"shard_size": 3}, "with `shard_size` 2, not 3"),
        ({"top_k": 1}, "with `top_k` 5, not 1"),
        ({"candidate_labels": ["bird"]}, "with `candidate_labels` None"),
        ({"format": "csv"}, "with `format` 'parquet', not 'csv'"),
    ],
)
def test_other_options_are_refused(tagger, images, done, options, sentence):
    refuses(sentence, images, done, tagger, **options)


def test_files_without_settings_are_refused(tagger, images, done):
    (done / ".tagging" / "settings.json").unlink()
    refuses(r"holds 'part-00000000.parquet', but not '.tagging'", images, done, tagger)
    (done / ".tagging" / "settings.json").write_text("{}")
    refuses("holds the output of another run", images, done, tagger)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'"text"', b"[" * 100_000])
def test_damaged_settings_are_named(tagger, images, done, content):
    (done / ".tagging" / "settings.json").write_bytes(content)
    refuses(r"settings\.json' is damaged", images, done, tagger)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
@pytest.mark.parametrize(
    "name",
    [".tagging/settings.json", ".tagging/part-00000000.json", ".tagging/part-00000001.rows", "part-00000000.parquet"],
)
def test_a_record_that_is_no_file_is_not_waited_for(tagger, images, done, name, kind):
    path = done / name
    path.unlink(missing_ok=True)
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[kind](path)
    refuses(r"is not a regular file: delete the output folder", images, done, tagger)


def test_every_damaged_byte_of_noted_rows_is_noticed(tmp_path):
    output = TaggingOutput(tmp_path / "out", {})
    images = [[[number, number], "x"] for number in range(3)]
    noted = [[[["cat", 0.5]], None], [[["dog", 0.25]], None], [[], "cannot read image 'a'."]]
    output.keep_rows(0, 0, images, noted)
    assert output.kept_rows(0, images) == noted
    (path,) = (tmp_path / "out" / ".tagging").glob("*.rows")
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        kept = output.kept_rows(0, images)
        assert kept == noted[: len(kept)] and len(kept) < 3
    for wrong in (b"7\n", b"[0, 1]\n", b"\xff\n", b"[" * 100_000):
        path.write_bytes(wrong + content)
        assert output.kept_rows(0, images) in (noted, [])


def test_labels_of_ones_own_depend_on_the_tokenizer(tagger, images, done, tmp_path):
    out = tmp_path / "own"
    tag_images(images, out, tagger, candidate_labels=["bird"], **OPTIONS)
    (out / "part-00000001.parquet").unlink()
    tagger.tokenizer = tagger.model.get_tokenizer()
    assert tag_images(images, out, tagger, candidate_labels=["bird"], **OPTIONS).skipped == 3
    tagger.tokenizer = copy.deepcopy(tagger.tokenizer)
    tagger.tokenizer.add_tokens(["bird"])
    (out / "part-00000001.parquet").unlink()
    refuses("earlier state of the model", images, out, tagger, candidate_labels=["bird"])
    assert tag_images(images, done, tagger, **OPTIONS).skipped == 3  # its own labels do not
    record = json.loads((out / ".tagging" / "settings.json").read_text())
    del record["tokenizer"]  # of an earlier version
    (out / ".tagging" / "settings.json").write_text(json.dumps(record))
    tagger.tokenizer = tagger.model.get_tokenizer()
    assert tag_images(images, out, tagger, candidate_labels=["bird"], **OPTIONS).skipped == 3


def test_every_damaged_byte_of_a_file_is_noticed(tagger, images, done):
    path = done / "part-00000000.parquet"
    content = path.read_bytes()
    for place in np.linspace(0, len(content) - 1, 25, dtype=int):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        refuses("damaged", images, done, tagger)
    path.write_bytes(content[: len(content) // 2])
    refuses("damaged", images, done, tagger)
    path.unlink()
    assert tag_images(images, done, tagger, **OPTIONS).images == 4


def test_a_damaged_record_vouches_for_nothing(tagger, images, done):
    path = done / ".tagging" / "part-00000000.json"
    cut = path.read_bytes()[:-9]
    for content in (b"", b"[]", b"{}", b'{"digest": 1}', cut):
        path.write_bytes(content)
        refuses("damaged|holds other images", images, done, tagger)
    path.unlink()
    refuses("Nobody knows which images", images, done, tagger)


def test_an_image_whose_content_changed_is_named(tagger, images, done):
    path, status = images / "1.png", (images / "1.png").stat()
    content = path.read_bytes()
    path.write_bytes(content)  # touched, not changed
    assert TaggingOutput(done, {}).holds is not None
    tag_images(images, done, tagger, **OPTIONS)
    write_image(path, 77)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # its time does not tell
    refuses(r"1\.png' has changed since it was tagged", images, done, tagger)
    path.unlink()
    refuses("holds other images than the source gives there", images, done, tagger)
    path.write_bytes(content)
    (images / "a.png").write_bytes(content)
    refuses("holds other images than the source gives there|has changed", images, done, tagger, shard_size=2)


def test_images_without_files_are_compared_by_content(tagger, tmp_path):
    entries = [{"bytes": None, "path": None}] * 3
    for number in range(3):
        write_image(tmp_path / "x.png", number)
        entries[number] = {"bytes": (tmp_path / "x.png").read_bytes(), "path": None}
    source = datasets.Dataset.from_dict({"image": entries}).cast_column("image", datasets.Image())
    tag_images(source, tmp_path / "out", tagger, **OPTIONS)
    assert tag_images(source, tmp_path / "out", tagger, **OPTIONS).skipped == 3
    swapped = datasets.Dataset.from_dict({"image": entries[::-1]}).cast_column("image", datasets.Image())
    refuses("has changed since it was tagged", swapped, tmp_path / "out", tagger)


def test_a_mistake_in_an_option_spoils_no_folder(tagger, images, tmp_path):
    wrong = [{"top_k": 0}, {"threshold": 7}, {"candidate_labels": []}, {"candidate_labels": ["x " * 300]}]
    wrong += [{"image_size": -1}, {"format": "xlsx"}, {"engine": "spark"}, {"batch_size": 0}]
    for options in wrong:
        with pytest.raises(ValueError):
            tag_images(images, tmp_path / "out", tagger, **OPTIONS | options)
        assert not (tmp_path / "out").exists(), options
    table = tmp_path / "images.parquet"
    pq.write_table(datasets.Dataset.from_dict({"photo": ["a.png"]}).data.table, table)
    with pytest.raises(ValueError, match="There is no column 'image'"):
        tag_images(table, tmp_path / "out", tagger, **OPTIONS)
    assert not (tmp_path / "out").exists()
    with pytest.raises(Exception):  # noqa: B017  (whatever PyTorch says)
        tag_images(images, tmp_path / "out", tagger.model, pipeline_kwargs={"device": "nowhere"}, **OPTIONS)
    assert not (tmp_path / "out").exists()
    assert tag_images(images, tmp_path / "out", tagger, **OPTIONS).images == 5


@pytest.mark.parametrize("last", [False, True])
def test_a_folder_that_is_deleted_meanwhile_is_not_reported_as_done(tagger, images, tmp_path, monkeypatch, last):
    tag, calls = PartTagger._tag_batches, []

    def deleting(self, items):
        calls.append(len(items))
        if len(calls) == (3 if last else 2):
            shutil.rmtree(tmp_path / "out")
        return tag(self, items)

    monkeypatch.setattr(PartTagger, "_tag_batches", deleting)
    with pytest.raises(FileNotFoundError, match="deleted while images were tagged"):
        tag_images(images, tmp_path / "out", tagger, **OPTIONS)
    monkeypatch.undo()
    assert tag_images(images, tmp_path / "out", tagger, **OPTIONS).images == 5


def test_a_file_that_is_deleted_meanwhile_is_missed(tagger, images, tmp_path, monkeypatch):
    save = TaggingOutput.save

    def deleting(self, number, *arguments):
        save(self, number, *arguments)
        if number == 2:
            (tmp_path / "out" / "part-00000000.parquet").unlink()

    monkeypatch.setattr(TaggingOutput, "save", deleting)
    with pytest.raises(FileNotFoundError, match="1 files of the output are missing"):
        tag_images(images, tmp_path / "out", tagger, **OPTIONS)


def _claim(folder, number, start, results):
    output = TaggingOutput(folder, {"shard_size": number})
    start.wait()
    try:
        output.claim()
        results.put(number)
    except ValueError:
        results.put(None)


def test_of_runs_that_start_together_one_gets_the_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        start, results = context.Event(), context.Queue()
        runs = [
            context.Process(target=_claim, args=(tmp_path / str(attempt), number, start, results))
            for number in range(6)
        ]
        for run in runs:
            run.start()
        start.set()
        first = [number for number in (results.get(timeout=20) for _ in runs) if number is not None]
        for run in runs:
            run.join()
        stored = json.loads((tmp_path / str(attempt) / ".tagging" / "settings.json").read_text())
        assert first == [stored["shard_size"]]
        assert [path.name for path in (tmp_path / str(attempt) / ".tagging").iterdir()] == ["settings.json"]


def test_what_a_run_left_that_was_killed_after_its_last_file_is_removed(tagger, images, done, tmp_path):
    tag_images(images, done, tagger, shard_size=2, progress=False)
    process = multiprocessing.get_context("spawn").Process(target=len, args=("",))
    process.start()
    process.join()  # its number is nobody's now
    for folder in (done, done / ".tagging"):
        (folder / f".part-00000001.parquet.{socket.gethostname()}-{process.pid}.0123abcd").mkdir()
    report = tag_images(images, done, tagger, shard_size=2, progress=False)
    assert report.parts == 0
    assert [path.name for path in done.rglob(".*")] == [".tagging"]


def test_of_runs_that_write_the_same_part_record_and_file_of_one_stay(tmp_path):
    write_image(tmp_path / "a.png", 0)
    items = [ImageItem("a.png", str(tmp_path / "a.png"))]
    images, names = [identify(item) for item in items], digest_names(items)
    outputs = [TaggingOutput(tmp_path / "out", {"model": "m"}) for _ in range(3)]
    tables = [
        pa.Table.from_pylist([{"path": "a.png", "labels": ["x"], "scores": [score]}], schema=SCHEMA)
        for score in (0.5, 0.25, 0.75)
    ]

    def save(number: int) -> None:
        for _ in range(20):
            outputs[number].save(0, tables[number], images, names)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(save, range(3)))
    assert outputs[0].holds(0, items)


def test_a_killed_decoding_process_is_one_sentence(tagger, images, tmp_path, monkeypatch):
    parent = os.getpid()

    def killed(*args, **kwargs):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"images": [torch.zeros(3, 32, 32)]}

    monkeypatch.setattr(tagger, "preprocess", killed)
    with pytest.raises(OSError, match=r"A process that decodes images was killed, .*fewer `num_workers`"):
        tag_images(images, tmp_path / "out", tagger, **OPTIONS | {"num_workers": 1})
