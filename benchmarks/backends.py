"""JPEG files to labels by each runtime, against PyTorch with the layout and the processor of transformers.

    python benchmarks/backends.py [--model taidpt-coco80] [--images 128] [--threads 2] [--repeats 5] [--json FILE]

`--model vit-b-16` is a random ViT-B/16 with the 80 COCO labels. All run in turn, again and again, and each ratio is
the median over the turns: what else the machine does meanwhile hits all of them. Rows: `tag_images` into Parquet by
each backend; with `--int8 True` also files to probabilities by the graphs of `export_onnx`, in single precision and
with 8-bit weights, without what `tag_images` does around them.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from common import machine, seconds, write_figures
from tagging import write_images
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, HfArgumentParser, pipeline

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel, clip_tokenizer, load_class_table, tag_images
from modeling_taidpt.export.programs import ONNX_FILE, QUANTIZED_FILE, export_onnx
from modeling_taidpt.onnx_graphs import missing_runtime
from modeling_taidpt.pipelines.image_batches import read_batch

BASELINE, BATCH = "torch, as transformers", 32
TASK = "multi-label-image-classification"


@dataclass
class Arguments:
    """What to tag, and how often."""

    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint, or vit-b-16."})
    images: int = field(default=128, metadata={"help": "Images; copies of the photographs that ship."})
    threads: int = field(default=2, metadata={"help": "Threads of PyTorch and of the runtimes."})
    repeats: int = field(default=5, metadata={"help": "Timed turns after one warm-up."})
    int8: bool = field(default=False, metadata={"help": "Also the graphs of export_onnx with 8-bit weights."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def make_pipeline(name: str) -> object:
    """The pipeline of a checkpoint, or of a random ViT-B/16."""
    if name != "vit-b-16":
        return pipeline(TASK, model=name)
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(vision_config={"patch_size": 16})).eval()
    labels = [row["name"] for row in load_class_table("coco80")]
    model = TaiDptModel.from_clip(clip, labels, tokenizer=clip_tokenizer())
    return pipeline(TASK, model=model, image_processor=CLIPImageProcessor())


def as_transformers() -> mock._patch:
    """PyTorch without the two things that this package does: channels last, and pixels in fewer passes."""
    return mock.patch("modeling_taidpt.pipelines.pixels.steps_of_processor", lambda *settings: None)


def tag(pipe: object, files: list[str], backend: str, plain: bool) -> None:
    """Tags the files into Parquet."""
    layout = mock.patch.object(torch, "channels_last", torch.contiguous_format) if plain else nullcontext()
    with tempfile.TemporaryDirectory() as folder, as_transformers() if plain else nullcontext(), layout:
        tag_images(files, folder, pipe, backend=backend, batch_size=BATCH, progress=False, top_k=5)


def run_graph(pipe: object, files: list[str], session: object) -> None:
    """Files to probabilities by a session of ONNX Runtime."""
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        read = read_batch(pipe.preprocess, batch, batch, pipe.image_processor)
        pixels = np.stack([entry["images"][0].numpy() for entry in read])  # (batch, 3, height, width)
        session.run(["probabilities"], {"pixel_values": pixels})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    torch.set_num_threads(arguments.threads)
    pipes = {name: make_pipeline(arguments.model) for name in (BASELINE, "torch", "onnx", "openvino")}
    runs: dict[str, Callable[[], None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = write_images(Path(folder), arguments.images)
        for name, pipe in pipes.items():
            backend = "torch" if name == BASELINE else name
            if missing_runtime(backend) is None:
                plain = name == BASELINE
                runs[name] = lambda pipe=pipe, backend=backend, plain=plain: tag(pipe, files, backend, plain)
        if arguments.int8:
            import onnxruntime

            pipes["torch"].model.use_backend("torch")
            export_onnx(pipes["torch"].model, folder, quantize=True, image_processor=pipes["torch"].image_processor)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = arguments.threads
            for name, file in (("graph, fp32", ONNX_FILE), ("graph, int8", QUANTIZED_FILE)):
                session = onnxruntime.InferenceSession(str(Path(folder) / file), options)
                runs[name] = lambda session=session: run_graph(pipes["torch"], files, session)
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(arguments.repeats + 1):
            for name, run in runs.items():
                duration = seconds(run)
                if turn:
                    taken[name].append(duration)
    print(f"machine    {machine()}, {arguments.threads} threads, {len(files)} JPEG files of 640 x 480")
    figures = {}
    for name, durations in taken.items():
        ratios = [before / own for before, own in zip(taken[BASELINE], durations, strict=True)]
        figures[name] = {"ratio": statistics.median(ratios), "rate": len(files) / statistics.median(durations)}
        print(f"{name:24s} {figures[name]['rate']:7.1f} images a second, {figures[name]['ratio']:.2f} times the first")
    write_figures(arguments.json, figures)


if __name__ == "__main__":
    main()
