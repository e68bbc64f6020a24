"""Captions encoded and cached per second, against the text tower's bare throughput.

    python benchmarks/caption_features.py [--captions 1024] [--json FILE]

The baseline is the text tower and its projection on the same captions, tokenised and sorted by length before the
clock starts, in the same batches, with nothing cached. Ours tokenises, encodes, normalises,
and writes the memory-mapped files.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from common import machine, median_seconds, write_figures
from labelling import ROOT, make_captions
from train_step import make_clip
from transformers import HfArgumentParser

from modeling_taidpt import CaptionFeatures, TaiDptModel


@dataclass
class Arguments:
    """Sizes; the defaults are CLIP ViT-B/32's text tower."""

    captions: int = field(default=1024, metadata={"help": "Captions encoded."})
    layers: int = field(default=12, metadata={"help": "Layers of the text tower."})
    width: int = field(default=512, metadata={"help": "Width of the text tower."})
    batch_size: int = field(default=128, metadata={"help": "Captions in a batch."})
    repeats: int = field(default=3, metadata={"help": "Timed runs after one warm-up; the median counts."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


@torch.inference_mode()
def bare(model: TaiDptModel, batches: list[dict[str, torch.Tensor]]) -> None:
    """The text tower and its projection on ready batches."""
    for batch in batches:
        hidden = model.clip.text_model(**batch).last_hidden_state  # (batch, length, width)
        model.clip.text_projection(hidden)  # (batch, length, dim)


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    torch.manual_seed(0)
    model = TaiDptModel.from_clip(make_clip(arguments.layers, arguments.width), labels=["dog"])
    captions = make_captions(str(ROOT / "examples/data/captions.txt"), arguments.captions, 0)
    labels = np.ones((len(captions), 1), dtype=np.uint8)  # (captions, classes)
    tokenizer = model.get_tokenizer()
    ids = sorted(tokenizer(captions)["input_ids"], key=len)
    size = arguments.batch_size
    batches = [
        dict(tokenizer.pad({"input_ids": ids[start : start + size]}, return_tensors="pt"))
        for start in range(0, len(ids), size)
    ]
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(10**6))

        def encode(dtype: str = "float32") -> Path:
            cache = Path(folder) / str(next(numbers))
            options = {"cache_dir": cache, "dtype": dtype, "batch_size": size, "progress": False}
            CaptionFeatures.encode(model, captions, labels, **options)
            return cache

        baseline = median_seconds(lambda: bare(model, batches), arguments.repeats)
        ours = median_seconds(encode, arguments.repeats)
        stored = {
            dtype: sum(file.stat().st_size for file in encode(dtype).rglob("*.arrow")) / len(captions)
            for dtype in ("float32", "float16", "bfloat16")
        }
    count, tokens = len(captions), sum(map(len, ids)) / len(ids)
    print(f"machine    {machine()}")
    print(f"sizes      {count} captions of {tokens:.1f} tokens, {arguments.layers} layers, width {arguments.width}")
    print(f"baseline   {len(captions) / baseline:,.0f} captions a second (bare text tower)")
    print(f"ours       {count / ours:,.0f} captions a second, into the cache: {baseline / ours:.2f} of the baseline")
    print("cached     " + ", ".join(f"{size:,.0f} bytes a caption in {dtype}" for dtype, size in stored.items()))
    figures = {"captions": len(captions), "tokens": tokens, "layers": arguments.layers, "width": arguments.width}
    figures |= {"baseline_seconds": baseline, "seconds": ours, "ratio": baseline / ours, "bytes_per_caption": stored}
    write_figures(arguments.json, figures)


if __name__ == "__main__":
    main()
