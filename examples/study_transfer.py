"""Do prompts learned on some classes serve others? Each class is scored by prompts that were learned without it.

    python examples/study_transfer.py --captions train.jsonl --images coco_train voc2012 --selection
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
from held_out_classes import learned_without
from study_photographs import encode_photographs, plain_scores, read_known
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
from modeling_taidpt.evaluation.evaluate import BRANCHES


@dataclass
class Arguments:
    """What to learn from, and what to measure on."""

    captions: str = field(metadata={"help": "Corpus to learn from."})
    images: list[str] = field(metadata={"help": "Folders with labels.json and images/."})
    rows: list[str] | None = field(default=None, metadata={"help": "Rows of the table; all by default."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint whose CLIP and labels are used."})
    selection: bool = field(default=False, metadata={"help": "Only the selection photographs of the folders."})
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
    plain_scores(base)
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
        files, columns, truth = read_known(folder, labels, arguments.selection)
        features = encode_photographs(base, processor, files)
        print(f"{folder}: {len(files)} photographs, {len(columns)} classes")
        for seed, models in rows.items():
            first = None
            for name in arguments.rows or models:
                outputs = models[name](**features)
                scores = (outputs.logits_global, outputs.logits_local, outputs.logits)  # (images, classes) each
                scores = dict(zip(BRANCHES, (values[:, columns].detach() for values in scores), strict=True))
                first = scores["merged"] if first is None else first
                gain = paired_bootstrap(scores["merged"], first, truth, num_resamples=2000, seed=0)
                maps = "  ".join(f"{b} {mean_average_precision(v, truth)['map']:5.1f}" for b, v in scores.items())
                interval = f"{gain['difference']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"
                print(f"  seed {seed}  {name:24s} {maps}  gain {interval}", flush=True)


if __name__ == "__main__":
    main()
