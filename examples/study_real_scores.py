"""Everything that works on scores, on what published prompts scored on OpenAI's CLIP; needs no image and no weights.

    python examples/study_real_scores.py                      # all tables, from ../shared
    python examples/study_real_scores.py --tables paper bank --shared DIR

`--shared` is the folder that holds `reference/real_clip_scores`, by default the one that the variable TAIDPT_SHARED
names, else `shared` beside the checkout. Options are chosen on one half of the images and judged on the other, or
fitted on a draw of images and judged on all others, ten draws each.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from real_scores.bank import bank_table
from real_scores.ensembles import ensembles_table
from real_scores.paper import paper_table
from real_scores.probabilities import probabilities_table, reliability_plot, shares_table
from real_scores.report import as_markdown
from real_scores.tiles import tiles_table
from transformers import HfArgumentParser

TABLES: dict[str, Callable[[Path, int], list[dict]]] = {
    "paper": paper_table,
    "bank": bank_table,
    "tiles": tiles_table,
    "shares": shares_table,
    "probabilities": probabilities_table,
    "ensembles": ensembles_table,
}


@dataclass
class Arguments:
    """What to compute."""

    shared: str = field(
        default=os.environ.get("TAIDPT_SHARED", str(Path(__file__).parents[2] / "shared")),
        metadata={"help": "Folder that holds reference/real_clip_scores."},
    )
    tables: list[str] = field(default_factory=lambda: list(TABLES), metadata={"help": f"Of {', '.join(TABLES)}."})
    resamples: int = field(default=1000, metadata={"help": "Bootstrap resamples over images; 0 for no intervals."})
    plot: str | None = field(default=None, metadata={"help": "File for the reliability plot."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    figures = {}
    for name in arguments.tables:
        started = time.perf_counter()
        figures[name] = TABLES[name](Path(arguments.shared), arguments.resamples)
        print(f"## {name} ({time.perf_counter() - started:.0f} s)\n\n{as_markdown(figures[name])}\n", flush=True)
    if arguments.plot:
        reliability_plot(Path(arguments.shared), arguments.plot)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
