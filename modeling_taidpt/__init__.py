"""taidpt: tag images with your own labels, learned from captions alone (TaI-DPT, native to transformers)."""

from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .configuration_taidpt import CLIPResNetConfig, CLIPResNetVisionConfig, TaiDptConfig
from .convert_openai import convert_openai_clip
from .modeling_clip_resnet import CLIPResNetModel, CLIPResNetVisionModel
from .modeling_taidpt import TaiDptModel, TaiDptOutput
from .tokenization_taidpt import clip_tokenizer

DEFAULT_CHECKPOINT = str(Path(__file__).parent / "assets" / "taidpt-coco80")

AutoConfig.register("taidpt", TaiDptConfig, exist_ok=True)
AutoModel.register(CLIPResNetConfig, CLIPResNetModel, exist_ok=True)
AutoModel.register(TaiDptConfig, TaiDptModel, exist_ok=True)
AutoModelForImageClassification.register(TaiDptConfig, TaiDptModel, exist_ok=True)

__all__ = [
    "DEFAULT_CHECKPOINT",
    "CLIPResNetConfig",
    "CLIPResNetModel",
    "CLIPResNetVisionConfig",
    "CLIPResNetVisionModel",
    "TaiDptConfig",
    "TaiDptModel",
    "TaiDptOutput",
    "clip_tokenizer",
    "convert_openai_clip",
]
