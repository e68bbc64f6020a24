"""Draws photographs with the scores of their labels and where each of the best labels is.

    python examples/visualize.py [--images FILE ...] [--labels "cup, spoon"] [--output FOLDER]

The images in docs/images were made by

    python examples/visualize.py --image_size 448 --center_crop false --output docs/images
    python examples/visualize.py --image_size 448 --center_crop false --output docs/images --name own-labels- \
        --images examples/images/coffee.jpg --labels "cup, spoon, plate, table, newspaper"
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser, pipeline

from modeling_taidpt import DEFAULT_CHECKPOINT
from modeling_taidpt.serving.plots import save_figure

PHOTOGRAPHS = Path(__file__).parent / "images"


@dataclass
class Arguments:
    """What to draw."""

    images: list[str] = field(
        default_factory=lambda: sorted(map(str, PHOTOGRAPHS.glob("*.jpg"))), metadata={"help": "Photographs."}
    )
    labels: str | None = field(default=None, metadata={"help": "Own labels with commas between; the model's without."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint: folder or Hub name."})
    output: str = field(default="outputs/figures", metadata={"help": "Folder for the images."})
    name: str = field(default="", metadata={"help": "Start of each file's name."})
    image_size: int | None = field(default=None, metadata={"help": "Pixels of the short side; the model's without."})
    center_crop: bool | None = field(default=None, metadata={"help": "false shows the model the whole photograph."})
    max_labels: int = field(default=8, metadata={"help": "Bars in an image."})
    max_heatmaps: int = field(default=3, metadata={"help": "Heatmaps in an image."})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    tagger = pipeline("multi-label-image-classification", model=arguments.model)
    options = {"top_k": arguments.max_labels, "return_heatmaps": True, "candidate_labels": arguments.labels}
    options |= {"image_size": arguments.image_size, "center_crop": arguments.center_crop}
    for image in arguments.images:
        results = tagger(image, **options)
        output = Path(arguments.output) / f"{arguments.name}{Path(image).stem}.jpg"
        limits = {"max_labels": arguments.max_labels, "max_heatmaps": arguments.max_heatmaps}
        print(save_figure(image, results, output, **limits))


if __name__ == "__main__":
    main()
