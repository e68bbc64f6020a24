"""Makes the checkpoint that ships with the package from a trained one: half precision, standardisation, probabilities.

    python examples/package_embedded.py --model outputs/coco80 --base outputs/base --captions coco_captions.jsonl \
        --photographs coco_train voc2012 --recipe examples/recipes/embedded.json \
        --output modeling_taidpt/assets/taidpt-coco80

It serves any checkpoint of the 80 labels, also one that it made. Scores are standardised by a bank of `--captions`.
Probabilities and thresholds are fitted on the selection part (file names with CRC32 mod 5 = 0) of the folders of
photographs, on as many of each as the smallest has; labels that are no category of a folder are unknown there. No
folder that results are reported on may be among them. The graph that `taidpt predict` and `tag` run,
`onnx/model.onnx`, is made last (`pip install "taidpt[onnx]"`); `taidpt export FOLDER --in-place` makes it alone.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from embedded_base.corpus import draw_captions
from embedded_base.labelled import encode_labelled, joined
from transformers import AutoImageProcessor, HfArgumentParser

from modeling_taidpt import TaiDptModel
from modeling_taidpt.evaluation.score_fitting import calibrate, fit_caption_bank
from modeling_taidpt.graph_export import save_graph

WORD_COUNTS = "word_counts.json.gz"


@dataclass
class Arguments:
    """What goes in, and where it goes."""

    model: str = field(metadata={"help": "Trained checkpoint."})
    base: str = field(metadata={"help": "Folder of the base, with its word counts and image processor."})
    captions: str = field(metadata={"help": "Captions of the bank."})
    photographs: list[str] = field(metadata={"help": "Folders with labels.json and images/."})
    output: str = field(metadata={"help": "Folder of the checkpoint that ships."})
    recipe: str | None = field(default=None, metadata={"help": "JSON file; the checkpoint's own recipe by default."})
    spatial_scale: float = field(
        default=40.0, metadata={"help": "Inverse temperature of the local score over an image's cells."}
    )
    bank_temperature: float = field(default=40.0, metadata={"help": "Inverse temperature of the bank."})
    max_captions: int = field(default=6000, metadata={"help": "Captions drawn for the bank."})
    bank: int = field(default=256, metadata={"help": "Clusters of the bank."})
    cache: str | None = field(default=None, metadata={"help": "Folder for image features."})


def fit_scores(model: TaiDptModel, arguments: Arguments) -> dict[str, float]:
    """Standardisation, probabilities, thresholds; returns calibration error and F1 before and after."""
    model.config.image_spatial_scale = arguments.spatial_scale
    model.set_score_statistics(None)
    captions = draw_captions(arguments.captions, arguments.max_captions)
    fit_caption_bank(model, captions, arguments.bank, arguments.bank_temperature)
    parts = [encode_labelled(model, folder, True, arguments.cache) for folder in arguments.photographs]
    fewest, draw = min(map(len, parts)), np.random.default_rng(0)
    return calibrate(model, joined([part.select(np.sort(draw.permutation(len(part))[:fewest])) for part in parts]))


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    output = Path(arguments.output)
    model = TaiDptModel.from_pretrained(arguments.model)
    config = model.config
    figures = fit_scores(model, arguments)
    recipe = config.recommended_recipe
    if arguments.recipe is not None:
        recipe = json.loads(Path(arguments.recipe).read_text(encoding="utf-8"))
    tokenizer, processor = model.get_tokenizer(), AutoImageProcessor.from_pretrained(arguments.base)
    for owner in (config, config.clip_config, model.clip.config):
        owner.recommended_recipe, owner.word_counts = recipe, WORD_COUNTS
        owner._name_or_path = ""
    config.base_model_name_or_path = output.name  # it is its own base
    model.half().save_pretrained(output, include_code=False)
    tokenizer.save_pretrained(output)
    processor.save_pretrained(output)
    if Path(arguments.base).resolve() != output.resolve():
        shutil.copyfile(Path(arguments.base) / WORD_COUNTS, output / WORD_COUNTS)
    save_graph(TaiDptModel.from_pretrained(output), output)  # as it will be loaded
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) / 1e6
    fitted = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
    print(f"fitted on {config.score_calibration} ({fitted}), {size:.1f} MB in {output}")


if __name__ == "__main__":
    main()
