# /// script
# requires-python = ">=3.10"
# dependencies = ["taidpt"]
#
# [tool.uv.sources]
# taidpt = { path = "..", editable = true }
# ///
"""Learn prompts from labelled images, few or partly labelled, or a linear head; and merge them with prompts from text.

    python examples/train_images.py --images COCO --split train2014 --test COCO --test_split val2014 --clip RN50 \
        --text runs/coco2014 --use_recipe few_shot --shots 4 --output_dir runs/few

`--use_recipe` is few_shot, partial_labels (with `--known_labels 0.1` or a `--partial_label_file`) or linear_head
(on the prompts of `--text`). Folders are those that `load_images` knows. Of several, each may annotate other classes:
what a folder does not annotate is unknown, which partial_labels can use. Every training argument works.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from datasets import concatenate_datasets
from transformers import HfArgumentParser, set_seed

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    IMAGE_RECIPES,
    ImageFeatures,
    ScoreEnsemble,
    TaiDptModel,
    TaiDptTrainer,
    TaiDptTrainingArguments,
    align_classes,
    load_images,
    mean_average_precision,
    predict_scores,
)
from modeling_taidpt.ensembles.scores import FEW_SHOT_WEIGHT, PARTIAL_LABEL_WEIGHT
from modeling_taidpt.hub import find_image_processor

WEIGHTS = {"few_shot": FEW_SHOT_WEIGHT, "partial_labels": PARTIAL_LABEL_WEIGHT}  # the paper's


@dataclass
class DataArguments:
    """What to learn from, and on what."""

    images: list[str] = field(metadata={"help": "Folders of labelled images, or data sets on the Hub."})
    split: list[str] | None = field(default=None, metadata={"help": "Their splits, one each."})
    test: str | None = field(default=None, metadata={"help": "Labelled images to measure on when all is learned."})
    test_split: str | None = field(default=None, metadata={"help": "Their split."})
    text: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Prompts learned from text; gives the labels."})
    clip: str | None = field(default=None, metadata={"help": "CLIP to learn on; that of `text` by default."})
    use_recipe: str = field(default="few_shot", metadata={"help": f"One of {', '.join(IMAGE_RECIPES)}."})
    image_size: int | None = field(default=None, metadata={"help": "Side in pixels to which images are squeezed."})
    num_context_tokens: int | None = field(default=None, metadata={"help": "Context vectors in a prompt."})


def parse(command: list[str]) -> tuple[DataArguments, TaiDptTrainingArguments]:
    data = HfArgumentParser(DataArguments).parse_args_into_dataclasses(command, return_remaining_strings=True)[0]
    if data.use_recipe not in IMAGE_RECIPES:
        raise SystemExit(f"Unknown recipe {data.use_recipe!r} for images: choose one of {', '.join(IMAGE_RECIPES)}.")
    recipe = IMAGE_RECIPES[data.use_recipe]
    quiet = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    parser = HfArgumentParser((DataArguments, TaiDptTrainingArguments))
    parser.set_defaults(**quiet, **recipe["training"], recipe=recipe["name"])  # what the command says wins
    return parser.parse_args_into_dataclasses(command)


def main(command: list[str] | None = None) -> dict[str, float]:
    data, args = parse(sys.argv[1:] if command is None else command)
    if data.split is not None and len(data.split) != len(data.images):
        raise SystemExit(f"There are {len(data.images)} folders and {len(data.split)} splits: give one each.")
    options = [{}] * len(data.images) if data.split is None else [{"split": name} for name in data.split]
    parts = [load_images(folder, **option) for folder, option in zip(data.images, options, strict=True)]
    text = TaiDptModel.from_pretrained(data.text)
    images = concatenate_datasets([align_classes(part, text.config.labels) for part in parts])
    set_seed(args.seed)
    if data.use_recipe == "linear_head":
        model = text.with_linear_head()
    else:
        options: dict = {"recipe": IMAGE_RECIPES[data.use_recipe]}
        if data.num_context_tokens is not None:
            options["num_context_tokens"] = data.num_context_tokens
        clip, tokenizer = (text.clip, text.get_tokenizer()) if data.clip is None else (data.clip, None)
        model = TaiDptModel.from_clip(clip, text.config.labels, tokenizer, **options)
    processor = find_image_processor(model.config)
    if data.image_size is not None:
        processor.size = {"height": data.image_size, "width": data.image_size}
        processor.do_center_crop = False
    trainer = TaiDptTrainer(model, args, train_dataset=images, image_processor=processor)
    trainer.train()
    trainer.save_model()
    figures = {}
    if data.test is not None:
        test = load_images(data.test, **({"split": data.test_split} if data.test_split else {}))
        ours, theirs = ImageFeatures.encode(model, test, processor), ImageFeatures.encode(text, test)
        scores = {"image prompts": predict_scores(model, ours), "text prompts": predict_scores(text, theirs)}
        if data.use_recipe in WEIGHTS:
            merged = ScoreEnsemble(scores["text prompts"], scores["image prompts"], WEIGHTS[data.use_recipe])
            scores["merged"] = merged.scores()
        figures = {name: mean_average_precision(matrix, theirs.labels)["map"] for name, matrix in scores.items()}
        print("\n".join(f"{name}: {value:.1f} mAP" for name, value in figures.items()))
    print(f"The model is in {args.output_dir}.")
    return figures


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:  # bad input: one sentence, no traceback
        raise SystemExit(str(error)) from error
