"""What needs no label adds to a checkpoint: tiles, a second look, a visual classifier from unlabelled photographs.

    python examples/study_adaptation.py --data ../shared/data

Prints two tables. The first, on the selection photographs of `--selection`, is what the share of the visual classifier
was chosen from. The second, for zero-shot templates and for the learned prompts: mAP on the selection photographs of
the first folder of `--selection` and on `--judged`, the gain there over the plain row with the interval of a paired
bootstrap over photographs, F1 at thresholds fitted on those selection photographs, passes of the vision tower for an
image, and images a second of one processor core, reading included. Unlabelled photographs are drawn from
`--unlabelled`, outside the selection parts. Everything is encoded once into `--cache_dir`; a study that was stopped
goes on there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adaptation.photographs import Labelled, encode, unlabelled_files
from adaptation.rows import Scores, f1_at_thresholds, score_row, seconds_per_image, table_rows
from adaptation.tables import fit_classifiers, mean_ap, print_row, share_table
from embedded_base.selection import TEMPLATES
from transformers import AutoImageProcessor, HfArgumentParser

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel, paired_bootstrap

TIMED = 4  # photographs


@dataclass
class Arguments:
    """What to measure, on what."""

    data: str = field(metadata={"help": "Folder that holds the folders below, each with images/ and labels.json."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint for the 80 COCO labels."})
    selection: list[str] = field(
        default_factory=lambda: ["coco_train", "voc2012"], metadata={"help": "Their selection parts choose."}
    )
    most_selected: int = field(default=256, metadata={"help": "Selection photographs of a folder at most."})
    judged: str = field(default="coco_val_dev", metadata={"help": "Judges once."})
    unlabelled: list[str] = field(
        default_factory=lambda: ["voc2012", "flickr8k"], metadata={"help": "Photographs without labels."}
    )
    counts: list[int] = field(
        default_factory=lambda: [100, 500, 2500], metadata={"help": "Numbers of unlabelled photographs."}
    )
    shares: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.3, 0.5, 0.7], metadata={"help": "Of the choice."})
    prompts: list[str] = field(
        default_factory=lambda: ["zero-shot", "learned"], metadata={"help": "Of the table: zero-shot, learned."}
    )
    rows: list[str] | None = field(default=None, metadata={"help": "Rows of the table; all by default."})
    cache_dir: str = field(default="adaptation_cache", metadata={"help": "Where features are cached."})
    resamples: int = field(default=1000, metadata={"help": "Bootstrap resamples over photographs."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    folder, cache = Path(arguments.data), Path(arguments.cache_dir)
    cache.mkdir(parents=True, exist_ok=True)
    model = TaiDptModel.from_pretrained(arguments.model)
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    both = {"zero-shot": model.with_class_embeddings(model.encode_templates(TEMPLATES)), "learned": model}
    models = {name: both[name] for name in arguments.prompts}
    chosen = [
        Labelled(model, processor, folder / name, True, arguments.most_selected, cache) for name in arguments.selection
    ]
    judged = Labelled(model, processor, folder / arguments.judged, False, 10**6, cache)
    files = unlabelled_files([folder / name for name in arguments.unlabelled], max(arguments.counts))
    unlabelled = encode(model, files, cache)
    fitted = {name: fit_classifiers(one, unlabelled, arguments.counts) for name, one in models.items()}
    print(f"| model | share | {' | '.join(part.name for part in chosen)} |\n|---|---|{'---|' * len(chosen)}")
    figures: dict[str, Any] = {
        "shares": share_table(models, fitted, arguments.counts, arguments.shares, chosen),
        "rows": [],
    }
    print(
        f"\n| model | | {chosen[0].name}, {len(chosen[0].files)} | {judged.name}, {len(judged.files)} | gain | F1 | "
        "passes | images/s |\n|---|---|---|---|---|---|---|---|"
    )
    rows = [row for row in table_rows(arguments.counts) if arguments.rows is None or row.name in arguments.rows]
    for name, one in models.items():
        plain: Scores | None = None
        for row in rows:
            parts = [score_row(one, fitted[name], row, data) for data in (chosen[0], judged)]
            plain = parts[1] if plain is None else plain
            found = {"selection": mean_ap(parts[0].logits, chosen[0]), "judged": mean_ap(parts[1].logits, judged)}
            if parts[1] is not plain:
                shown = judged.present.any(dim=0)  # (classes,)
                truth = judged.present[:, shown].int()  # (images, shown)
                compared = (parts[1].logits[:, shown], plain.logits[:, shown])
                gain = paired_bootstrap(*compared, truth, num_resamples=arguments.resamples, seed=0)
                found["gain"] = [gain[key] for key in ("difference", "low", "high")]
            found["f1"] = f1_at_thresholds(parts[0], chosen[0], parts[1], judged)
            found["passes"] = parts[1].passes
            found["images_per_second"] = 1 / seconds_per_image(one, processor, row, chosen[0].files[: TIMED + 1])
            figures["rows"].append({"model": name, **asdict(row), **found})
            print_row(name, row, found)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
