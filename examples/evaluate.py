# /// script
# requires-python = ">=3.10"
# dependencies = ["taidpt"]
#
# [tool.uv.sources]
# taidpt = { path = "..", editable = true }
# ///
"""mAP of zero-shot, caption prototypes and learned prompts on labelled photographs, with bootstrap intervals.

    python examples/evaluate.py --images DIR --captions corpus.jsonl [--model CHECKPOINT] [--json FILE]

DIR holds `labels.json` ({"categories": [...], "images": [{"file_name": ..., "labels": [indices]}]}) and `images/`.
`taidpt evaluate` does the same and writes a report.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from transformers import HfArgumentParser

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    TaiDptModel,
    baseline_models,
    class_names_of,
    evaluate_scores,
    image_label_matrix,
    load_images,
    score_images,
    with_classes,
)

LEARNED = "TaI-DPT, learned"


@dataclass
class Arguments:
    """What to evaluate, and on what."""

    images: str = field(metadata={"help": "Folder with labels.json and images/, or of VOC2007, COCO or NUS-WIDE."})
    captions: str | None = field(default=None, metadata={"help": "Corpus of the caption prototypes; none without."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint of learned prompts."})
    max_captions: int = field(default=350, metadata={"help": "Most captions per class in a prototype."})
    resamples: int = field(default=2000, metadata={"help": "Bootstrap resamples over images."})
    fold: int | None = field(default=None, metadata={"help": "Only images whose name has CRC32 mod 5 equal to this."})
    seed: int = field(default=0, metadata={"help": "Seed of the resamples and of the prototypes' captions."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    photographs = load_images(arguments.images)
    if arguments.fold is not None:
        ids = photographs["image_id"]
        chosen = [row for row, name in enumerate(ids) if crc32(str(name).encode()) % 5 == arguments.fold]
        photographs = photographs.select(chosen)
    classes, labels = class_names_of(photographs), image_label_matrix(photographs)  # (images, classes)
    model = with_classes(TaiDptModel.from_pretrained(arguments.model), classes)
    names = ["template", "templates", *(["prototypes"] if arguments.captions else [])]
    baselines = baseline_models(model, names, arguments.captions, arguments.max_captions, arguments.seed)
    scores = score_images({LEARNED: model, **baselines}, photographs)
    learned = {LEARNED: scores.pop(LEARNED)}
    figures = evaluate_scores(learned, labels, classes, scores, num_resamples=arguments.resamples, seed=arguments.seed)
    print(f"{len(photographs)} photographs, {len(classes)} classes, {arguments.model}")
    gains = {entry["other"]: entry for entry in figures["differences"]}
    for name, entry in figures["models"].items():
        row = "  ".join(f"{branch} {value:5.1f}" for branch, value in entry["map"].items())
        row += f"  [{entry['interval']['low']:.1f}, {entry['interval']['high']:.1f}]"
        if name in gains:
            gain = gains[name]
            row += f"  learned - this {gain['difference']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"
        print(f"{name:18s} {row}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
