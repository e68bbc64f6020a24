"""Inputs that somebody damaged or made up: each is read, or refused in one sentence."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from modeling_taidpt.captions.corpus import read_captions
from modeling_taidpt.captions.label_files import read_labels
from modeling_taidpt.pipelines.image_reading import ImageEntry, read_image
from taidpt_cli.app import app
from taidpt_cli.common import one_sentence

from ..conftest import ROOT
from .conftest import pick

pytestmark = pytest.mark.slow
VALUES = [None, True, -1, 0, 1e400, float("nan"), 2**70, "", "x" * 5000, "\x1b[2J", "../../x", [], [[]], {}, {"a": 1}]
VALUES += ["cpu", "auto", ["cat", 3], ["cat", "cat"], b"\xff\xfe".decode("latin1"), "😀", "nan", "1e9", "-5"]


def damage(content: bytes, generator: random.Random) -> bytes:
    """Some bytes other, cut off, repeated, or replaced by another kind of file."""
    kind = generator.randrange(5)
    place = generator.randrange(max(1, len(content)))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + generator.randbytes(generator.randrange(1, 64)) + content[place:]
    if kind == 2:
        return content[place:]
    if kind == 3:
        return generator.choice(
            [b"", b"%!PS-Adobe", b"\0" * 100, b"PK\3\4", b"\x80\x04K\x01.", b"{", generator.randbytes(99)]
        )
    changed = bytearray(content)
    for _ in range(generator.randrange(1, 20)):
        changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed)


def is_said(call: Callable[[], Any]) -> bool:
    """Whether a call was refused; the error is of a kind that the command says, and one sentence."""
    try:
        call()
    except (ValueError, OSError, TypeError, ImportError) as error:
        text = one_sentence(error)
        assert 10 < len(text) < 1500, text
        assert "Traceback" not in text
        return True
    return False


def image_files() -> list[bytes]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    files = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"):
        file = io.BytesIO()
        image.save(file, kind)
        files.append(file.getvalue())
    return files


def test_damaged_images(generator, count):
    files = image_files()
    for _ in range(pick(150, 300)):
        content = damage(generator.choice(files), generator)
        said = is_said(lambda content=content: read_image(ImageEntry(content), max_pixels=10_000_000))
        count(f"damaged images: {'refused' if said else 'read'}")


def test_damaged_caption_and_label_files(tmp_path, generator, count):
    files = {
        "a.txt": b"a dog\na cat\n",
        "b.csv": b'caption,labels\na dog,dog\n"a, cat",cat\n',
        "c.jsonl": b'{"caption": "a dog", "labels": ["dog"]}\n',
        "d.json": b'[{"caption": "a dog", "labels": ["dog"]}]',
        "e.yaml": b"dog: [puppy, hound]\ncat: [kitten]\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert (read_labels if name == "e.yaml" else read_captions)(str(tmp_path / name))
    for number in range(pick(60, 150)):
        name = generator.choice(list(files))
        path = tmp_path / f"{number}{name}"
        path.write_bytes(damage(files[name], generator))
        read = read_labels if name == "e.yaml" else read_captions
        said = is_said(lambda read=read, path=path: read(str(path)))
        count(f"damaged files of captions and labels: {'refused' if said else 'read'}")


def test_damaged_configurations(base, tmp_path, generator, count):
    options = json.loads((base / "model" / "config.json").read_text())
    for number in range(pick(25, 120)):
        folder = tmp_path / str(number)
        shutil.copytree(base / "model", folder)
        changed = json.loads(json.dumps(options))
        inner = generator.choice([changed, changed, changed["clip_config"]])
        inner[generator.choice(list(inner))] = generator.choice(VALUES)
        (folder / "config.json").write_text(json.dumps(changed))
        result = CliRunner().invoke(app, ["predict", str(base / "images" / "00.png"), "-m", str(folder), "-k", "1"])
        check(result, (inner is changed, changed))
        count(f"configurations with a wrong value: {'refused' if result.exit_code else 'loaded'}")
        shutil.rmtree(folder)


def check(result: Any, arguments: Any) -> None:
    """A command that did its work, or one that says in a line what is wrong."""
    assert result.exit_code in (0, 2), (arguments, result.output[-2000:], result.exception)
    if result.exit_code == 2:
        lines = [line for line in result.stderr.splitlines() if line.startswith(("taidpt: ", "Error: "))]
        assert len(lines) == 1 and len(lines[0]) < 1500 and "Traceback" not in result.stderr, (
            arguments,
            result.stderr,
        )


def test_wrong_options(base, tmp_path, generator, count, monkeypatch):
    monkeypatch.chdir(tmp_path)  # figures are saved under these names
    options = ["--labels", "--threshold", "--top-k", "--image-size", "--device", "--model", "--save-figure"]
    for _ in range(pick(20, 80)):
        value = generator.choice([value for value in VALUES if isinstance(value, str)])
        arguments = ["predict", str(base / "images" / "00.png"), "-m", str(base / "model")]
        if generator.random() < 0.5:
            arguments = ["tag", str(base / "images"), "-m", str(base / "model"), "-o", str(tmp_path / "out")]
        option = generator.choice(options if arguments[0] == "predict" else options[:6])
        result = CliRunner().invoke(app, [*arguments, option, value])
        check(result, (arguments, option, value))
        assert result.exit_code == 0 or not (tmp_path / "out").exists()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        count(f"commands with an odd option: {'refused' if result.exit_code else 'run'}")


def test_wrong_requests_to_an_endpoint(base, generator, count):
    spec = importlib.util.spec_from_file_location("endpoint_handler", ROOT / "hub_cards" / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler = module.EndpointHandler(str(base / "model"))
    image = base64.b64encode((base / "images" / "00.png").read_bytes()).decode()
    names = [*module.PARAMETERS, "other"]
    for _ in range(pick(40, 100)):
        request: Any = {"inputs": image, "parameters": {generator.choice(names): generator.choice(VALUES)}}
        if generator.random() < 0.4:
            request["inputs"] = generator.choice([*VALUES, [image, generator.choice(VALUES)]])
        said = is_said(lambda request=request: json.dumps(handler(request), allow_nan=False))
        count(f"odd requests to an endpoint: {'refused' if said else 'answered'}")


def test_damaged_sources_of_tagging(base, tmp_path, generator, count):
    archive, listed = tmp_path / "images.tar", tmp_path / "list.txt"
    with tarfile.open(archive, "w") as tar:
        for number in range(3):
            tar.add(base / "images" / f"0{number}.png", f"{number}.png")
    listed.write_text("\n".join(str(base / "images" / f"0{number}.png") for number in range(3)))
    contents: dict[str, bytes] = {path.suffix: path.read_bytes() for path in (archive, listed)}
    for number in range(pick(15, 60)):
        suffix = generator.choice(list(contents))
        path = Path(tmp_path / f"{number}{suffix}")
        path.write_bytes(damage(contents[suffix], generator))
        result = CliRunner().invoke(
            app, ["tag", str(path), "-m", str(base / "model"), "-o", str(tmp_path / f"out{number}")]
        )
        check(result, (path, path.read_bytes()[:200]))
        count(f"damaged sources of images: {'refused' if result.exit_code else 'tagged, with a row for each error'}")
