"""Fixtures that several test files use: tiny random CLIPs, the reference numbers, the data that does not ship."""

from __future__ import annotations

import copy
import functools
import gc
import os
import tarfile
from pathlib import Path

# Tensors of width 32 only pay for a second thread's waiting; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from modeling_taidpt import clip_tokenizer

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the measured data and reference files that do not ship with the project."""
    folder = Path(os.environ.get("TAIDPT_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data, absent at {folder}")
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    return clip_tokenizer()


def pytest_collection_finish() -> None:
    """Take what has been imported out of the garbage collector's sight.

    accelerate collects garbage at the end of every training; with the modules of torch, transformers and datasets in
    sight that takes longer than the training of a tiny model.
    """
    gc.collect()
    gc.freeze()


def make_clip(attn_implementation: str = "sdpa", seed: int = 0) -> CLIPModel:
    """A small random CLIP with a ViT tower: width 32, 3 + 3 layers, 4x4 patches, CLIP's vocabulary.

    It is built once per session and copied; the random numbers that follow are those that follow a build.
    """
    clip, state = _build_clip(attn_implementation, seed)
    torch.set_rng_state(state)
    return copy.deepcopy(clip)


@functools.cache
def _build_clip(attn_implementation: str, seed: int) -> tuple[CLIPModel, torch.Tensor]:
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "projection_dim": 24,
            "eos_token_id": 49407,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
            "projection_dim": 24,
        },
        projection_dim=24,
    )
    config._attn_implementation = attn_implementation
    return CLIPModel(config).eval(), torch.get_rng_state()


@pytest.fixture
def clip() -> CLIPModel:
    return make_clip()


@pytest.fixture
def nltk_data(shared, tmp_path_factory, monkeypatch):
    """Unpack NLTK's data once and let nltk find it; skip where it is absent."""
    nltk = pytest.importorskip("nltk")
    archive = shared / "data" / "nltk_data.tgz"
    if not archive.is_file():
        pytest.skip(f"NLTK's data is not there: {archive}")
    folder = tmp_path_factory.getbasetemp() / "nltk"
    if not folder.exists():
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 and 3.10.12 has none
            tar.extractall(folder)
    monkeypatch.setattr(nltk.data, "path", [str(folder / "nltk_data")])
    return folder


@pytest.fixture
def no_nltk_data(monkeypatch):
    """NLTK without its data, also where an earlier test has read them."""
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [])
    loaded = nltk.corpus.wordnet
    if "LazyCorpusLoader" not in type(loaded).__name__:  # an earlier test has read it: it stays in memory
        monkeypatch.setattr(nltk.corpus, "wordnet", nltk.corpus.util.LazyCorpusLoader("wordnet", type(loaded), None))


def assert_same_scores(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The scores of equal weights. Where a file is mapped in memory decides how products of few rows are rounded."""
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
