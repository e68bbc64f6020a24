"""The COCO recipe from captions to saved prompts in one command: labelling, encoding, training, saving.

    python benchmarks/coco_recipe.py [--text rn50] [--dtype bf16] [--compile] [--device cuda] [--json FILE]

Ours is what a user runs: `TaiDptTrainer` with `examples/recipes/coco2014.yaml` (clean protocol) on a caption file,
and `save_model`. Weights are random, the captions made from COCO's names: the time depends on shapes alone. The
baseline is the published computation for as many steps, in fp32: captions encoded at every step, every prompt 77
tokens long, once per branch. It is timed on a few captions and classes (see `train_step.py`), scaled linearly, and
leaves out the published labelling, scores, loss, optimizer and evaluation.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, peak_megabytes, seconds, write_figures
from train_step import DTYPES, first, make_batch, make_clip, make_model, time_baseline
from transformers import HfArgumentParser

from modeling_taidpt import (
    CaptionLabeler,
    TaiDptModel,
    TaiDptTrainer,
    TaiDptTrainingArguments,
    load_class_table,
    make_captions,
    read_recipe,
)

ROOT = Path(__file__).parent.parent
PROJECTIONS = {"vit_b16": 512, "rn50": 1024}  # dimensions of the joint space; both text towers are of one size
FULL_CAPTIONS, FULL_EPOCHS = 118_287, 20  # of the paper
FEW_CAPTIONS, FEW_EPOCHS = 2_048, 1  # on a CPU
BASELINE_CAPTIONS, BASELINE_CLASSES = 64, 20  # what the published way is timed on


@dataclass
class Arguments:
    """Sizes; the defaults are the paper's on a GPU, and cut to under five minutes on a CPU."""

    text: str = field(default="vit_b16", metadata={"help": "CLIP whose sizes are used.", "choices": [*PROJECTIONS]})
    captions: int | None = field(
        default=None, metadata={"help": f"Captions; {FULL_CAPTIONS:,} on a GPU, {FEW_CAPTIONS:,} on a CPU by default."}
    )
    epochs: int | None = field(
        default=None, metadata={"help": f"Epochs; {FULL_EPOCHS} on a GPU, {FEW_EPOCHS} on a CPU by default."}
    )
    batch_size: int = field(default=512, metadata={"help": "Captions in a batch."})
    dtype: str = field(default="fp32", metadata={"help": "Of ours.", "choices": list(DTYPES)})
    compile: bool = field(default=False, metadata={"help": "Train with `torch_compile`."})
    compile_mode: str | None = field(default=None, metadata={"help": "`torch_compile_mode`, as reduce-overhead."})
    device: str = field(default="cuda" if torch.cuda.is_available() else "cpu", metadata={"help": "cuda or cpu."})
    layers: int = field(default=12, metadata={"help": "Layers of the text tower."})
    width: int = field(default=512, metadata={"help": "Width of the text tower."})
    repeats: int = field(default=1, metadata={"help": "Timed runs of the baseline after one warm-up."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and captions."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})

    def __post_init__(self) -> None:
        """Fill in the sizes that depend on the device."""
        on_cpu = self.device == "cpu"
        if self.captions is None:
            self.captions = FEW_CAPTIONS if on_cpu else FULL_CAPTIONS
        if self.epochs is None:
            self.epochs = FEW_EPOCHS if on_cpu else FULL_EPOCHS


class TimedLabeler:
    """A labeler that sums up its seconds."""

    def __init__(self, labeler: CaptionLabeler) -> None:
        self.labeler, self.class_names, self.seconds = labeler, labeler.class_names, 0.0

    def __call__(self, captions: list[str]) -> np.ndarray:
        """Label captions."""
        found: list[np.ndarray] = []
        self.seconds += seconds(lambda: found.append(self.labeler(captions)))
        return found[0]  # (captions, classes)


def distinct_captions(names: list[str], count: int, seed: int) -> list[str]:
    """Captions that name one to five classes, all different, so that none is encoded twice."""
    found: dict[str, None] = {}
    while len(found) < count:
        found |= dict.fromkeys(make_captions(names, 2 * (count - len(found)) + len(names), seed)["caption"])
        seed += 1
    return list(found)[:count]


def make_arguments(arguments: Arguments, folder: Path) -> TaiDptTrainingArguments:
    """The recipe's training arguments."""
    recipe = read_recipe(ROOT / "examples/recipes/coco2014.yaml", "clean")
    options: dict[str, Any] = {"torch_compile_mode": arguments.compile_mode} if arguments.compile_mode else {}
    compiled = arguments.compile or bool(arguments.compile_mode)
    return TaiDptTrainingArguments.from_recipe(
        recipe,
        output_dir=str(folder / "run"),
        feature_cache_dir=str(folder / "cache"),
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=arguments.batch_size,
        use_cpu=arguments.device == "cpu",
        bf16=arguments.dtype == "bf16",
        tf32=arguments.dtype == "tf32",
        torch_compile=compiled,
        pad_to_multiple_of=8 if compiled else None,
        report_to="none",
        disable_tqdm=True,
        **options,
    )


def run_recipe(arguments: Arguments, names: list[str], captions: list[str], folder: Path) -> dict[str, float]:
    """Seconds of every stage, and what was done in them."""
    path = folder / "captions.txt"
    path.write_text("\n".join(captions), encoding="utf-8")
    clip = make_clip(arguments.layers, arguments.width, PROJECTIONS[arguments.text])
    model = TaiDptModel.from_clip(clip, labels=names, num_context_tokens=16).to(arguments.device)
    labeler = TimedLabeler(CaptionLabeler.from_preset("coco80"))
    training_arguments = make_arguments(arguments, folder)
    made: list[TaiDptTrainer] = []

    def prepare() -> None:
        options = {"args": training_arguments, "train_dataset": str(path), "labeler": labeler}
        made.append(TaiDptTrainer(model=model, **options))

    preparing = seconds(prepare)
    (trainer,) = made
    training = seconds(trainer.train)
    saving = seconds(trainer.save_model)
    return {
        "labelling_seconds": labeler.seconds,
        "encoding_seconds": preparing - labeler.seconds,
        "training_seconds": training,
        "saving_seconds": saving,
        "seconds": preparing + training + saving,
        "steps": trainer.state.global_step,
        "trained_on": len(trainer.train_dataset),
        "held_out": 0 if trainer.eval_dataset is None else len(trainer.eval_dataset),
        "bytes_kept": sum(file.stat().st_size for file in (folder / "cache").rglob("*.arrow")),
        "device_peak_mb": torch.cuda.max_memory_allocated() / 2**20 if arguments.device != "cpu" else 0.0,
    }


def published_step(arguments: Arguments, names: list[str]) -> float:
    """Seconds of a step as published, in fp32; timed on a few captions and classes, scaled linearly."""
    captions, classes = min(BASELINE_CAPTIONS, arguments.batch_size), BASELINE_CLASSES
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.device(arguments.device):
        clip = make_clip(arguments.layers, arguments.width, PROJECTIONS[arguments.text]).requires_grad_(False)
        contexts = 0.02 * torch.randn(2, 16, arguments.width)  # (2, vectors, width)
        few = first(make_batch(captions, len(names)), captions, classes)
        caption_part, prompt_part = time_baseline(clip, make_model(clip, classes, contexts), few, arguments.repeats)
    return caption_part * arguments.batch_size / captions + prompt_part * len(names) / classes


def report(arguments: Arguments, figures: dict[str, float]) -> str:
    """The figures in words, one line each."""
    full = arguments.captions == FULL_CAPTIONS and arguments.epochs == FULL_EPOCHS and arguments.batch_size == 512
    values = vars(arguments) | figures | {"few_captions": BASELINE_CAPTIONS, "few_classes": BASELINE_CLASSES}
    values["cut"] = (
        "the full recipe" if full else f"CUT from {FULL_CAPTIONS:,} captions, {FULL_EPOCHS} epochs, batch 512"
    )
    values["kept"] = figures["bytes_kept"] / 1e6
    values["rate"] = figures["steps"] / figures["training_seconds"]
    lines = (
        f"machine     {machine()}",
        "sizes       {text} text tower, {layers} layers, width {width}, 80 classes, two shared contexts of 16 vectors",
        "recipe      {captions:,} captions, {epochs} epochs, batch {batch_size}, {dtype}: {cut}",
        "labelling   {labelling_seconds:.1f} s",
        "encoding    {encoding_seconds:.1f} s (captions and 7,120 templates, read and encoded: {kept:,.0f} MB)",
        "training    {training_seconds:.1f} s: {steps:,} steps on {trained_on:,} captions, {rate:.2f} a second; "
        "{held_out:,} held out, scored every epoch",
        "saving      {saving_seconds:.1f} s",
        "total       {seconds:.1f} s from captions to saved prompts",
        "published   {baseline_seconds:,.0f} s: {published_step_seconds:.2f} s a step, timed on {few_captions} "
        "captions and {few_classes} classes, scaled linearly, {steps:,} steps",
        "ratio       {ratio:.1f}",
        "memory      at most {resident_peak_mb:,.0f} MB resident, {device_peak_mb:,.0f} MB on a GPU",
    )
    return "\n".join(lines).format(**values)


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if arguments.device != "cpu" and torch.cuda.device_count() > 1:
        raise SystemExit("This benchmark is of one GPU: choose it with CUDA_VISIBLE_DEVICES=0.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    torch.manual_seed(arguments.seed)
    names = [row["name"] for row in load_class_table("coco80")]
    captions = distinct_captions(names, arguments.captions, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        figures = run_recipe(arguments, names, captions, Path(folder))
    figures["resident_peak_mb"] = peak_megabytes()
    figures["published_step_seconds"] = published_step(arguments, names)
    figures["baseline_seconds"] = figures["published_step_seconds"] * figures["steps"]
    figures["ratio"] = figures["baseline_seconds"] / figures["seconds"]
    print(report(arguments, figures))
    write_figures(arguments.json, figures | vars(arguments))


if __name__ == "__main__":
    main()
