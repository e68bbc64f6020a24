"""Table of training: options of the recipe each alone and together, made captions, or balance of the classes.

    python examples/study_training.py --captions train.jsonl --held_out held_out.jsonl \
        --photographs coco_train voc2012 --table options --output outputs/training

Every row learns prompts with each seed and keeps them in `--output`; what is there is not learned again. Figures are
mAP of merged scores on the selection part of `--photographs` (file names with CRC32 mod 5 = 0), means over the seeds:
plain, and as the checkpoint ships (its spatial scale and a caption bank), with gains over the recipe (paired
bootstrap). Rule of the choice, fixed before the table was made: the row whose mean over the folders, as shipped, is
highest. `--test` scores rows on photographs that nothing was chosen on, with gains over the 80 templates, prototypes
and the recipe.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from embedded_base.labelled import encode_labelled, read_labelled
from embedded_base.training_report import BASELINES, Scorer, gains_table, selection_table
from embedded_base.training_rows import BASELINE, TABLES, Corpora, learn, load_row
from transformers import HfArgumentParser
from transformers.utils import logging

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    ImageFeatures,
    TaiDptModel,
    baseline_models,
    read_captions,
)

RECIPE = Path(__file__).parent / "embedded_base" / "ranking_and_prototypes.json"  # of the first two bases


@dataclass
class Arguments:
    """What is learned from, and what is measured on."""

    captions: str = field(metadata={"help": "Captions to learn from."})
    held_out: str = field(metadata={"help": "Captions of other images."})
    photographs: list[str] = field(metadata={"help": "Folders with labels.json and images/ to choose on."})
    output: str = field(metadata={"help": "Folder of the learned prompts."})
    table: str = field(default="options", metadata={"help": f"One of {', '.join(TABLES)}."})
    rows: list[str] | None = field(default=None, metadata={"help": "Rows of the table; all by default."})
    seeds: list[int] = field(default_factory=lambda: [0, 1], metadata={"help": "Seeds of every row."})
    test: str | None = field(default=None, metadata={"help": "Folder that nothing is chosen on, scored instead."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint whose base and labels are used."})
    recipe: str = field(default=str(RECIPE), metadata={"help": "JSON file of the recipe that rows change."})
    steps: int | None = field(default=None, metadata={"help": "Steps of each training; the recipe's by default."})
    unlabelled: int = field(
        default=500, metadata={"help": "Most unlabelled photographs, from the rest of the folders."}
    )
    cache: str | None = field(default=None, metadata={"help": "Folder for image features."})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    logging.set_verbosity_error()
    if arguments.table not in TABLES:
        raise SystemExit(f"Unknown table {arguments.table!r}: choose one of {', '.join(TABLES)}.")
    table = TABLES[arguments.table]
    unknown = [name for name in arguments.rows or [] if name not in table]
    if unknown:
        raise SystemExit(f"Unknown row {unknown[0]!r} in this table: choose one of {', '.join(table)}.")
    table = {name: row for name, row in table.items() if name in (arguments.rows or table)}
    base = TaiDptModel.from_pretrained(arguments.model)
    recipe = json.loads(Path(arguments.recipe).read_text(encoding="utf-8"))
    corpora = Corpora(base.config.labels, read_captions(arguments.captions).captions)
    held_out = Corpora(base.config.labels, read_captions(arguments.held_out).captions).encode(base)
    captions = corpora.encode(base)
    images = None
    if any(row.images for row in table.values()):
        rest = [row for folder in arguments.photographs for row in read_labelled(folder, corpora.labels, False)]
        rest = rest[:: -(-len(rest) // arguments.unlabelled)]
        images = ImageFeatures.encode(base, rest, cache_dir=arguments.cache, dtype="float16", progress=False)
    folders = [arguments.test] if arguments.test else arguments.photographs
    selection = None if arguments.test else True
    parts = {Path(folder).name: encode_labelled(base, folder, selection, arguments.cache) for folder in folders}
    scorer = Scorer(base, parts, arguments.captions, corpora.named.sum(axis=0))
    baselines = baseline_models(base, list(BASELINES), arguments.captions)
    figures = {BASELINES[name]: [scorer(model)] for name, model in baselines.items()}
    for name, row in table.items():
        figures[name] = []
        for seed in arguments.seeds:
            owner = row.prompts or name  # whose prompts are learned
            folder = Path(arguments.output) / owner.replace("/", "per").replace(" ", "-") / f"seed-{seed}"
            change = TABLES[arguments.table][owner]
            learn(arguments.model, recipe, change, seed, folder, corpora, held_out, images, arguments.steps)
            model = load_row(folder, row, captions, images, seed)
            figures[name].append(scorer(model, folder))
        print(selection_table({name: figures[name]}, parts).splitlines()[-1], flush=True)
    print()
    print(selection_table(figures, parts, BASELINE if BASELINE in table else None))
    if arguments.test:
        others = [*list(BASELINES.values())[1:], *([BASELINE] if BASELINE in table else [])]
        print(f"\n{gains_table(figures, parts, others)}")


if __name__ == "__main__":
    main()
