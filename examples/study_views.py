"""What other image sizes, the whole image, mirror images, windows and dense features do to the mAP of a checkpoint.

    python examples/study_views.py --images coco_train voc2012 --selection           # the selection photographs
    python examples/study_views.py --images coco_val_dev --rows plain "whole, 288, flip"   # the chosen row, once

Each DIR holds `labels.json` and `images/`, as for `evaluate.py`. Gains are over the first row, with the interval of a
paired bootstrap over photographs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from study_photographs import plain_scores, read_known
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, HfArgumentParser

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel, mean_average_precision, paired_bootstrap
from modeling_taidpt.evaluation.evaluate import BRANCHES
from modeling_taidpt.pipelines.heatmaps import processor_for
from modeling_taidpt.pipelines.image_reading import open_encoded

ROWS: dict[str, dict] = {
    "plain": {},
    "flip": {"flip": True},
    "whole": {"center_crop": False},
    "whole, flip": {"center_crop": False, "flip": True},
    "crop, 288": {"image_size": 288},
    "whole, 256": {"center_crop": False, "image_size": 256},
    "whole, 288": {"center_crop": False, "image_size": 288},
    "whole, 352": {"center_crop": False, "image_size": 352},
    "whole, 448": {"center_crop": False, "image_size": 448},
    "whole, 256, flip": {"center_crop": False, "image_size": 256, "flip": True},
    "whole, 288, flip": {"center_crop": False, "image_size": 288, "flip": True},
    "whole, 352, flip": {"center_crop": False, "image_size": 352, "flip": True},
    "whole, windows": {"center_crop": False, "multi_crop": True},
    "whole, windows, flip": {"center_crop": False, "multi_crop": True, "flip": True},
    "whole, 352, windows": {"center_crop": False, "image_size": 352, "multi_crop": True},
    "plain, naclip": {"dense_features": "naclip"},
    "whole, naclip": {"center_crop": False, "dense_features": "naclip"},
}


@dataclass
class Arguments:
    """What to measure, on what."""

    images: list[str] = field(metadata={"help": "Folders with labels.json and images/."})
    rows: list[str] | None = field(default=None, metadata={"help": "Rows of the table; all by default."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint."})
    selection: bool = field(default=False, metadata={"help": "Only the selection photographs of the folders."})
    as_shipped: bool = field(default=False, metadata={"help": "Keeps the checkpoint's standardisation of scores."})
    resamples: int = field(default=2000, metadata={"help": "Bootstrap resamples over photographs."})


@torch.no_grad()
def score(model: TaiDptModel, processor, files: list[str], row: dict) -> dict[str, torch.Tensor]:
    """Logits `(images, classes)` of each branch, image by image as their sizes differ."""
    model.config.dense_features = row.get("dense_features", "value")
    views = {name: row[name] for name in ("flip", "multi_crop") if name in row}
    logits: dict[str, list[torch.Tensor]] = {branch: [] for branch in BRANCHES}
    for file in tqdm(files, leave=False):
        image = open_encoded(file).convert("RGB")
        size = (image.height, image.width)
        pixels = processor_for(
            processor, size, row.get("image_size"), row.get("center_crop"), model.config.patch_size
        )(image)
        outputs = model(pixel_values=torch.as_tensor(pixels), interpolate_pos_encoding=True, **views)
        for branch, values in zip(
            BRANCHES, (outputs.logits_global, outputs.logits_local, outputs.logits), strict=True
        ):
            logits[branch].append(values)  # (1, classes)
    return {branch: torch.cat(values) for branch, values in logits.items()}


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    rows = {name: ROWS[name] for name in arguments.rows or ROWS}
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    for folder in arguments.images:
        model = TaiDptModel.from_pretrained(arguments.model)
        model = model if arguments.as_shipped else plain_scores(model)
        files, columns, truth = read_known(folder, model.config.labels, arguments.selection)
        print(f"{folder}: {len(files)} photographs, {len(columns)} classes")
        first = None
        for name, row in rows.items():
            scores = {b: v[:, columns] for b, v in score(model, processor, files, row).items()}
            first = scores["merged"] if first is None else first
            gain = paired_bootstrap(scores["merged"], first, truth, num_resamples=arguments.resamples, seed=0)
            maps = "  ".join(f"{b} {mean_average_precision(v, truth)['map']:5.1f}" for b, v in scores.items())
            print(
                f"  {name:22s} {maps}  gain {gain['difference']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
