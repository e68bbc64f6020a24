# /// script
# requires-python = ">=3.10"
# dependencies = ["taidpt"]
#
# [tool.uv.sources]
# taidpt = { path = "..", editable = true }
# ///
"""Draws the figures of README and docs: photographs with the labels found in them, and where they are.

    python examples/visualize.py [--images FILE ...] [--labels "cat, cup"] [--model NAME] [--output FOLDER]

`overview.jpg` shows all photographs that ship, none left out for what is found in it: each with the labels that reach
their threshold, right or wrong (as `taidpt predict --no-center-crop` prints), and where the best one is; `coffee.jpg`
is what `taidpt predict examples/images/coffee.jpg --save-figure coffee.jpg` draws with the labels of `COFFEE`. The
images in docs/images were made by

    python examples/visualize.py --output docs/images
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image, ImageOps
from transformers import HfArgumentParser, pipeline

from modeling_taidpt import DEFAULT_CHECKPOINT
from modeling_taidpt.pipelines.image_reading import open_encoded
from modeling_taidpt.serving.plots import draw_heatmap_row, save_figure

PHOTOGRAPHS = Path(__file__).parent / "images"
COFFEE = "cup, spoon, plate, table, newspaper"
SIDES = (4, 3)  # of the panels of the overview, in which photographs of other sides are smaller
COLUMNS = 4  # of the overview at most
SHOWN = 4  # labels of a photograph at most
WIDTH = 10.0  # inches


@dataclass
class Arguments:
    """What to draw."""

    images: list[str] = field(
        default_factory=lambda: sorted(map(str, PHOTOGRAPHS.glob("*.jpg"))), metadata={"help": "Photographs."}
    )
    labels: str | None = field(
        default=None, metadata={"help": "Labels of the overview, with commas between; the model's without."}
    )
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint: folder or Hub name."})
    output: str = field(default="outputs/figures", metadata={"help": "Folder for the figures."})


def draw_overview(photographs: list[Image.Image], found: list[list[dict]]) -> Figure:
    """Photographs, each with its labels and scores, above the heatmaps of the best labels."""
    columns = min(len(photographs), COLUMNS)
    rows = math.ceil(len(photographs) / columns)
    height = WIDTH / columns * SIDES[1] / SIDES[0]  # inches of a photograph
    figure = Figure(figsize=(WIDTH, rows * (2 * height + 1.6)), layout="constrained")
    for row, part in enumerate(figure.subfigures(rows, 1, squeeze=False)[:, 0]):
        chosen = slice(row * columns, (row + 1) * columns)
        above, below = part.subfigures(2, 1, height_ratios=[height + 0.6, height + 1.0])
        panels = above.subplots(1, max(columns, 2), squeeze=False)[0]
        for panel in panels:
            panel.set_axis_off()
            panel.set_anchor("S")  # titles have the room above
        for panel, photograph, labels in zip(panels, photographs[chosen], found[chosen], strict=False):
            panel.imshow(photograph)
            named = [f"{result['label']} {result['score']:.2f}" for result in labels[:SHOWN]]
            lines = [" · ".join(named[start : start + 2]) for start in range(0, SHOWN, 2)]
            panel.set_title("\n".join(lines).strip() or "nothing found", fontsize=10)
        best = [
            (photograph, labels[0])
            for photograph, labels in zip(photographs[chosen], found[chosen], strict=True)
            if labels
        ]
        draw_heatmap_row(below, best)
    return figure


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    tagger = pipeline("multi-label-image-classification", model=arguments.model)
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    threshold = "auto" if tagger.model.config.score_thresholds is not None else 0.5
    options = {"threshold": threshold, "candidate_labels": arguments.labels, "return_heatmaps": True}

    photographs = [ImageOps.exif_transpose(open_encoded(path)).convert("RGB") for path in arguments.images]
    found = [tagger(photograph, center_crop=False, **options) for photograph in photographs]
    draw_overview(photographs, found).savefig(output / "overview.jpg", dpi=120)
    print(output / "overview.jpg")
    coffee = str(PHOTOGRAPHS / "coffee.jpg")
    results = tagger(coffee, candidate_labels=COFFEE, return_heatmaps=True)
    print(save_figure(coffee, results, output / "coffee.jpg"))


if __name__ == "__main__":
    main()
