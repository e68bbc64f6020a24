"""Do prompts learned on some classes serve others? Each class is scored by prompts that were learned without it.

    python examples/study_transfer.py --captions train.jsonl --images coco_train voc2012 --fold 0
    python examples/study_transfer.py --captions train.jsonl --images coco_val_dev --rows "80 templates" "learned"

For every seed the 80 COCO labels are dealt into four parts; a shared context is learned on captions with 60 labels and
scores the other 20, four times, so that the mAP is over all labels. Gains are over the first row, with the interval of
a paired bootstrap over photographs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
from evaluate import BRANCHES, encode_photographs, read_photographs
from held_out_classes import learned_without
from study_views import VOC_TO_COCO
from transformers import AutoImageProcessor, HfArgumentParser

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    TaiDptModel,
    default_labeler,
    ensemble_prompts,
    load_templates,
    mean_average_precision,
    paired_bootstrap,
    read_captions,
)


@dataclass
class Arguments:
    """What to learn from, and what to measure on."""

    captions: str = field(metadata={"help": "Corpus to learn from."})
    images: list[str] = field(metadata={"help": "Folders with labels.json and images/."})
    rows: list[str] | None = field(default=None, metadata={"help": "Rows of the table; all by default."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint whose CLIP and labels are used."})
    fold: int | None = field(default=None, metadata={"help": "Only images whose name has CRC32 mod 5 equal to this."})
    seeds: list[int] = field(default_factory=lambda: [0, 1], metadata={"help": "Seeds of parts and trainings."})
    steps: int = field(default=150, metadata={"help": "Steps of each training."})
    output_dir: str = field(default="runs/transfer", metadata={"help": "Folder of the learned contexts."})


@torch.no_grad()
def build_rows(base: TaiDptModel, seed: int, table: datasets.Dataset, arguments: Arguments) -> dict[str, TaiDptModel]:
    template = base.with_class_embeddings(base.encode_templates())
    templates = base.with_class_embeddings(base.encode_templates(load_templates("imagenet")))
    with torch.enable_grad():
        learned = learned_without(base, table, seed, arguments.steps, Path(arguments.output_dir))
    return {
        "80 templates": templates,
        "1 template": template,
        "learned": learned,
        "learned + 1 template": ensemble_prompts([learned, template]),
        "learned + 80 templates": ensemble_prompts([learned, templates]),
        "learned, all seen": base,
    }


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    base = TaiDptModel.from_pretrained(arguments.model)
    labels = base.config.labels
    captions = read_captions(arguments.captions).captions
    named = default_labeler(labels, base.config.class_names)(captions)  # (captions, classes)
    table = datasets.Dataset.from_dict(
        {
            "caption": [captions[row] for row in np.flatnonzero(named.any(axis=1))],
            "labels": [[labels[i] for i in np.flatnonzero(row)] for row in named[named.any(axis=1)]],
        }
    )
    rows = {seed: build_rows(base, seed, table, arguments) for seed in arguments.seeds}
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    for folder in arguments.images:
        photographs, categories = read_photographs(Path(folder), arguments.fold)
        columns = [labels.index(VOC_TO_COCO.get(name, name)) for name in categories]
        truth = np.zeros((len(photographs), len(categories)), dtype=np.int64)  # (images, classes)
        for image, present in enumerate(photographs["labels"]):
            truth[image, present] = 1
        features = encode_photographs(base, processor, photographs["file"])
        print(f"{folder}: {len(photographs)} photographs, {len(categories)} classes")
        for seed, models in rows.items():
            first = None
            for name in arguments.rows or models:
                outputs = models[name](image_embeds=features[0], dense_embeds=features[1])
                scores = (outputs.logits_global, outputs.logits_local, outputs.logits)  # (images, classes) each
                scores = dict(zip(BRANCHES, (values[:, columns].detach() for values in scores), strict=True))
                first = scores["merged"] if first is None else first
                gain = paired_bootstrap(scores["merged"], first, truth, num_resamples=2000, seed=0)
                maps = "  ".join(f"{b} {mean_average_precision(v, truth)['map']:5.1f}" for b, v in scores.items())
                interval = f"{gain['difference']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"
                print(f"  seed {seed}  {name:24s} {maps}  gain {interval}", flush=True)


if __name__ == "__main__":
    main()
