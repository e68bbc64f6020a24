"""Arithmetic of tagging one photograph with 80 labels, for this package and for other ways to do it.

    python benchmarks/image_cost.py [--json FILE]

Counted are the products of matrices and convolutions of one forward pass (`torch.utils.flop_counter`; two operations
for each multiplication with its addition), on random weights of the published sizes: arithmetic does not depend on
weights or on the machine. Labels that a model can encode once and keep are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from common import write_figures
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPConfig,
    CLIPModel,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    HfArgumentParser,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Owlv2Config,
    Owlv2ForObjectDetection,
    SwinConfig,
    SwinModel,
)

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel

LABELS = 80
LABEL_TOKENS = 77  # as CLIP's processor pads them
PROMPT_TOKENS, ANSWER_TOKENS = 60, 40  # of a question about the photograph, and of ten tags in the answer
VIT_B16 = {"patch_size": 16}


@dataclass
class Arguments:
    """Where the figures go."""

    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def clip() -> CLIPModel:
    return CLIPModel(CLIPConfig(vision_config=VIT_B16))


def ours_shipped() -> None:
    model = TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT, dtype=torch.float32).eval()
    classes, side = model.encode_classes(), model.config.image_size
    tag(lambda: model(pixel_values=torch.zeros(1, 3, side, side), class_embeddings=classes))


def ours_vit() -> None:
    model = TaiDptModel.from_clip(clip(), [f"label {number}" for number in range(LABELS)]).eval()
    classes = model.encode_classes()
    tag(lambda: model(pixel_values=torch.zeros(1, 3, 224, 224), class_embeddings=classes))


def zero_shot_pipeline() -> None:
    model = clip().eval()
    texts = torch.full((LABELS, LABEL_TOKENS), 49407)  # (labels, tokens)
    tag(lambda: model(input_ids=texts, pixel_values=torch.zeros(1, 3, 224, 224)))


def ram() -> None:
    large = SwinConfig(image_size=384, embed_dim=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48], window_size=12)
    model = SwinModel(large).eval()
    tag(lambda: model(torch.zeros(1, 3, 384, 384)))


def owlv2() -> None:
    vision = {"patch_size": 16, "image_size": 960, "hidden_size": 768, "num_hidden_layers": 12}
    vision |= {"num_attention_heads": 12, "intermediate_size": 3072}
    model = Owlv2ForObjectDetection(Owlv2Config(vision_config=vision)).eval()
    tag(lambda: model.image_embedder(torch.zeros(1, 3, 960, 960)))


def grounding_dino() -> None:
    model = GroundingDinoForObjectDetection(GroundingDinoConfig()).eval()
    texts = torch.randint(1000, 2000, (1, 195))  # the 80 names of COCO with full stops between
    tag(lambda: model(pixel_values=torch.zeros(1, 3, 800, 1066), input_ids=texts))


def llava() -> None:
    model = LlavaForConditionalGeneration(LlavaConfig()).eval().model
    pixels = torch.zeros(1, 3, 336, 336)
    tokens = torch.zeros(1, 576 + PROMPT_TOKENS + ANSWER_TOKENS, 4096)  # (1, tokens, dim)
    tag(lambda: (model.vision_tower(pixels), model.language_model(inputs_embeds=tokens)))


COUNTED: dict[str, Callable[[], None]] = {
    "taidpt, the checkpoint that ships": ours_shipped,
    "taidpt on CLIP ViT-B/16": ours_vit,
    "zero-shot-image-classification, CLIP ViT-B/16": zero_shot_pipeline,
    "RAM++, its Swin-L tower at 384 alone": ram,
    "OWLv2, its ViT-B/16 tower at 960 alone": owlv2,
    "Grounding DINO, Swin-T at 800 x 1066": grounding_dino,
    "LLaVA 1.5, 7B, an answer of 40 tokens": llava,
}
ON_CPU = (ours_shipped, ours_vit, grounding_dino)  # these look at values of tensors


@torch.inference_mode()
def tag(forward: Callable[[], object]) -> None:
    """Runs the forward pass that is counted."""
    with COUNTER:
        forward()


def main() -> None:
    global COUNTER
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    figures = {}
    for name, run in COUNTED.items():
        COUNTER = FlopCounterMode(display=False)
        with torch.device("cpu" if run in ON_CPU else "meta"):  # shapes alone: no weights are computed with
            run()
        figures[name] = COUNTER.get_total_flops() / 1e9
        ratio = figures[name] / figures["taidpt on CLIP ViT-B/16"] if "taidpt on CLIP ViT-B/16" in figures else 0.0
        print(f"{name:48s} {figures[name]:10.1f} GFLOP" + (f"  x {ratio:.1f}" if ratio else ""), flush=True)
    write_figures(arguments.json, figures)


if __name__ == "__main__":
    main()
