# /// script
# requires-python = ">=3.10"
# dependencies = ["taidpt"]
#
# [tool.uv.sources]
# taidpt = { path = "..", editable = true }
# ///
"""Learn prompts for custom labels from captions.

    python examples/train.py --captions captions.jsonl --labels dog,cat,bicycle --output_dir runs/pets \
        --clip openai/clip-vit-base-patch16

Every training argument of transformers works, as `--learning_rate 1e-3 --report_to tensorboard --bf16`. Without
`--clip` the base that ships with the package is used. `--resume` goes on after an interruption.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser, set_seed

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    TaiDptModel,
    TaiDptTrainer,
    TaiDptTrainingArguments,
    find_recipe,
    read_labels,
)


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
        metadata={"help": "`recommended`: the base's own recipe if it has one; `paper`; or a JSON or YAML file."},
    )
    num_context_tokens: int | None = field(default=None, metadata={"help": "Context vectors in a prompt."})
    class_specific_context: bool | None = field(default=None, metadata={"help": "Separate contexts for each class."})
    eval_captions: str | None = field(default=None, metadata={"help": "Held-out captions, instead of a share."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in the output folder."})


def main(command: list[str] | None = None) -> dict[str, float]:
    command = sys.argv[1:] if command is None else command
    data = HfArgumentParser(DataArguments).parse_args_into_dataclasses(command, return_remaining_strings=True)[0]
    recipe = find_recipe(data.use_recipe, data.clip)
    parser = HfArgumentParser((DataArguments, TaiDptTrainingArguments))
    parser.set_defaults(**recipe["training"], recipe=recipe["name"])  # what the command says wins
    data, args = parser.parse_args_into_dataclasses(command)

    labels, labeler = read_labels(data.labels)
    options: dict = {"recipe": {"model": recipe.get("model", {})}}
    for name in ("num_context_tokens", "class_specific_context"):
        if getattr(data, name) is not None:
            options[name] = getattr(data, name)
    set_seed(args.seed)  # the prompts start at random
    model = TaiDptModel.from_clip(data.clip, labels, **options)
    trainer = TaiDptTrainer(model, args, train_dataset=data.captions, eval_dataset=data.eval_captions, labeler=labeler)
    checkpoint = trainer.find_checkpoint() if data.resume else None
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    trainer.save_model()
    trainer.accelerator.end_training()

    if trainer.is_world_process_zero():
        for name in ("zero_shot_caption_map", "caption_map", "template_cosine"):
            if name in metrics:
                print(f"{name}: {metrics[name]:.2f}")
        print(f"The model is in {args.output_dir}.")
    return metrics


if __name__ == "__main__":
    main()
