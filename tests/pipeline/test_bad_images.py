"""The pipeline on images that cannot be read: each is named, in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from transformers.pipelines.pt_utils import KeyDataset

from .conftest import LABELS, encoded, picture


def broken_files(folder: Path) -> dict[str, str]:
    """Names of broken files and the reason that the error gives."""
    jpeg = encoded(picture(), "JPEG")
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) * 2 // 3])
    (folder / "text.jpg").write_text("this is a text")
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder").mkdir()
    (folder / "cut.png").write_bytes(encoded(picture())[:200])
    return {
        "cut.jpg": "broken or cut off",
        "text.jpg": "not an image",
        "empty.png": "it is empty",
        "cut.png": "broken or cut off",
        "folder": "folder",
        "missing.jpg": "no such file",
    }


def test_broken_files_name_themselves(pipe, tmp_path):
    good = tmp_path / "good.png"
    good.write_bytes(encoded(picture()))
    for name, reason in broken_files(tmp_path).items():
        path = str(tmp_path / name)
        calls = [
            lambda path=path: pipe(path),
            lambda path=path: pipe([str(good), path], batch_size=2),
            lambda path=path: list(pipe(entry for entry in [good, path])),
            lambda path=path: pipe([good, path], num_workers=1),
        ]
        for call in calls if name == "cut.jpg" else calls[:1]:
            with pytest.raises(ValueError) as error:
                call()
            last_line = str(error.value).strip().splitlines()[-1]
            assert last_line.startswith(("cannot read image", "ValueError: cannot read image"))
            assert f"{path!r}: " in last_line and reason in last_line


def test_broken_images_without_a_name_tell_their_kind_and_place(pipe, server):
    jpeg = encoded(picture(), "JPEG")[:-300]
    with pytest.raises(ValueError, match=rf"^cannot read image \({len(jpeg)} bytes\): it is broken"):
        pipe(jpeg)
    with pytest.raises(ValueError, match=r"^cannot read image at index 1 \(\d+ bytes\): it is broken"):
        pipe([encoded(picture()), jpeg])
    with pytest.raises(ValueError, match=r"^cannot read image \(base64 text\): .*no image"):
        pipe("data:image/png;base64,AAAA")
    with pytest.raises(ValueError, match=rf"^cannot read image '{server}/none.jpg': the server answered 404"):
        pipe(f"{server}/none.jpg")
    with pytest.raises(ValueError, match=rf"^cannot read image '{server}/page.html': it is not an image"):
        pipe(f"{server}/page.html")
    with pytest.raises(ValueError, match=r"^cannot read image 'http://127.0.0.1:9/x.jpg': the server gave no answer"):
        pipe("http://127.0.0.1:9/x.jpg", timeout=5)
    for wrong in (3, np.zeros((4, 4, 2), np.uint8), np.zeros((8, 8, 3))):
        with pytest.raises(ValueError, match=r"^cannot read image"):
            pipe(wrong)
    with pytest.raises(ValueError, match="There is no image"):
        pipe(None)


def test_a_broken_image_of_a_dataset_tells_its_place(pipe):
    datasets = pytest.importorskip("datasets")
    entries = [{"bytes": encoded(picture()), "path": None}, {"bytes": b"no image", "path": None}]
    dataset = datasets.Dataset.from_dict({"image": entries}).cast_column("image", datasets.Image())
    results = pipe(KeyDataset(dataset, "image"))
    with pytest.raises(ValueError, match=r"^cannot read image at index 1 "):
        list(results)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_100, 20_000])
def test_decompression_bombs(pipe, tmp_path, side):
    """102 and 400 megapixels: Pillow itself only warns of the first."""
    path = tmp_path / "bomb.png"
    Image.new("1", (side, side)).save(path)
    with pytest.raises(ValueError, match=r"bomb\.png': it has more pixels than the limit of"):
        pipe(path)


def test_a_thread_thin_image_does_not_fill_the_memory(pipe):
    with pytest.raises(ValueError, match="too unequal"):
        pipe(Image.new("RGB", (1, 200_000)))
    assert len(pipe(Image.new("RGB", (1, 200)))) == len(LABELS)


def test_truncation_is_found_whatever_the_length(pipe):
    from modeling_taidpt.pipelines.image_reading import ImageEntry, read_image

    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    for options in ({}, {"progressive": True}):
        jpeg = encoded(picture(), "JPEG", **options)
        for length in range(1, len(jpeg), 7):
            with pytest.raises(ValueError, match="cannot read image"):
                read_image(ImageEntry(jpeg[:length]))
