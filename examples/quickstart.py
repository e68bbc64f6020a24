# /// script
# requires-python = ">=3.10"
# dependencies = ["taidpt"]
#
# [tool.uv.sources]
# taidpt = { path = "..", editable = true }
# ///
"""The main job in one go: captions are labelled, prompts learned on the embedded base, photographs tagged.

On the photographs, whose labels nobody gives, scores are made probabilities first.

python examples/quickstart.py [--recipe paper] [--labels FILE] [--captions FILE] [--images FILE ...]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser, pipeline

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    TaiDptTrainer,
    calibrate_without_labels,
    set_up_training,
)

HERE = Path(__file__).parent


@dataclass
class Arguments:
    """What to learn, and what to tag."""

    labels: str = field(default=str(HERE / "data" / "labels.txt"), metadata={"help": "One label a line."})
    captions: str = field(default=str(HERE / "data" / "captions.txt"), metadata={"help": "Caption corpus."})
    images: list[str] = field(
        default_factory=lambda: sorted(map(str, (HERE / "images").glob("*.jpg"))), metadata={"help": "Photographs."}
    )
    base: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "CLIP to learn prompts on: folder or Hub name."})
    recipe: str = field(default="recommended", metadata={"help": "`recommended` (the base's own) or `paper`."})
    output: str = field(default="outputs/quickstart", metadata={"help": "Folder for the checkpoint."})
    top_k: int = field(default=4, metadata={"help": "Labels printed for each photograph."})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    labels = Path(arguments.labels).read_text(encoding="utf-8").split("\n")
    labels = [label.strip() for label in labels if label.strip()]
    settings = {"per_device_train_batch_size": 256, "report_to": "none", "logging_steps": 100}
    model, training = set_up_training(arguments.base, labels, arguments.output, arguments.recipe, settings)

    trainer = TaiDptTrainer(model=model, args=training, train_dataset=arguments.captions)
    figures = trainer.train().metrics
    # Scores of a new model only rank labels. Photographs without labels are enough to make them probabilities.
    calibrate_without_labels(model, arguments.images, captions=trainer.eval_dataset)
    trainer.save_model(arguments.output)
    print(f"\nheld-out captions, mAP: template {figures['zero_shot_caption_map']:.1f}", end=", ")
    print(f"learned {figures['caption_map']:.1f}; saved to {arguments.output}\n")

    tagger = pipeline("multi-label-image-classification", model=arguments.output)
    width = max(map(len, labels))
    for image in arguments.images:
        print(Path(image).name)
        for result in tagger(image, top_k=arguments.top_k):
            print(f"  {result['label']:{width}s}  {result['score']:.3f}")


if __name__ == "__main__":
    main()
