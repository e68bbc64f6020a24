"""One flipped bit in what is kept on a disk: noticed, or without an effect; never other results in silence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from modeling_taidpt.serving.output import TaggingOutput

from . import tasks
from .conftest import pick

pytestmark = pytest.mark.slow


def flip(path: Path, generator) -> None:
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def test_flips_in_cached_features(base, tmp_path, generator, count):
    tasks.encode(base, tmp_path / "whole")
    expected = tasks.features(base, tmp_path / "whole")
    for _ in range(pick(60, 900)):
        shutil.copytree(tmp_path / "whole", tmp_path / "flipped")
        path = generator.choice(files_of(tmp_path / "flipped"))
        flip(path, generator)
        try:  # a damaged shard is refused or encoded again
            tasks.encode(base, tmp_path / "flipped")
            found = tasks.features(base, tmp_path / "flipped")
        except (ValueError, OSError) as error:
            count("flips in cached features: refused")
            assert "\n" not in str(error) and len(str(error)) < 600
        else:
            count("flips in cached features: mended, or without an effect")
            assert found == expected, f"{path.name} was damaged in silence"
        shutil.rmtree(tmp_path / "flipped")


def test_flips_in_results_of_tagging(base, tmp_path, generator, count):
    tasks.tag(base, tmp_path / "whole")
    expected = tasks.rows(tmp_path / "whole")
    for _ in range(pick(30, 200)):
        shutil.copytree(tmp_path / "whole", tmp_path / "flipped")
        path = generator.choice(files_of(tmp_path / "flipped"))
        flip(path, generator)
        try:
            tasks.tag(base, tmp_path / "flipped")
        except (ValueError, OSError) as error:
            count("flips in results of tagging: refused")
            assert "\n" not in str(error) and len(str(error)) < 600
        else:
            count("flips in results of tagging: without an effect")
            assert tasks.rows(tmp_path / "flipped") == expected, f"{path.name} was damaged in silence"
        shutil.rmtree(tmp_path / "flipped")
    assert TaggingOutput(tmp_path / "whole", {}).finish() == []
