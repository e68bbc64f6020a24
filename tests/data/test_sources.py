"""Sources of images that are damaged, endless or badly named: an error row each, in constant memory."""

from __future__ import annotations

import io
import os
import pickle
import socket
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_taidpt.data.collator import open_image
from modeling_taidpt.data.sources import count_images, open_images
from modeling_taidpt.data.stored_images import MAX_IMAGE_BYTES
from modeling_taidpt.pipelines.image_reading import ImageEntry, read_image


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (shade, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def write_tar(path, names, mode="w"):
    with tarfile.open(path, mode) as archive:
        for shade, name in enumerate(names):
            member = tarfile.TarInfo(name)
            content = png(shade)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def shades(items):
    return [open_image(item.payload).getpixel((0, 0))[0] for item in items if item.error is None]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_archives_are_read_whole_and_damage_is_an_error_row(tmp_path, mode):
    names = [f"{number}.png" for number in range(6)]
    path = write_tar(tmp_path / "a.tar", names, mode)
    items = list(open_images(path))
    assert shades(items) == [0, 1, 2, 3, 4, 5]
    assert shades(pickle.loads(pickle.dumps(items))) == [0, 1, 2, 3, 4, 5]  # as for another process
    assert count_images(path) == (6 if mode == "w" else None)
    content = path.read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2])
    assert "cannot read archive" in list(open_images(tmp_path / "cut.tar"))[-1].error


def test_no_flipped_bit_of_a_header_loses_images_without_a_word(tmp_path):
    names = [f"{number}.png" for number in range(4)]
    path = write_tar(tmp_path / "a.tar", names)
    content, headers = path.read_bytes(), []
    with tarfile.open(path) as archive:
        headers = [member.offset for member in archive]
        end = archive.offset
    generator = np.random.default_rng(0)
    for header in [*headers, end]:
        for place in generator.integers(0, 512, 25):
            damaged = bytearray(content)
            damaged[header + place] ^= 1 << int(generator.integers(0, 8))
            path.write_bytes(damaged)
            items = list(open_images(path))
            assert any(item.error for item in items) or shades(items) == [0, 1, 2, 3]
    for lost in (content[:end], content[: headers[2]] + b"\0" * 512 + content[headers[2] + 512 :], content + content):
        path.write_bytes(lost)
        assert "to its end" in list(open_images(path))[-1].error


def test_links_and_pipes_in_an_archive(tmp_path):
    path = write_tar(tmp_path / "a.tar", ["a.png"])
    with tarfile.open(path, "a") as archive:
        for name, kind, target in (
            ("hard.png", tarfile.LNKTYPE, "a.png"),
            ("lost.png", tarfile.LNKTYPE, "b.png"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    items = list(open_images(path))
    assert shades(items) == [0, 0]
    assert [item.error is None for item in items] == [True, True, False, False]


def test_members_are_read_one_by_one_and_no_larger_than_the_limit(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(40):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = 2**20
            archive.addfile(member, io.BytesIO(bytes(2**20)))
        member = tarfile.TarInfo("large.png")
        member.size = MAX_IMAGE_BYTES + 1
        with open("/dev/zero", "rb") as zeros:
            archive.addfile(member, zeros)
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [os.urandom(2**20) for _ in range(40)]}), table, row_group_size=8)
    for source in (path, table):
        tracemalloc.start()
        items = list(open_images(source))
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()
        assert [len(item.payload["bytes"]) for item in items[:40]] == [2**20] * 40
    with pytest.raises(ValueError, match=r"large\.png': it has \d+ bytes, more than the limit"):
        next(item for item in open_images(path) if "large" in item.name).payload["bytes"]


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket.jpg"))
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "list.txt").write_text("pipe.jpg\na.png\n" + str(tmp_path / "device.jpg"))
    for source, good in ((tmp_path, 1), (tmp_path / "list.txt", 1), (tmp_path / "pipe.jpg", 0)):
        items = list(open_images(source))
        assert sum(item.error is None for item in items) == good
        assert all("regular file" in item.error or "no such file" in item.error for item in items if item.error)
    assert len(list(open_images(tmp_path))) == 5
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ValueError, match="is not a regular file"):
        open_images(tmp_path / "pipe.tar")
    listener.close()


def test_a_file_that_says_that_it_is_empty_is_not_read(tmp_path):
    """The system's own files say so, and whoever reads some of them waits for more."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs /proc")
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.jpg").symlink_to("/proc/self/status")
    assert [item.error.rpartition(": ")[2] for item in open_images(tmp_path)] == ["it is empty."] * 2
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(ValueError, match="it is empty"):
            read_image(ImageEntry(str(tmp_path / name)))


def test_folders_at_any_depth_and_those_that_cannot_be_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("z.png").write_bytes(png())
    monkeypatch.chdir("a")
    for _ in range(1100):  # deeper than Python calls itself, but not longer than a path may be
        os.mkdir("d")
        os.chdir("d")
    Path("deep.png").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    names = [item.name for item in open_images(".") if item.error is None]
    assert names == [f"./a{'/d' * 1100}/deep.png", "./z.png"]
    list_folder = os.scandir

    def scandir(path):
        if str(path).endswith("/d"):
            raise PermissionError(13, "Permission denied", path)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    first, second = open_images(".")
    assert first.error == "cannot read image './a/d': the folder cannot be read (Permission denied)."
    assert second.error is None
    subprocess.run(["rm", "-r", tmp_path / "a"], check=True)  # too deep for pytest


def test_an_endless_line_of_a_list_takes_no_memory(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    with (tmp_path / "list.txt").open("wb") as file:
        file.write(b"a.png\n")
        for _ in range(32):
            file.write(b"x" * 2**20)
        file.write(b"\na.png\n")
    tracemalloc.start()
    items = list(open_images(tmp_path / "list.txt"))
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()
    assert [item.error is None for item in items] == [True, False, True]
    assert "line 2 of" in items[1].error and len(items[1].error) < 3000


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"image": [1, 2]}, "holds int64: images are encoded bytes, paths"),
        ({"image": [[b"x"]]}, "holds list<.*: images are"),
        ({"image": [{"bytes": b"x", "path": 7}]}, r"holds struct<.*: images are"),
        ({"image": [{"bytes": {"x": 1}}]}, r"holds struct<.*: images are"),
        ({"image": [{"other": "x"}]}, r"holds struct<.*: images are"),
        ({"image": [b"x"], "again": [b"x"]}, "has two columns 'image'"),
        ({"image": [b"\xff"]}, "is damaged: 'utf-8' codec"),
    ],
)
def test_a_column_that_holds_no_images_is_one_sentence(tmp_path, columns, reason):
    table = pa.table(columns)
    if "again" in columns:
        table = table.rename_columns(["image", "image"])
    if "utf-8" in reason:  # a text that is none
        buffers = [None, pa.py_buffer(np.array([0, 1], np.int32).tobytes()), pa.py_buffer(b"\xff")]
        table = pa.table({"image": pa.Array.from_buffers(pa.string(), 1, buffers)})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=reason) as error:
        list(open_images(tmp_path / "a.parquet"))
    assert "a.parquet" in str(error.value) and "\n" not in str(error.value)


def test_an_empty_text_is_no_source():
    for source in ("", " ", ["", "a"]):
        with pytest.raises(ValueError, match="is empty: give a folder"):
            open_images(source)


def test_names_that_are_no_text_and_lines_that_are_no_names(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
        file.write(png())
    items = list(open_images(tmp_path))
    assert [item.error is None for item in items] == [True, False]
    assert items[1].name.endswith(r"caf\xe9.png")
    assert "its name is not UTF-8 text" in items[1].error
    (tmp_path / "list.txt").write_bytes(
        b"\xef\xbb\xbfa.png\r\ncaf\xe9.png\n\na\0b.png\n" + b"x" * 5000 + b".png\na.png"
    )
    items = list(open_images(tmp_path / "list.txt"))
    assert [item.error is None for item in items] == [True, False, False, True, True]
    assert shades([items[0], items[-1]]) == [0, 0]
    assert "line 2 of" in items[1].error
    for item in items:
        item.name.encode()


def test_damaged_parquet_names_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [png(shade) for shade in range(6)]}), path, write_page_checksum=True)
    content = path.read_bytes()
    assert shades(open_images(path)) == [0, 1, 2, 3, 4, 5]
    damaged = bytearray(content)
    for place in range(60, 160):
        damaged[place] ^= 1
    path.write_bytes(damaged)
    item = next(open_images(path))
    with pytest.raises(ValueError, match=r"row 0': the Parquet file '.*a\.parquet' is damaged"):
        item.payload["bytes"]
    path.write_bytes(content[:100])
    with pytest.raises(ValueError, match=r"a\.parquet' is not a Parquet file, or is damaged"):
        open_images(path)


def test_paths_in_columns_and_cells_without_an_image(tmp_path):
    (tmp_path / "a.png").write_bytes(png(7))
    stored = [{"path": str(tmp_path / "a.png"), "bytes": None}, {"path": "x.png", "bytes": png(3)}, None]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": stored}), path)
    items = list(open_images(path))
    assert [item.name for item in items] == [str(tmp_path / "a.png"), "x.png", f"{path}/row 2"]
    assert shades(items[:2]) == [7, 3]
    with pytest.raises(ValueError, match="holds no image"):
        items[2].payload["bytes"]
    pd.DataFrame({"image": [str(tmp_path / "a.png")]}).to_parquet(path)
    assert shades(open_images(path)) == [7]


def test_an_empty_source_is_said(tmp_path):
    for source in (tmp_path, {"image": []}, iter([])):
        with pytest.raises(ValueError, match="There are no images in"):
            open_images(source)


def test_a_link_to_itself_in_an_archive_is_an_error_row(tmp_path):
    member = tarfile.TarInfo("loop.png")
    member.type, member.linkname = tarfile.SYMTYPE, "loop.png"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(member)
    (item,) = open_images(tmp_path / "a.tar")
    assert item.error is not None and "link whose target is not there" in item.error
