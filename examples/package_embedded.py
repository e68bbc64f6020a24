"""Makes the checkpoint that ships with the package from a trained one: half precision, probabilities, word counts.

    python examples/package_embedded.py --model outputs/coco80 --base outputs/base --captions coco_captions.jsonl \
        --recipe examples/recipes/embedded.json --output modeling_taidpt/assets/taidpt-coco80

Scale and bias of the probabilities are fitted on captions that the prompts were not learned from.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoImageProcessor, HfArgumentParser

from modeling_taidpt import CaptionFeatures, TaiDptModel, default_labeler, fit_score_calibration, read_captions

WORD_COUNTS = "word_counts.json.gz"


@dataclass
class Arguments:
    """What goes in, and where it goes."""

    model: str = field(metadata={"help": "Trained checkpoint."})
    base: str = field(metadata={"help": "Folder of the base, with its word counts and image processor."})
    captions: str = field(metadata={"help": "Held-out captions for scale and bias."})
    recipe: str = field(metadata={"help": "JSON file with the recommended recipe."})
    output: str = field(metadata={"help": "Folder of the checkpoint that ships."})
    max_captions: int = field(default=5000, metadata={"help": "Captions used for scale and bias."})


@torch.no_grad()
def caption_logits(model: TaiDptModel, path: str, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Merged scores and labels, each `(captions, classes)`, of captions that name a class."""
    captions = read_captions(path, max_captions=limit).captions
    labels = default_labeler(model.config.labels, model.config.class_names)(captions)  # (captions, classes)
    named = labels.any(axis=1)
    features = CaptionFeatures.encode(model, [c for c, n in zip(captions, named, strict=True) if n], labels[named])
    logits = []
    for item in (features[index] for index in range(len(features))):
        outputs = model(
            caption_embeds=item["caption_embeds"][None].float(), token_embeds=item["token_embeds"][None].float()
        )
        logits.append(outputs.logits)
    return torch.cat(logits), torch.from_numpy(features.labels)


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    output = Path(arguments.output)
    model = TaiDptModel.from_pretrained(arguments.model)
    config = model.config
    scale, bias = fit_score_calibration(*caption_logits(model, arguments.captions, arguments.max_captions))
    config.score_scale, config.score_bias = round(scale, 4), round(bias, 4)
    recipe = json.loads(Path(arguments.recipe).read_text(encoding="utf-8"))
    for owner in (config, config.clip_config, model.clip.config):
        owner.recommended_recipe, owner.word_counts = recipe, WORD_COUNTS
        owner._name_or_path = ""
    config.base_model_name_or_path = output.name  # it is its own base
    model.half().save_pretrained(output, include_code=False)
    model.get_tokenizer().save_pretrained(output)
    AutoImageProcessor.from_pretrained(arguments.base).save_pretrained(output)
    shutil.copyfile(Path(arguments.base) / WORD_COUNTS, output / WORD_COUNTS)
    size = sum(file.stat().st_size for file in output.iterdir()) / 1e6
    print(f"score_scale {config.score_scale}, score_bias {config.score_bias}, {size:.1f} MB in {output}")


if __name__ == "__main__":
    main()
