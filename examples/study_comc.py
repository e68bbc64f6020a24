"""CoMC's classifier beside TaI-DPT's prompts, on the same base and the same captions.

    python examples/study_comc.py --data ../shared/data --captions ../shared/data/captions/coco_captions.jsonl

Captions of photographs that are scored are left out. The table has the merged mAP of zero-shot templates, the learned
prompts as the checkpoint ships, and CoMC without a bank, with one template of each class as the bank (as published),
and with the checkpoint's caption bank, each scored once; gains are over the learned prompts, with the interval of a
paired bootstrap over photographs. `--selection` folders decide, `--judged` is scored beside them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from comc import CoMCScorer, fit_comc
from embedded_base.corpus import read_image_captions
from embedded_base.labelled import encode_labelled
from embedded_base.selection import TEMPLATES
from transformers import HfArgumentParser

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    CaptionFeatures,
    ImageFeatures,
    TaiDptModel,
    mean_average_precision,
    paired_bootstrap,
)
from modeling_taidpt.captions.labels import label_captions, model_labeler
from modeling_taidpt.evaluation.predict import score_features


@dataclass
class Arguments:
    """What is learned from, and what is scored."""

    data: str = field(metadata={"help": "Folder that holds the folders below, each with images/ and labels.json."})
    captions: str = field(metadata={"help": "JSON lines of COCO captions to learn from."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint whose base and labels are used."})
    selection: list[str] = field(
        default_factory=lambda: ["coco_train", "voc2012"], metadata={"help": "Their selection parts choose."}
    )
    judged: str = field(default="coco_val_dev", metadata={"help": "Judges once."})
    most_captions: int = field(default=24000, metadata={"help": "Labelled captions at most, drawn at random."})
    epochs: int = field(default=20, metadata={"help": "Epochs of the classifier."})
    seed: int = field(default=0, metadata={"help": "Of the draw and the training."})
    cache_dir: str = field(default="comc_cache", metadata={"help": "Where features are cached."})
    resamples: int = field(default=1000, metadata={"help": "Bootstrap resamples over photographs."})


def encode_captions(model: TaiDptModel, arguments: Arguments) -> CaptionFeatures:
    """Features of captions that mention a label, without those of photographs in the folders that are scored."""
    held_out = set()
    for folder in (*arguments.selection, arguments.judged):
        table = json.loads((Path(arguments.data) / folder / "labels.json").read_text(encoding="utf-8"))
        names = [image["file_name"] for image in table["images"] if image["file_name"].startswith("COCO_")]
        held_out |= {int(re.findall(r"\d+", name)[-1]) for name in names}
    captions, _ = read_image_captions([arguments.captions], held_out)
    labels = label_captions(model_labeler(model.config), captions, model.config.labels)  # (captions, classes)
    rows = np.flatnonzero(labels.any(axis=1))
    rows = np.random.default_rng(arguments.seed).permutation(rows)[: arguments.most_captions]
    texts = [captions[row] for row in rows]
    return CaptionFeatures.encode(model, texts, labels[rows], cache_dir=arguments.cache_dir, dtype="float16")


def scores(model: TaiDptModel | CoMCScorer, photographs: ImageFeatures) -> tuple[torch.Tensor, torch.Tensor]:
    """Merged scores and labels of the classes that a folder knows and shows, `(images, classes)` each."""
    shown = (photographs.labels != 0).all(axis=0) & (photographs.labels > 0).any(axis=0)  # (classes,)
    present = torch.from_numpy((photographs.labels[:, shown] > 0).astype(int))  # (images, classes)
    return score_features(model, photographs).logits[:, shown], present


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    model = TaiDptModel.from_pretrained(arguments.model)
    captions = encode_captions(model, arguments)
    generator = torch.Generator().manual_seed(arguments.seed)
    comc = fit_comc(model, captions, num_train_epochs=arguments.epochs, generator=generator)
    rows = {
        "zero-shot": model.with_class_embeddings(model.encode_templates(TEMPLATES)),
        "learned": model,
        "CoMC, no bank": CoMCScorer(comc.weight, comc.bank, comc.local_weight, bank_share=0.0),
        "CoMC, template bank": comc,
    }
    if model.caption_bank is not None:
        rows["CoMC, caption bank"] = CoMCScorer(comc.weight, model.caption_bank.features, comc.local_weight)
    folders = [(name, True) for name in arguments.selection] + [(arguments.judged, None)]
    parts = {
        name: encode_labelled(model, Path(arguments.data) / name, part, arguments.cache_dir) for name, part in folders
    }
    print(f"{len(captions):,} captions\n")
    print(f"| | {' | gain | '.join(f'{name}, {len(part)}' for name, part in parts.items())} | gain |")
    print("|---" * (1 + 2 * len(parts)) + "|")
    learned = {name: scores(model, part)[0] for name, part in parts.items()}
    for row, scorer in rows.items():
        cells = [row]
        for name, part in parts.items():
            logits, present = scores(scorer, part)  # (images, classes) each
            cells.append(f"{mean_average_precision(logits, present)['map']:.1f}")
            gain = paired_bootstrap(logits, learned[name], present, num_resamples=arguments.resamples, seed=0)
            interval = f"{gain['difference']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"
            cells.append("" if scorer is model else interval)
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
