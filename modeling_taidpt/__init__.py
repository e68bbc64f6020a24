"""taidpt: tag images with your own labels, learned from captions alone (TaI-DPT, native to transformers).

Importing the package registers its configuration, models and pipeline with transformers. `__all__` holds what most
people need; everything else that is public is documented where it lives (`modeling_taidpt.data`, `.evaluation`, ...)
and can be imported from here as well.
"""

import importlib.metadata
from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .captions import *
from .configuration_taidpt import CLIPResNetConfig, CLIPResNetVisionConfig, TaiDptConfig
from .conversion import *
from .data import *
from .ensembles import *
from .evaluation import *
from .features import *
from .losses import LOSSES, get_loss
from .modeling_clip_resnet import CLIPResNetModel, CLIPResNetVisionModel
from .modeling_taidpt import TaiDptModel, TaiDptOutput
from .pipelines import MultiLabelImageClassificationPipeline, register
from .prompt_templates import load_templates
from .rare_words import count_words
from .serving import *
from .standardization import two_step_zscore
from .tokenization_taidpt import build_clip_tokenizer, clip_tokenizer, read_merges
from .training import *

__version__ = importlib.metadata.version("taidpt")

DEFAULT_CHECKPOINT = str(Path(__file__).parent / "assets" / "taidpt-coco80")

AutoConfig.register("taidpt", TaiDptConfig, exist_ok=True)
AutoModel.register(CLIPResNetConfig, CLIPResNetModel, exist_ok=True)
AutoModel.register(TaiDptConfig, TaiDptModel, exist_ok=True)
AutoModelForImageClassification.register(TaiDptConfig, TaiDptModel, exist_ok=True)
register(DEFAULT_CHECKPOINT)

__all__ = [
    "DEFAULT_CHECKPOINT",
    "CLIPResNetConfig",
    "CLIPResNetModel",
    "CaptionFeatures",
    "CaptionLabeler",
    "ImageFeatures",
    "MultiLabelImageClassificationPipeline",
    "ScoreEnsemble",
    "TaiDptConfig",
    "TaiDptModel",
    "TaiDptOutput",
    "TaiDptTrainer",
    "TaiDptTrainingArguments",
    "baseline_models",
    "bootstrap_map",
    "calibrate",
    "calibrate_without_labels",
    "clip_tokenizer",
    "compute_multilabel_metrics",
    "convert_openai_clip",
    "convert_taidpt_checkpoint",
    "default_labeler",
    "ensemble_prompts",
    "evaluate_scores",
    "expected_calibration_error",
    "fit_caption_bank",
    "load_captions",
    "load_class_table",
    "load_images",
    "load_templates",
    "make_captions",
    "mean_average_precision",
    "multilabel_f1",
    "paired_bootstrap",
    "read_captions",
    "read_labels",
    "score_images",
    "tag_images",
    "write_report",
]
