"""Learn prompts for labels of your own from captions.

    python examples/train.py --captions captions.jsonl --labels dog,cat,bicycle --output_dir runs/pets \
        --clip openai/clip-vit-base-patch16

Every training argument of transformers works, as `--learning_rate 1e-3 --report_to tensorboard --bf16`. Without
`--clip` the base that ships with the package is used. `--resume` goes on after an interruption.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    CaptionLabeler,
    TaiDptModel,
    TaiDptTrainer,
    TaiDptTrainingArguments,
    load_class_table,
)

PRESETS = ("coco80", "voc20", "nuswide81")


@dataclass
class DataArguments:
    """What to learn from, and on what."""

    captions: str = field(metadata={"help": "Text, CSV, JSON, JSON lines or Parquet file of captions."})
    labels: str = field(
        metadata={
            "help": "Labels with commas between, a text file with one a line, a JSON or YAML class table, or "
            "coco80, voc20, nuswide81."
        }
    )
    clip: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "CLIP on the Hub or in a folder."})
    use_recipe: str = field(
        default="recommended",
        metadata={"help": "`recommended`: the base's own recipe if it has one; `paper`; or a JSON file."},
    )
    num_context_tokens: int | None = field(default=None, metadata={"help": "Context vectors in a prompt."})
    class_specific_context: bool | None = field(default=None, metadata={"help": "Contexts of its own for each class."})
    eval_captions: str | None = field(default=None, metadata={"help": "Held-out captions, instead of a share."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in the output folder."})


def read_labels(text: str) -> tuple[list[str], CaptionLabeler | None]:
    """The labels, and a labeler where synonyms are given."""
    if text in PRESETS:
        return [entry["name"] for entry in load_class_table(text)], CaptionLabeler.from_preset(text)
    if Path(text).suffix in (".json", ".yaml", ".yml"):
        labeler = CaptionLabeler.from_file(text)
        return labeler.labels, labeler
    if Path(text).suffix == ".txt":
        return [label.strip() for label in Path(text).read_text(encoding="utf-8").splitlines() if label.strip()], None
    return [label.strip() for label in text.split(",") if label.strip()], None


def read_recipe(data: DataArguments) -> dict:
    """The base's own recipe, one from a JSON file, or none for the paper's."""
    if Path(data.use_recipe).suffix == ".json":
        return json.loads(Path(data.use_recipe).read_text(encoding="utf-8"))
    if data.use_recipe != "recommended":
        return {}
    return TaiDptModel.from_clip(data.clip, ["anything"]).config.recommended_recipe or {}


def main(command: list[str] | None = None) -> dict[str, float]:
    command = sys.argv[1:] if command is None else command
    data = HfArgumentParser(DataArguments).parse_args_into_dataclasses(command, return_remaining_strings=True)[0]
    recipe = read_recipe(data)
    parser = HfArgumentParser((DataArguments, TaiDptTrainingArguments))
    if recipe:  # what the command says wins
        parser.set_defaults(**recipe.get("training", {}), recipe=Path(data.use_recipe).stem)
    data, args = parser.parse_args_into_dataclasses(command)

    labels, labeler = read_labels(data.labels)
    options = dict(recipe.get("model", {}))
    for name in ("num_context_tokens", "class_specific_context"):
        if getattr(data, name) is not None:
            options[name] = getattr(data, name)
    model = TaiDptModel.from_clip(data.clip, labels, **options)
    trainer = TaiDptTrainer(model, args, train_dataset=data.captions, eval_dataset=data.eval_captions, labeler=labeler)
    metrics = trainer.train(resume_from_checkpoint=data.resume or None).metrics
    trainer.save_model()

    for name in ("zero_shot_caption_map", "caption_map", "template_cosine"):
        if name in metrics:
            print(f"{name}: {metrics[name]:.2f}")
    print(f"The model is in {args.output_dir}.")
    return metrics


if __name__ == "__main__":
    main()
