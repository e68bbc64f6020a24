"""The work that is killed: each task does all of it in a folder, goes on where an earlier process stopped, and ends.

A task is a function of the prepared folder and its own one. `OUTCOMES` says what must be equal to the undisturbed run,
`BETWEEN` what must hold of a folder whose process was killed. The folder of a task lies alone in another one, and what
the task keeps elsewhere (caches, temporary files) goes there too.

Graphs and programs are made once, by the real exporters, and taken from a file afterwards: making one writes nothing
and takes seconds, and the kills are to fall where files are written.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import datasets
import huggingface_hub.constants
import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from modeling_taidpt import CaptionFeatures, TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments, tag_images
from modeling_taidpt.export.programs import export_onnx, export_torch
from modeling_taidpt.export.web import export_web
from modeling_taidpt.graph_export import save_graph
from modeling_taidpt.onnx_graphs import GRAPH_FILE
from taidpt_cli.adapt import adapt as adapt_command
from taidpt_cli.calibrate import calibrate as calibrate_command

LABELS = ["dog", "cat", "horse"]
CAPTIONS = [f"a {LABELS[number % 3]} and number {number}" for number in range(60)]
OTHER_LABELS = ["bird", "cow"]
TOKEN = "hf_loopback"


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


def save_baked(base: Path, folder: Path) -> None:
    model = TaiDptModel.from_pretrained(base / "model")
    model.with_labels(OTHER_LABELS).bake().save_pretrained(folder)


def save_bank(base: Path, folder: Path) -> None:
    model = TaiDptModel.from_pretrained(base / "model")
    model.set_caption_bank(torch.randn(4, model.config.embedding_dim, generator=torch.Generator().manual_seed(0)))
    model.save_pretrained(folder)


def calibrate(base: Path, folder: Path) -> None:
    """`taidpt calibrate MODEL images --captions FILE`: into the folder that it is read from."""
    with _own_cache(folder):
        calibrate_command(str(folder), str(base / "images"), str(base / "captions.txt"), None, None, 24, None, True)


def adapt(base: Path, folder: Path) -> None:
    """`taidpt adapt MODEL photos`: into the folder that it is read from."""
    with _own_cache(folder), _made_graphs(base):
        adapt_command(str(folder), [str(base / "photos")], None, None, True)


def export(base: Path, folder: Path) -> None:
    with _made_graphs(base):
        export_torch(TaiDptModel.from_pretrained(base / "model"), folder)


def export_quantized(base: Path, folder: Path) -> None:
    with _made_graphs(base):
        export_onnx(TaiDptModel.from_pretrained(base / "model"), folder, quantize=True)


def export_page(base: Path, folder: Path) -> None:
    with _made_graphs(base):
        export_web(TaiDptModel.from_pretrained(base / "model"), folder, cdn=True)


def export_in_place(base: Path, folder: Path) -> None:
    with _made_graphs(base):
        save_graph(TaiDptModel.from_pretrained(folder), folder)


def push(base: Path, folder: Path) -> None:
    """A model pushed to the Hub whose address is in the folder, over what is there."""
    url = (folder / "hub").read_text()
    tempfile.tempdir = str(folder)
    with contextlib.ExitStack() as patches:
        for name, value in {
            "ENDPOINT": url,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            patches.enter_context(mock.patch.object(huggingface_hub.constants, name, value))
        model = TaiDptModel.from_pretrained(base / "model")
        model.with_labels(OTHER_LABELS).push_to_hub("org/tagger", token=TOKEN)


@contextlib.contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    with mock.patch.object(datasets.config, "HF_DATASETS_CACHE", folder.parent / "cache"):
        yield


@contextlib.contextmanager
def _made_graphs(base: Path) -> Iterator[None]:
    """Exports take graphs and programs from files, and make them where there are none."""
    import onnx
    import onnx_ir

    from modeling_taidpt import graph_export
    from modeling_taidpt.export import programs

    def made(name: str, make: Any, load: Any, save: Any) -> Any:
        path = base / "graphs" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            save(make(), path)
        return load(path)

    def program(scorer: Any, *arguments: Any, **options: Any) -> Any:
        name, labels = f"scores {scorer.heatmaps}.onnx", scorer.model.config.labels
        make = functools.partial(graph_export.export_program, scorer, *arguments, **options)
        found = made(name, lambda: make().program, onnx_ir.load, onnx_ir.save)
        found.metadata_props["labels"] = str(labels)  # tells the graphs of two models apart
        return SimpleNamespace(program=found)

    def graph(model: Any) -> Any:
        return made("towers.onnx", lambda: make_graph(model), onnx.load, onnx.save)

    def captured(scorer: Any, processor: Any) -> Any:
        name = f"{len(scorer.model.config.labels)} classes.pt2"
        return made(name, lambda: capture(scorer, processor), torch.export.load, torch.export.save)

    make_graph, capture = graph_export.make_graph, programs._capture
    with (
        mock.patch.object(programs, "export_program", program),
        mock.patch.object(programs, "_capture", captured),
        mock.patch.object(graph_export, "make_graph", graph),
    ):
        yield


ALL = (tag, encode, train, save, save_baked, save_bank, calibrate, adapt)
ALL += (export, export_quantized, export_page, export_in_place, push)
TASKS = {task.__name__: task for task in ALL}
EXPORTS = {"export": export_torch, "export_quantized": export_onnx, "export_page": export_web}
IN_FOLDER = ("save", "save_baked", "save_bank", "calibrate", "adapt", "export_in_place")  # that holds a model


def prepare(task: str, base: Path, folder: Path) -> None:
    """What is in the folder before: for saving and exporting, an older model."""
    model = TaiDptModel.from_pretrained(base / "model")
    if task in IN_FOLDER:
        model.save_pretrained(folder)
        if task.startswith("save"):  # goes with the model that it was made of
            (folder / GRAPH_FILE).parent.mkdir()
            (folder / GRAPH_FILE).write_text("of the older model")
    elif task in EXPORTS:
        labels = ["old"] if task == "export" else ["old", "older", "oldest"]  # graphs have as many classes
        with _made_graphs(base):
            EXPORTS[task](model.with_labels(labels), folder, **({"cdn": True} if task == "export_page" else {}))
    if task in ("export", "export_in_place"):  # makes their graphs
        model.save_pretrained(folder.parent / "first")
        TASKS[task](base, folder.parent / "first")


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
    """What a saved model is. It has to load, also where a killed process has left moves undone."""
    model = TaiDptModel.from_pretrained(folder)
    entries = model.config.to_dict()
    entries.pop("_name_or_path", None)
    graph = folder / GRAPH_FILE
    is_older = graph.exists() and graph.read_bytes() == b"of the older model"
    return {"config": entries, "weights": weights(folder), "graph": is_older}


OUTCOMES = {
    "tag": lambda base, folder: rows(folder),
    "encode": features,
    "train": lambda base, folder: weights(folder / "final"),
    "export": lambda base, folder: exported(folder),
}
OUTCOMES |= dict.fromkeys((*IN_FOLDER, "export_quantized", "export_page"), lambda base, folder: digests(folder))


def tagged_between(base: Path, folder: Path, expected: list[dict[str, Any]]) -> None:
    """Every file that is there is whole, and no row of it is wrong."""
    for file in folder.glob("*.parquet"):
        assert all(row in expected for row in pq.read_table(file).to_pylist())


def saved_between(base: Path, folder: Path, expected: dict[str, str]) -> None:
    """The older model or the new one: never neither, and never labels of one with weights of the other."""
    assert saved(folder) in (_saved_once(of(folder, "before")), _saved_once(of(folder, "whole")))


@functools.cache
def _saved_once(folder: Path) -> dict[str, Any]:
    return saved(folder)


def exported_between(base: Path, folder: Path, expected: Any) -> None:
    """The older export, the new one, or one without labels: never labels of one with the program of the other."""
    last = "config.json" if (of(folder, "whole") / "config.json").exists() else "labels.json"  # a page has both
    if (folder / last).exists():
        is_old = json.loads((folder / "labels.json").read_text())["labels"][0] == "old"
        whole = of(folder, "before" if is_old else "whole")
        if (folder / "model.pt2").exists():
            assert exported(folder)[0] == exported(whole)[0]
        else:
            assert digests(folder) == digests(whole)


def of(folder: Path, which: str) -> Path:
    """The folder of the same task before it, or of its undisturbed run."""
    return folder.parent.parent / which / folder.name


BETWEEN = {"tag": tagged_between} | dict.fromkeys(IN_FOLDER, saved_between) | dict.fromkeys(EXPORTS, exported_between)
