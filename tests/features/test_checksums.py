"""The feature cache: whatever happens to a file is found when it is opened."""

from __future__ import annotations

import shutil

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch

from modeling_taidpt.features import shards as module
from modeling_taidpt.features.shards import CAPTION_COLUMNS, FeatureShards, read_shard, write_shard


def write(path, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [(torch.randn(4, generator=generator), torch.randn(n, 4, generator=generator)) for n in (2, 3)]
    path.parent.mkdir(exist_ok=True)
    write_shard(path, rows, CAPTION_COLUMNS)
    return rows


def test_no_flipped_bit_is_silent(tmp_path):
    path = tmp_path / "corpus" / "captions-0.arrow"
    write(path)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for place, bit in zip(generator.integers(0, len(content), 900), generator.integers(0, 8, 900), strict=True):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        module._verified.clear()  # as another process
        with pytest.raises(ValueError, match="its checksum is wrong"):
            read_shard(path)


def seal(path, vectors):
    """A file whose checksum is right."""
    batch = pa.record_batch(vectors, names=list(CAPTION_COLUMNS))
    with path.open("wb") as file:
        hashed = module._HashedFile(file)
        with pa.ipc.new_stream(pa.PythonFile(hashed, "w"), batch.schema) as writer:
            writer.write_batch(batch)
        file.write(module.CHECKSUM_MARK + hashed.checksum(path))


@pytest.mark.parametrize("change", ["whole numbers", "doubles", "two kinds", "two widths", "rows that overlap"])
def test_files_of_other_kinds_are_damaged_whatever_their_checksum(tmp_path, change):
    def vectors(count, width, kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(count * width), kind), width)

    one = {"whole numbers": pa.int64(), "doubles": pa.float64()}.get(change, pa.float32())
    other = pa.float16() if change == "two kinds" else one
    offsets = {"rows that overlap": [0, 3, 1, 4]}.get(change, [0, 1, 2, 4])
    dense = vectors(4, 3 if change == "two widths" else 4, other)
    lists = pa.Array.from_buffers(
        pa.list_(dense.type), 3, [None, pa.py_buffer(np.array(offsets, np.int32).tobytes())], children=[dense]
    )
    path = tmp_path / "captions-00000-of-00001.arrow"
    seal(path, [vectors(3, 4, one), lists])
    with pytest.raises(ValueError, match=r"its (features are of other kinds|rows are not one after)"):
        read_shard(path)


def test_files_of_several_views_are_read(tmp_path):
    """The pooled features of the whole image and its tiles lie side by side."""
    path, pooled, dense = tmp_path / "images-0.arrow", torch.rand(2, 12), torch.rand(2, 5, 4)
    module.write_shard(path, list(zip(pooled, dense, strict=True)), module.IMAGE_COLUMNS)
    assert torch.equal(read_shard(path).pooled, pooled)


def test_lost_ends_pages_and_files_of_another_corpus_are_found(tmp_path):
    path, other = tmp_path / "corpus" / "captions-0.arrow", tmp_path / "other" / "captions-0.arrow"
    rows = write(path)
    write(other, seed=1)
    content = path.read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], b"\0" * len(content), content + b"\0", b"", b"ARROW"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"its checksum is wrong|it is cut off"):
            read_shard(path)
    shutil.copy(other, path)  # another model's, of equal shape
    with pytest.raises(ValueError, match=r"captions-0\.arrow' of the feature cache is missing or damaged"):
        FeatureShards([path], [2])[0]
    path.write_bytes(content)
    assert torch.equal(FeatureShards([path], [2])[1][1], rows[1][1])
    assert len(datasets.Dataset.from_file(str(path))) == 2  # what comes after the stream does not disturb
