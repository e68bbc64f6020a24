"""Time and memory of training and tagging as classes, captions and processes grow.

    python benchmarks/scaling.py [--captions 10000 100000 1000000] [--figure FILE] [--json FILE]

Every row runs in a process of its own, so that its peak memory is its own. The **exponent** is that of the time
against the size, between two rows: 1 is linear. Training steps learn a shared context on a small random text tower;
tagging scores cached image features; captions are read, labelled, encoded with a tiny tower, cached and gathered.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import in_subprocess, machine, median_seconds, peak_megabytes, seconds, write_figures
from transformers import HfArgumentParser

ROOT = Path(__file__).parent.parent
IMAGES, CELLS, BATCH = 64, 49, 64


@dataclass
class Arguments:
    """Sizes to go through."""

    classes: list[int] = field(default_factory=lambda: [20, 80, 1000, 10_000], metadata={"help": "Classes."})
    captions: list[int] = field(default_factory=lambda: [10_000, 100_000], metadata={"help": "Captions."})
    processes: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "Processes that tag together."})
    figure: str | None = field(default=None, metadata={"help": "PNG file for the plot."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def make_model(classes: int, layers: int, width: int) -> Any:
    """A model on a random CLIP; its labels are made up, and as long as each other however many there are."""
    from train_step import make_clip

    from modeling_taidpt import TaiDptModel

    return TaiDptModel.from_clip(make_clip(layers, width), labels=[f"thing {number:04d}" for number in range(classes)])


def training(classes: int) -> dict[str, float]:
    """Seconds of a training step on cached features of `BATCH` captions."""
    from train_step import keep_captions, make_batch, make_step

    model = make_model(classes, 4, 256).train()
    step = make_step(model, keep_captions(model, make_batch(BATCH, classes)))
    return {"seconds": median_seconds(step, 3 if classes < 10_000 else 1)}  # a step of 10,000 classes takes a minute


def tagging(classes: int) -> dict[str, float]:
    """Seconds to score the cached features of `IMAGES` images; the class embeddings are encoded once, before."""
    model = make_model(classes, 1, 64)
    pooled = torch.randn(IMAGES, 64)  # (images, dim)
    dense = torch.randn(IMAGES, 7, 7, 64)  # (images, height, width, dim)
    with torch.inference_mode():
        return {"seconds": median_seconds(lambda: model(image_embeds=pooled, dense_embeds=dense), 3)}


def captions(count: int) -> dict[str, float]:
    """Seconds to read, label, encode, keep and gather captions."""
    from labelling import make_captions

    from modeling_taidpt import CaptionFeatures, CaptionLabeler, read_captions
    from modeling_taidpt.features.captions import collate_features

    model = make_model(4, 1, 16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.txt"
        path.write_text("\n".join(make_captions(str(ROOT / "examples/data/captions.txt"), count, 0)), encoding="utf-8")

        def run() -> None:
            texts = read_captions(path).captions
            labels = CaptionLabeler.from_preset("coco80")(texts)  # (captions, classes)
            options = {"cache_dir": folder, "dtype": "float16", "batch_size": 512, "progress": False}
            features = CaptionFeatures.encode(model, texts, labels, **options)
            for start in range(0, len(features), 512):
                collate_features([features[row] for row in range(start, min(start + 512, len(features)))])

        return {"seconds": seconds(run)}


def processes(count: int) -> dict[str, float]:
    """Seconds in which `count` processes tag 96 JPEG files together with the checkpoint that ships."""
    import multiprocessing

    from tagging import write_images

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        write_images(Path(folder) / "images", 96)
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(count + 1)
        workers = [context.Process(target=_tag_part, args=(folder, part, count, barrier)) for part in range(count)]
        for worker in workers:
            worker.start()
        barrier.wait()  # all have loaded their model
        return {"seconds": seconds(lambda: [worker.join() for worker in workers])}


def _tag_part(folder: str, part: int, count: int, barrier: Any) -> None:
    from transformers import pipeline

    import modeling_taidpt

    torch.set_num_threads(1)
    tagger = pipeline("multi-label-image-classification")
    barrier.wait()
    options = {"shard_size": 8, "num_workers": 0, "progress": False, "part": (part, count)}
    modeling_taidpt.tag_images(f"{folder}/images", f"{folder}/tags", tagger, **options)


STUDIES = {"training": training, "tagging": tagging, "captions": captions, "processes": processes}
GROWS_WITH = {"training": "classes", "tagging": "classes", "captions": "captions", "processes": "processes"}


def measure(arguments: Arguments) -> dict[str, list[dict[str, float]]]:
    """Rows of every study, with the exponent of the time against the size from the row before."""
    results: dict[str, list[dict[str, float]]] = {}
    for study, sizes_of in GROWS_WITH.items():
        rows: list[dict[str, float]] = []
        for size in getattr(arguments, sizes_of):
            row = {"size": size, **in_subprocess(__file__, "--row", study, str(size))}
            if rows:
                before = rows[-1]
                row["exponent"] = math.log(row["seconds"] / before["seconds"]) / math.log(size / before["size"])
            rows.append(row)
            print(f"{study:10s} {size:>9,} {sizes_of:10s} {row['seconds']:9.3f} s  {row['peak_mb']:7,.0f} MB", end="")
            print(f"  exponent {row['exponent']:.2f}" if "exponent" in row else "", flush=True)
        results[study] = rows
    return results


def draw(results: dict[str, list[dict[str, float]]], path: str) -> None:
    """A plot with time and memory against size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for study, rows in results.items():
        sizes = [row["size"] for row in rows]
        for axis, name in zip(axes, ("seconds", "peak_mb"), strict=True):
            axis.loglog(sizes, [row[name] for row in rows], marker="o", label=f"{study} ({GROWS_WITH[study]})")
    for axis, name in zip(axes, ("seconds", "peak memory in MB"), strict=True):
        axis.set(xlabel="classes, captions or processes", ylabel=name)
        axis.grid(visible=True, which="major", alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    if sys.argv[1:2] == ["--row"]:
        study, size = sys.argv[2], int(sys.argv[3])
        torch.manual_seed(0)
        figures = STUDIES[study](size)
        print(json.dumps({**figures, "peak_mb": peak_megabytes()}))
        return
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    print(f"machine    {machine()}")
    results = measure(arguments)
    if arguments.figure:
        draw(results, arguments.figure)
    write_figures(arguments.json, results)


if __name__ == "__main__":
    main()
