"""Prompts from text, from few images, from partial labels, and their combination, on the 20 VOC classes.

    python examples/study_image_prompts.py --fit voc2012 coco_train --test coco_val_dev --output outputs/image_prompts

Each DIR holds `labels.json` and `images/`. Only photographs of fold 0 (CRC32 of the file name mod 5), which the base
that ships never saw, are fitted on. Settings are chosen among `CANDIDATES` on one half of them after fitting on the
other; merge weights are the paper's. What is done already (`scores/`, `selection.json`) is not done again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from embedded_base.labelled import read_labelled
from image_prompts.report import as_table, figures
from image_prompts.settings import CANDIDATES, SELECTED_AT, SETTINGS
from study_photographs import plain_scores, read_known
from transformers import HfArgumentParser, set_seed

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    IMAGE_RECIPES,
    ImageFeatures,
    TaiDptModel,
    TaiDptTrainer,
    TaiDptTrainingArguments,
    mean_average_precision,
    predict_scores,
)


@dataclass
class Arguments:
    """What to fit and test on."""

    fit: list[str] = field(metadata={"help": "Folders whose fold 0 is fitted on."})
    test: str = field(metadata={"help": "Folder of the test photographs."})
    output: str = field(metadata={"help": "Folder for scores and figures."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Prompts learned from text, with their CLIP."})
    seeds: int = field(default=5, metadata={"help": "Number of seeds: draws and starts."})
    steps: int = field(default=100, metadata={"help": "Training steps of every fit."})


def read(model: TaiDptModel, folders: list[str], fold_0: bool, columns: np.ndarray) -> ImageFeatures:
    """Kept features of the photographs of some folders, with the labels of some columns, which all folders know."""
    rows = [row for folder in folders for row in read_labelled(folder, model.config.labels, fold_0 or None)]
    features = ImageFeatures.encode(model, rows)
    return features.with_labels(features.labels[:, columns] == 1)


def fit(text: TaiDptModel, images: ImageFeatures, kind: str, name: str, arguments: Arguments, seed: int, **data):
    """A model on the same CLIP that is fitted to images."""
    options, training = CANDIDATES[kind][name]
    set_seed(seed)
    labels, tokenizer = text.config.labels, text.get_tokenizer()
    model = TaiDptModel.from_clip(text.clip, labels, tokenizer, recipe=IMAGE_RECIPES[kind], **options)
    run = {"output_dir": arguments.output, "seed": seed, "max_steps": arguments.steps, "report_to": "none"}
    run |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}
    args = TaiDptTrainingArguments.from_recipe(IMAGE_RECIPES[kind], **{**run, **training, **data})
    trainer = TaiDptTrainer(model, args, train_dataset=images)
    trainer.train()
    return trainer.model


def select(text: TaiDptModel, pool: ImageFeatures, arguments: Arguments, file: Path) -> dict[str, dict[str, float]]:
    """MAP of every candidate on one half of the pool after fitting on the other, at 4 shots and half of the labels."""
    found = json.loads(file.read_text()) if file.is_file() else {}
    order = np.random.default_rng(0).permutation(len(pool))
    first, second = pool.select(order[::2]), pool.select(order[1::2])
    for kind, data in SELECTED_AT.items():
        for name in CANDIDATES[kind]:
            if name not in found.setdefault(kind, {}):
                scores = predict_scores(fit(text, first, kind, name, arguments, 0, **data), second)
                found[kind][name] = mean_average_precision(scores, second.labels)["map"]
                file.write_text(json.dumps(found, indent=2) + "\n")
        print(f"{kind}, mAP on the other half of the pool: {found[kind]}", flush=True)
    return found


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    folder = Path(arguments.output) / "scores"
    folder.mkdir(parents=True, exist_ok=True)
    text = plain_scores(TaiDptModel.from_pretrained(arguments.model))
    known = read_known(arguments.fit[0], text.config.labels, True)[1]  # columns of the labels that VOC2012 has
    pool, test = read(text, arguments.fit, True, known), read(text, [arguments.test], False, known)
    text = text.with_labels([text.config.labels[column] for column in known])
    selection = select(text, pool, arguments, Path(arguments.output) / "selection.json")
    chosen = {kind: max(maps, key=maps.get) for kind, maps in selection.items()}
    scores = {"text": predict_scores(text, test)}
    for seed in range(arguments.seeds):
        for name, (kind, data) in SETTINGS.items():
            file = folder / f"{name.replace(' ', '-')}-seed{seed}.npy"
            if not file.is_file():
                matrix = predict_scores(fit(text, pool, kind, chosen[kind], arguments, seed, **data), test)
                np.save(file.with_suffix(".tmp.npy"), matrix)
                os.replace(file.with_suffix(".tmp.npy"), file)
            scores[name, seed] = np.load(file)
    found = figures(scores, test.labels, arguments.seeds) | {"fitted_on": len(pool), "tested_on": len(test)}
    found |= {"selection": selection, "chosen": chosen, "steps": arguments.steps}
    (Path(arguments.output) / "figures.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{len(pool)} photographs fitted on, {len(test)} tested on; chosen: {chosen}\n\n{as_table(found)}")


if __name__ == "__main__":
    main()
