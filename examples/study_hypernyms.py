"""How do supercategories score: by a template, by the mean of their members' prompts, by the best member?

    python examples/study_hypernyms.py --images coco_train voc2012 --selection

A photograph shows a supercategory when it shows one of its members. Gains are over the first row, with the interval of
a paired bootstrap over photographs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from study_photographs import encode_photographs, plain_scores, read_known
from transformers import AutoImageProcessor, HfArgumentParser

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    TaiDptModel,
    mean_average_precision,
    paired_bootstrap,
    with_hypernyms,
)

FIRST_MEMBERS = {  # the 80 labels are ordered by supercategory: each begins at its first member
    "person": "person",
    "vehicle": "bicycle",
    "street furniture": "traffic light",
    "animal": "bird",
    "accessory": "backpack",
    "sports equipment": "frisbee",
    "tableware": "bottle",
    "food": "banana",
    "furniture": "chair",
    "electronic device": "tv",
    "kitchen appliance": "microwave",
    "household item": "book",
}


@dataclass
class Arguments:
    """What to measure, on what."""

    images: list[str] = field(metadata={"help": "Folders with labels.json and images/."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint for the 80 COCO labels."})
    selection: bool = field(default=False, metadata={"help": "Only the selection photographs of the folders."})


def supercategories(labels: list[str]) -> dict[str, list[str]]:
    """The members of each supercategory of more than one."""
    starts = [*(labels.index(label) for label in FIRST_MEMBERS.values()), len(labels)]
    members = {name: labels[a:b] for name, a, b in zip(FIRST_MEMBERS, starts[:-1], starts[1:], strict=True)}
    return {name: group for name, group in members.items() if len(group) > 1}


@torch.no_grad()
def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    model = TaiDptModel.from_pretrained(arguments.model)
    plain_scores(model)
    labels, groups = model.config.labels, supercategories(model.config.labels)
    mixed = with_hypernyms(model, groups)
    template = TaiDptModel.zero_shot(model.clip, list(groups), tokenizer=model.get_tokenizer())
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    for folder in arguments.images:
        files, columns, present = read_known(folder, labels, arguments.selection)
        names = [labels[column] for column in columns]  # (known,)
        members = np.array([[name in group for group in groups.values()] for name in names])  # (known, groups)
        truth = (present @ members > 0).astype(np.int64)  # (images, groups)
        features = encode_photographs(model, processor, files)
        scores = mixed(**features).logits  # (images, classes + groups)
        columns = [[labels.index(member) for member in group] for group in groups.values()]
        rows = {
            "template": template(**features).logits,  # (images, groups)
            "mean of members' prompts": scores[:, len(labels) :],
            "best member's score": torch.stack([scores[:, group].amax(dim=1) for group in columns], dim=1),
        }
        print(f"{folder}: {len(files)} photographs, {int(truth.any(axis=0).sum())} of {len(groups)} groups shown")
        for name, values in rows.items():
            gain = paired_bootstrap(values, rows["template"], truth, num_resamples=2000, seed=0)
            interval = f"{gain['difference']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"
            print(f"  {name:26s} mAP {mean_average_precision(values, truth)['map']:5.1f}  gain {interval}", flush=True)


if __name__ == "__main__":
    main()
