"""The work that is killed: each task does all of it in a folder, goes on where an earlier process stopped, and ends.

A task is a function of the prepared folder and its own one. `OUTCOMES` says what must be equal to the undisturbed run,
`BETWEEN` what must hold of a folder whose process was killed.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from modeling_taidpt import CaptionFeatures, TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments, tag_images
from modeling_taidpt.export.programs import export_torch

LABELS = ["dog", "cat", "horse"]
CAPTIONS = [f"a {LABELS[number % 3]} and number {number}" for number in range(60)]
OTHER_LABELS = ["bird", "cow"]


def tag(base: Path, folder: Path) -> None:
    tag_images(base / "images", folder, str(base / "model"), shard_size=2, batch_size=2, num_workers=0, progress=False)


@functools.cache
def frozen(base: Path) -> TaiDptModel:
    """The model of a task that leaves it as it is."""
    return TaiDptModel.from_pretrained(base / "model")


def encode(base: Path, folder: Path) -> None:
    model = frozen(base)
    labels = np.zeros((len(CAPTIONS), len(LABELS)))
    CaptionFeatures.encode(model, CAPTIONS, labels, cache_dir=folder, shard_size=4, batch_size=4, progress=False)


def train(base: Path, folder: Path) -> None:
    torch.manual_seed(0)
    model = TaiDptModel.from_pretrained(base / "model")
    arguments = TaiDptTrainingArguments(
        str(folder),
        **{
            "max_steps": 6,
            "save_strategy": "steps",
            "save_steps": 1,
            "save_total_limit": 3,
            "per_device_train_batch_size": 4,
            "use_cpu": True,
        },
        **{"learning_rate": 0.05, "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "seed": 7},
        **{"dataloader_pin_memory": False, "add_templates": False, "feature_cache_dir": str(base / "features")},
    )
    trainer = TaiDptTrainer(model, arguments, train_dataset=CAPTIONS)
    trainer.train(resume_from_checkpoint=trainer.find_checkpoint())  # as `taidpt train --resume` does
    trainer.save_model(str(folder / "final"))


def save(base: Path, folder: Path) -> None:
    model = TaiDptModel.from_pretrained(base / "model")
    model.with_labels(OTHER_LABELS).save_pretrained(folder)


def export(base: Path, folder: Path) -> None:
    export_torch(TaiDptModel.from_pretrained(base / "model"), folder)


TASKS = {task.__name__: task for task in (tag, encode, train, save, export)}


def prepare(task: str, base: Path, folder: Path) -> None:
    """What is in the folder before: for saving and exporting, an older model."""
    if task in ("save", "export"):
        model = TaiDptModel.from_pretrained(base / "model")
        export_torch(model.with_labels(["old"]), folder) if task == "export" else model.save_pretrained(folder)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def features(base: Path, folder: Path) -> list[bytes]:
    """Caption features of the cache, read by a model that must not encode anything again."""
    labels = np.zeros((len(CAPTIONS), len(LABELS)))
    with mock.patch.object(TaiDptModel, "encode_captions", None):
        kept = CaptionFeatures.encode(frozen(base), CAPTIONS, labels, cache_dir=folder, shard_size=4, progress=False)
    return [kept[index]["caption_embeds"].numpy().tobytes() for index in range(len(kept))]


def weights(folder: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def exported(folder: Path) -> tuple[list[float], list[str]]:
    """What an exported program says of one image, and its files."""
    program = torch.export.load(next(folder.glob("*.pt2")))
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    return program.module()(pixels)[0].flatten().tolist(), sorted(path.name for path in folder.iterdir())


def saved(folder: Path) -> dict[str, Any]:
    model = TaiDptModel.from_pretrained(folder)
    return {"labels": list(model.config.labels), "weights": weights(folder)}


OUTCOMES = {
    "tag": lambda base, folder: rows(folder),
    "encode": features,
    "train": lambda base, folder: weights(folder / "final"),
    "save": lambda base, folder: saved(folder),
    "export": lambda base, folder: exported(folder),
}


def tagged_between(base: Path, folder: Path, expected: list[dict[str, Any]]) -> None:
    """Every file that is there is whole, and no row of it is wrong."""
    for file in folder.glob("*.parquet"):
        assert all(row in expected for row in pq.read_table(file).to_pylist())


def saved_between(base: Path, folder: Path, expected: dict[str, Any]) -> None:
    """The older model, the new one, or a sentence: never labels of one with weights of the other."""
    try:
        found = saved(folder)
    except (ValueError, OSError, SafetensorError) as error:
        assert len(str(error)) < 2000
        return
    assert found in (expected, {"labels": LABELS, "weights": weights(base / "model")})


def exported_between(base: Path, folder: Path, expected: tuple[list[float], list[str]]) -> None:
    """The older export, the new one, or one without labels: never labels of one with the program of the other."""
    table = folder / "labels.json"
    if table.exists():
        whole = folder.parent / ("before" if json.loads(table.read_text())["labels"] == ["old"] else "whole")
        assert exported(folder)[0] == exported(whole)[0]


BETWEEN = {"tag": tagged_between, "save": saved_between, "export": exported_between}
