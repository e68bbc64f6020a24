# /// script
# requires-python = ">=3.10"
# dependencies = ["taidpt[onnx]"]
#
# [tool.uv.sources]
# taidpt = { path = "..", editable = true }
# ///
"""Exports a checkpoint to ONNX and says what ONNX Runtime and 8-bit weights change, beside PyTorch.

    python examples/export.py --output exported [--model CHECKPOINT] [--images DIR [--fold 0]]

DIR holds labelled photographs, as for `examples/evaluate.py`; with it mAP is printed. Without it the photographs that
ship are scored and only the differences are printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
import onnxruntime
import torch
from transformers import AutoImageProcessor, HfArgumentParser

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel, load_images, mean_average_precision
from modeling_taidpt.export.programs import ImageScorer, export_onnx
from modeling_taidpt.export.quantization import BATCH, known_classes, onnx_scorer, run_scorers
from modeling_taidpt.pipelines.image_reading import open_encoded

PHOTOGRAPHS = Path(__file__).parent / "images"


@dataclass
class Arguments:
    """What to export, and on what to measure it."""

    output: str = field(metadata={"help": "Folder for the exported model."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint: folder or Hub name."})
    images: str | None = field(default=None, metadata={"help": "Labelled photographs; those that ship without."})
    fold: int | None = field(default=None, metadata={"help": "Only images whose name has CRC32 mod 5 equal to this."})
    heatmaps: bool = field(default=False, metadata={"help": "Also export the similarity map."})
    threads: int = field(default=1, metadata={"help": "Threads of PyTorch and of ONNX Runtime."})


def read_photographs(arguments: Arguments, known: list[str]) -> tuple[list, np.ndarray | None, list[int]]:
    """Photographs, their labels `(images, classes)` and the places of the classes among the labels of the model."""
    if arguments.images is None:
        return [open_encoded(path).convert("RGB") for path in sorted(PHOTOGRAPHS.glob("*.jpg"))], None, []
    rows = load_images(arguments.images)
    if arguments.fold is not None:
        chosen = [i for i, name in enumerate(rows["image_id"]) if crc32(str(name).encode()) % 5 == arguments.fold]
        rows = rows.select(chosen)
    return [row["image"] for row in rows], *known_classes(rows, known)


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    torch.set_num_threads(arguments.threads)
    model = TaiDptModel.from_pretrained(arguments.model)
    quantized = export_onnx(model, arguments.output, heatmaps=arguments.heatmaps, quantize=True)
    photographs, labels, places = read_photographs(arguments, model.config.labels)
    processor = AutoImageProcessor.from_pretrained(arguments.output)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    scorer = ImageScorer(model).eval()
    scorers = {"PyTorch": lambda pixels: scorer(torch.from_numpy(pixels))[0].numpy()}
    for file in (quantized.with_name("model.onnx"), quantized):
        scorers[file.name] = onnx_scorer(onnxruntime.InferenceSession(file, options))
    with torch.no_grad():
        scores, seconds = run_scorers(scorers, processor, photographs)
    print(f"{len(photographs)} photographs, {arguments.threads} thread(s), batches of {BATCH}")
    for name, values in scores.items():
        row = f"{name:22s} {1000 * seconds[name] / len(photographs):6.1f} ms/image"
        row += f"  largest difference {np.abs(values - scores['PyTorch']).max():.1e}"
        if name != "PyTorch":
            row += f"  {(quantized.parent / name).stat().st_size / 1e6:6.1f} MB"
        if labels is not None:
            row += f"  mAP {mean_average_precision(values[:, places], labels)['map']:.2f}"
        print(row)


if __name__ == "__main__":
    main()
