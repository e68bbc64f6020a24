"""How do supercategories score: by a template, by the mean of their members' prompts, by the best member?

    python examples/study_hypernyms.py --images coco_train voc2012 --fold 0

A photograph shows a supercategory when it shows one of its members. Gains are over the first row, with the interval of
a paired bootstrap over photographs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from evaluate import encode_photographs, read_photographs
from study_views import VOC_TO_COCO
from transformers import AutoImageProcessor, HfArgumentParser

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    TaiDptModel,
    mean_average_precision,
    paired_bootstrap,
    with_hypernyms,
)

FIRST_MEMBERS = {  # the 80 labels stand by supercategory: each begins at its first member
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
    fold: int | None = field(default=None, metadata={"help": "Only images whose name has CRC32 mod 5 equal to this."})


def supercategories(labels: list[str]) -> dict[str, list[str]]:
    """The members of each supercategory of more than one."""
    starts = [*(labels.index(label) for label in FIRST_MEMBERS.values()), len(labels)]
    members = {name: labels[a:b] for name, a, b in zip(FIRST_MEMBERS, starts[:-1], starts[1:], strict=True)}
    return {name: group for name, group in members.items() if len(group) > 1}


@torch.no_grad()
def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    model = TaiDptModel.from_pretrained(arguments.model)
    labels, groups = model.config.labels, supercategories(model.config.labels)
    mixed = with_hypernyms(model, groups)
    template = TaiDptModel.zero_shot(model.clip, list(groups), tokenizer=model.get_tokenizer())
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    for folder in arguments.images:
        photographs, categories = read_photographs(Path(folder), arguments.fold)
        names = [VOC_TO_COCO.get(name, name) for name in categories]
        truth = np.zeros((len(photographs), len(groups)), dtype=np.int64)  # (images, groups)
        for image, present in enumerate(photographs["labels"]):
            shown = {names[index] for index in present}
            truth[image] = [bool(shown & set(group)) for group in groups.values()]
        pooled, dense = encode_photographs(model, processor, photographs["file"])
        scores = mixed(image_embeds=pooled, dense_embeds=dense).logits  # (images, classes + groups)
        columns = [[labels.index(member) for member in group] for group in groups.values()]
        rows = {
            "template": template(image_embeds=pooled, dense_embeds=dense).logits,  # (images, groups)
            "mean of members' prompts": scores[:, len(labels) :],
            "best member's score": torch.stack([scores[:, group].amax(dim=1) for group in columns], dim=1),
        }
        print(
            f"{folder}: {len(photographs)} photographs, {int(truth.any(axis=0).sum())} of {len(groups)} groups shown"
        )
        for name, values in rows.items():
            gain = paired_bootstrap(values, rows["template"], truth, num_resamples=2000, seed=0)
            interval = f"{gain['difference']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"
            print(f"  {name:26s} mAP {mean_average_precision(values, truth)['map']:5.1f}  gain {interval}", flush=True)


if __name__ == "__main__":
    main()
