r"""Tags of custom labels: thresholds without a labelled photograph, and with few, judged on photographs.

    taidpt train --labels table.json --captions captions.txt --output runs/own
    python examples/study_own_labels.py --model runs/own --captions captions.txt --photographs coco_val_dev \
      --names names.json

`--names` is a JSON file from labels of the model to categories of the photographs (`labels.json`); labels that it
lacks are tagged and not judged. Without it labels are categories of the same name. Rows with labelled photographs are
means over ten draws, judged on the photographs that were not drawn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedded_base.labelled import VOC_NAMES
from real_scores.judged import Judged
from real_scores.report import as_markdown
from transformers import HfArgumentParser

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel, mean_average_precision, read_captions
from modeling_taidpt.captions.labels import label_captions, model_labeler
from modeling_taidpt.evaluation.calibration import fit_score_calibration, fit_thresholds
from modeling_taidpt.evaluation.label_shares import caption_shares
from modeling_taidpt.evaluation.predict import score_features
from modeling_taidpt.evaluation.score_fitting import fit_expected_shares
from modeling_taidpt.features.images import ImageFeatures

DRAWS = 10
SIZES = (10, 30, 50, 100)


@dataclass
class Arguments:
    """What is measured, and on what."""

    captions: str = field(metadata={"help": "Captions whose labels are counted."})
    photographs: str = field(metadata={"help": "Folder with labels.json and images/."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint."})
    names: str | None = field(default=None, metadata={"help": "JSON file from labels to categories."})
    labels_per_image: list[float] = field(default_factory=list, metadata={"help": "Beside the default."})
    cache: str | None = field(default=None, metadata={"help": "Folder for image features."})


def read_truth(folder: Path, labels: list[str], names: dict[str, str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Files, what they show `(photographs, judged)` and the columns of the judged labels `(judged,)`."""
    table = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    categories = [VOC_NAMES.get(name, name) for name in table["categories"]]
    columns = [column for column, label in enumerate(labels) if names.get(label) in categories]
    wanted = [categories.index(names[labels[column]]) for column in columns]
    truth = np.array([[int(place in image["labels"]) for place in wanted] for image in table["images"]])
    return [str(folder / "images" / image["file_name"]) for image in table["images"]], truth, np.array(columns)


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    model = TaiDptModel.from_pretrained(arguments.model)
    labels = model.config.labels
    names = json.loads(Path(arguments.names).read_text()) if arguments.names else {label: label for label in labels}
    files, truth, columns = read_truth(Path(arguments.photographs), labels, names)
    features = ImageFeatures.encode(
        model, [{"image": file} for file in files], label_column=None, cache_dir=arguments.cache, progress=False
    )
    logits = score_features(model, features).logits.double()  # (photographs, classes)
    judged = logits[:, columns]  # (photographs, judged)
    print(f"{len(files)} photographs, {len(labels)} labels, {len(columns)} of them judged")
    print(f"mAP {mean_average_precision(judged.numpy(), truth)['map']:.1f}, labels {truth.sum(axis=1).mean():.2f}")
    seen = np.ones_like(truth, dtype=bool)
    rows: list[dict[str, Any]] = []

    def add(name: str, figures: Judged, **others: float) -> None:
        rows.append({"row": name, **figures.means(), **others})

    best = Judged()
    odds = judged - judged.mean()
    best.add(odds.sigmoid(), fit_thresholds(odds.sigmoid(), torch.from_numpy(truth)), truth, seen)
    rows.append(
        {"row": "best single threshold, with all labels"} | {k: v for k, v in best.means().items() if "err" not in k}
    )
    named = label_captions(model_labeler(model.config), read_captions(arguments.captions).captions, labels)
    for count in (None, *arguments.labels_per_image):
        shares = caption_shares(torch.from_numpy(named), count)  # (classes,)
        fit_expected_shares(model.config, logits, shares)
        probabilities = (model.config.score_scale * logits + torch.tensor(model.config.score_bias)).sigmoid()
        thresholds = torch.tensor(model.config.score_thresholds)  # (classes,)
        figures = Judged()
        figures.add(probabilities[:, columns], thresholds[columns].tolist(), truth, seen)
        tags = float((probabilities >= thresholds).double().sum(dim=1).mean())
        add(f"no label, {float(shares.sum()):.2f} expected{'' if count else ' (default)'}", figures, all_tags=tags)
    for size in SIZES:
        for per_label in (False, True):
            figures = Judged()
            for draw in range(DRAWS):
                order = np.random.default_rng(draw).permutation(len(files))
                drawn, others = order[:size], order[size:]
                present = torch.from_numpy(truth[drawn])
                fitted = fit_score_calibration(judged[drawn], present, per_label)
                scale, bias = (torch.as_tensor(value, dtype=torch.float64) for value in fitted)
                probabilities = (scale * judged + bias).sigmoid()  # (photographs, judged)
                cuts = fit_thresholds(probabilities[drawn], present, per_class=True)
                figures.add(probabilities[others], cuts, truth[others], seen[others])
            add(f"{size} labelled, fit per {'label' if per_label else 'model'}, thresholds per label", figures)
    print(as_markdown(rows, 1))


if __name__ == "__main__":
    main()
