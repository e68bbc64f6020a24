"""Table of score standardisation: mAP of the merged scores on the selection photographs and on others.

    python examples/study_standardization.py --captions coco_captions.jsonl --photographs coco_train voc2012

Options are chosen on the selection part of `--photographs` (file names with CRC32 mod 5 = 0). Unlabelled images are
drawn from the rest of them, captions from `--captions`. `--test` adds photographs that nothing was chosen on, with
the gain over the first row and its 95 % interval (paired bootstrap). What the checkpoint stores of standardisation is
put aside first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from embedded_base.corpus import draw_captions
from embedded_base.labelled import encode_labelled, joined
from embedded_base.standardization_rows import ways
from transformers import HfArgumentParser

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    CaptionFeatures,
    TaiDptModel,
    default_labeler,
    mean_average_precision,
    paired_bootstrap,
)


@dataclass
class Arguments:
    """What is measured, and on what."""

    captions: str = field(metadata={"help": "Corpus of the caption statistics."})
    photographs: list[str] = field(metadata={"help": "Folders with labels.json and images/ to choose on."})
    test: str | None = field(default=None, metadata={"help": "Folder that nothing is chosen on."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint."})
    spatial_scales: list[float] = field(default_factory=lambda: [40.0, 5.0], metadata={"help": "First: the paper's."})
    max_captions: int = field(default=6000, metadata={"help": "Captions drawn from the corpus."})
    seeds: int = field(default=3, metadata={"help": "Draws of unlabelled images; the table has their mean."})
    cache: str | None = field(default=None, metadata={"help": "Folder for image and caption features."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    model = TaiDptModel.from_pretrained(arguments.model)
    labels = model.config.labels
    parts = {
        Path(folder).name: encode_labelled(model, folder, True, arguments.cache) for folder in arguments.photographs
    }
    pool = joined([encode_labelled(model, folder, False, arguments.cache) for folder in arguments.photographs])
    if arguments.test:
        parts["test"] = encode_labelled(model, arguments.test, None, arguments.cache)
    captions = draw_captions(arguments.captions, arguments.max_captions)
    multi_hot = default_labeler(labels, model.config.class_names)(captions)  # (captions, classes)
    captions = CaptionFeatures.encode(model, captions, multi_hot, dtype="float16", cache_dir=arguments.cache)
    table: dict[str, list] = {}
    for scale in arguments.spatial_scales:
        table |= ways(scale, captions, pool, arguments.seeds, complete=scale == arguments.spatial_scales[0])
    figures: dict[str, dict] = {}
    first: torch.Tensor | None = None
    for name, runs in table.items():
        figures[name] = {}
        for part, photographs in parts.items():
            present, known = photographs.labels > 0, (photographs.labels != 0).all(axis=0)  # (images, classes)
            scores = []
            for setting, way in runs:
                setting(model)
                scores.append(way(model, photographs)[:, known])  # (images, known classes)
            maps = [mean_average_precision(values, present[:, known])["map"] for values in scores]
            figures[name][part] = float(np.mean(maps))
            if part == "test":
                first = scores[0] if first is None else first
                figures[name]["gain"] = paired_bootstrap(scores[0], first, present[:, known], seed=0)
        cells = "  ".join(f"{part} {figures[name][part]:5.1f}" for part in parts)
        gain = figures[name].get("gain")
        cells += f"  gain {gain['difference']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]" if gain else ""
        print(f"{name:58s} {cells}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
