"""mAP of zero-shot, caption prototypes and learned prompts on labelled photographs, with bootstrap intervals.

    python examples/evaluate.py --images DIR --captions corpus.jsonl [--model CHECKPOINT] [--json FILE]

DIR holds `labels.json` ({"categories": [...], "images": [{"file_name": ..., "labels": [indices]}]}) and `images/`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, HfArgumentParser

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    CaptionFeatures,
    TaiDptModel,
    bootstrap_map,
    default_labeler,
    load_templates,
    mean_average_precision,
    paired_bootstrap,
    read_captions,
)

BRANCHES = ("global", "local", "merged")


@dataclass
class Arguments:
    """What to evaluate, and on what."""

    images: str = field(metadata={"help": "Folder with labels.json and images/."})
    captions: str | None = field(default=None, metadata={"help": "Corpus of the caption prototypes; none without."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint of learned prompts."})
    max_captions: int = field(default=350, metadata={"help": "Most captions per class in a prototype."})
    resamples: int = field(default=2000, metadata={"help": "Bootstrap resamples over images."})
    fold: int | None = field(default=None, metadata={"help": "Only images whose name has CRC32 mod 5 equal to this."})
    seed: int = field(default=0, metadata={"help": "Seed of the resamples and of the prototypes' captions."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def read_photographs(folder: Path, fold: int | None) -> datasets.Dataset:
    """Rows of `file` and `labels`; with a fold, those of one fifth of the file names."""
    from zlib import crc32

    table = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    rows = [row for row in table["images"] if fold is None or crc32(row["file_name"].encode()) % 5 == fold]
    files = [str(folder / "images" / row["file_name"]) for row in rows]
    return datasets.Dataset.from_dict({"file": files, "labels": [row["labels"] for row in rows]}), table["categories"]


@torch.no_grad()
def encode_photographs(model: TaiDptModel, processor, files: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Global `(images, dim)` and dense `(images, height, width, dim)` features, encoded once for all models."""
    parts = []
    for start in range(0, len(files), 32):
        images = [Image.open(file).convert("RGB") for file in files[start : start + 32]]
        parts.append(model.encode_images(processor(images=images, return_tensors="pt")["pixel_values"]))
    pooled, dense = zip(*parts, strict=True)
    return torch.cat(pooled), torch.cat(dense)


def build_models(arguments: Arguments, model: TaiDptModel) -> dict[str, TaiDptModel]:
    """The baselines and the learned prompts on the same CLIP; the last one is the learned one."""
    models = {
        "zero-shot, 1 template": model.with_class_embeddings(model.encode_templates()),
        "zero-shot, 80 templates": model.with_class_embeddings(model.encode_templates(load_templates("imagenet"))),
    }
    if arguments.captions is not None:
        captions = read_captions(arguments.captions).captions
        labels = default_labeler(model.config.labels, model.config.class_names)(captions)  # (captions, classes)
        named = np.flatnonzero(labels.any(axis=1))
        features = CaptionFeatures.encode(model, [captions[i] for i in named], labels[named], dtype="float16")
        prototypes, _ = features.class_prototypes(arguments.max_captions, arguments.seed)
        models["caption prototypes"] = model.with_class_embeddings(prototypes)
    return models | {"TaI-DPT, learned": model}


@torch.no_grad()
def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    photographs, categories = read_photographs(Path(arguments.images), arguments.fold)
    model = TaiDptModel.from_pretrained(arguments.model).with_labels(categories)
    labels = np.zeros((len(photographs), len(categories)), dtype=np.int64)  # (images, classes)
    for row, present in enumerate(photographs["labels"]):
        labels[row, present] = 1
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    pooled, dense = encode_photographs(model, processor, photographs["file"])
    scores = {}
    for name, candidate in build_models(arguments, model).items():
        outputs = candidate(image_embeds=pooled, dense_embeds=dense)
        scores[name] = dict(zip(BRANCHES, (outputs.logits_global, outputs.logits_local, outputs.logits), strict=True))
    print(f"{len(photographs)} photographs, {len(categories)} classes, {arguments.model}")
    options = {"num_resamples": arguments.resamples, "seed": arguments.seed}
    figures, learned = {}, scores["TaI-DPT, learned"]["merged"]
    for name, branches in scores.items():
        maps = {branch: mean_average_precision(values, labels)["map"] for branch, values in branches.items()}
        interval = bootstrap_map(branches["merged"], labels, **options)
        gain = paired_bootstrap(learned, branches["merged"], labels, **options)
        figures[name] = {**maps, "merged_interval": [interval["low"], interval["high"]], "learned_minus_this": gain}
        row = "  ".join(f"{branch} {value:5.1f}" for branch, value in maps.items())
        row += f"  [{interval['low']:.1f}, {interval['high']:.1f}]"
        row += f"  learned - this {gain['difference']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"
        print(f"{name:24s} {row}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
