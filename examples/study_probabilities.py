"""Table of probabilities and thresholds: calibration error and F1 by what they were fitted on, and a reliability plot.

    python examples/study_probabilities.py --captions held_out.jsonl --photographs coco_train voc2012 --plot plot.png

On the selection photographs, rows fitted on labelled ones are cross-validated (five folds): what is scored was not
fitted on. With `--test` they are fitted on all of them and score the other folder. A folder knows its own categories
only; other labels are left out of fits and figures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from embedded_base.labelled import encode_labelled, joined
from embedded_base.probability_rows import cross_validate, measure, predict, ways
from transformers import HfArgumentParser

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel, read_captions
from modeling_taidpt.evaluation.reliability_diagram import plot_reliability, reliability


@dataclass
class Arguments:
    """What is measured, and on what."""

    captions: str = field(metadata={"help": "Held-out captions."})
    photographs: list[str] = field(metadata={"help": "Folders with labels.json and images/; all labels known first."})
    test: str | None = field(default=None, metadata={"help": "Folder that nothing is fitted or chosen on."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint."})
    unlabelled: int = field(default=1000, metadata={"help": "Unlabelled photographs, from the rest of the folders."})
    cache: str | None = field(default=None, metadata={"help": "Folder for image features."})
    plot: str | None = field(default=None, metadata={"help": "File for the reliability plot (of --test, if given)."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    model = TaiDptModel.from_pretrained(arguments.model)
    folders = arguments.photographs
    parts = [encode_labelled(model, folder, True, arguments.cache) for folder in folders]
    pool = joined([encode_labelled(model, folder, False, arguments.cache) for folder in folders])
    pool = pool.select(np.random.default_rng(0).permutation(len(pool))[: arguments.unlabelled])
    captions = read_captions(arguments.captions).captions
    test = encode_labelled(model, arguments.test, None, arguments.cache) if arguments.test else None
    names = [Path(folder).name for folder in folders] + (["test"] if test is not None else [])
    figures: dict[str, dict] = {}
    curves = {}
    for name, (is_labelled, fit) in ways(captions, pool).items():
        if is_labelled:
            results = cross_validate(model, parts, fit)
            fit(model, parts)
        else:
            fit(model, parts)
            results = [predict(model, part) for part in parts]
        if test is not None:
            results.append(predict(model, test))
        measured = [*parts, test] if test is not None else parts
        pairs = zip(names, results, measured, strict=True)
        figures[name] = {part: measure(*result, photographs) for part, result, photographs in pairs}
        shown, where = results[-1 if test is not None else 0][0], measured[-1 if test is not None else 0]
        known = torch.from_numpy(where.labels != 0)
        curves[name] = reliability(shown, torch.from_numpy(where.labels > 0), known=known)
        cells = "  ".join(
            f"{part} " + " ".join(f"{v:5.1f}" for v in row.values()) for part, row in figures[name].items()
        )
        print(f"{name:56s} {cells}", flush=True)
    if arguments.plot:
        chosen = ("unlabelled images, shares of captions", list(curves)[-1])
        plot_reliability({name: curves[name] for name in chosen}, arguments.plot)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
