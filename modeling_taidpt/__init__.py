"""taidpt: tag images with your own labels, learned from captions alone (TaI-DPT, native to transformers).

Importing the package registers its configuration, models and pipeline with transformers.
"""

from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .captions.corpus import read_captions
from .captions.label_files import read_labels
from .captions.labeler import CaptionLabeler, load_class_table, suggest_synonyms
from .captions.labels import default_labeler, match_labels
from .captions.synthetic import describe_labels, make_captions
from .configuration_taidpt import CLIPResNetConfig, CLIPResNetVisionConfig, TaiDptConfig
from .conversion.openai import convert_openai_checkpoint, convert_openai_clip
from .conversion.taidpt import convert_taidpt_checkpoint
from .data.captions import load_caption_file, load_coco_captions, load_localized_narratives, load_template_captions
from .data.coco import load_coco
from .data.dataset import align_classes, class_names_of, image_label_matrix, partial_label_matrix
from .data.few_shot import FewShotSample, sample_few_shot
from .data.folder import load_image_dataset, load_image_folder
from .data.loaders import load_captions, load_images
from .data.nuswide import load_nuswide
from .data.partial_labels import drop_labels, read_partial_labels
from .data.recipes import load_recipe_captions, load_recipe_images, read_recipe, recipe_names
from .data.voc import load_voc
from .ensembles.prompts import ensemble_prompts, with_hypernyms, with_negative_prompts
from .ensembles.scores import ScoreEnsemble, predict_scores, read_scores
from .evaluation.calibrate import (
    calibrate,
    calibrate_on_captions,
    calibrate_without_labels,
    fit_caption_bank,
    fit_score_statistics,
    fit_score_thresholds,
)
from .evaluation.calibration import fit_score_calibration, fit_thresholds, match_prevalence
from .evaluation.evaluate import baseline_models, evaluate_scores, score_images, with_classes
from .evaluation.metrics import (
    average_precision,
    bootstrap_map,
    compute_multilabel_metrics,
    mean_average_precision,
    metric_path,
    multilabel_f1,
    paired_bootstrap,
)
from .evaluation.reliability import expected_calibration_error, plot_reliability, reliability
from .evaluation.report import write_report
from .features.captions import CaptionFeatures
from .features.images import ImageFeatures
from .losses import LOSSES, get_loss
from .modeling_clip_resnet import CLIPResNetModel, CLIPResNetVisionModel
from .modeling_taidpt import TaiDptModel, TaiDptOutput
from .pipelines import MultiLabelImageClassificationPipeline, register
from .prompt_templates import load_templates
from .serving.tagging import TaggingReport, tag_images
from .standardization import cluster_captions, two_step_zscore
from .tokenization_taidpt import build_clip_tokenizer, clip_tokenizer, read_merges
from .training.arguments import TaiDptTrainingArguments
from .training.images import IMAGE_RECIPES
from .training.setup import find_recipe, set_up_training
from .training.trainer import TaiDptTrainer
from .word_counts import count_words

__version__ = "0.1.0"

DEFAULT_CHECKPOINT = str(Path(__file__).parent / "assets" / "taidpt-coco80")

AutoConfig.register("taidpt", TaiDptConfig, exist_ok=True)
AutoModel.register(CLIPResNetConfig, CLIPResNetModel, exist_ok=True)
AutoModel.register(TaiDptConfig, TaiDptModel, exist_ok=True)
AutoModelForImageClassification.register(TaiDptConfig, TaiDptModel, exist_ok=True)
register(DEFAULT_CHECKPOINT)

__all__ = [
    "DEFAULT_CHECKPOINT",
    "IMAGE_RECIPES",
    "LOSSES",
    "CLIPResNetConfig",
    "CLIPResNetModel",
    "CLIPResNetVisionConfig",
    "CLIPResNetVisionModel",
    "CaptionFeatures",
    "CaptionLabeler",
    "FewShotSample",
    "ImageFeatures",
    "MultiLabelImageClassificationPipeline",
    "ScoreEnsemble",
    "TaggingReport",
    "TaiDptConfig",
    "TaiDptModel",
    "TaiDptOutput",
    "TaiDptTrainer",
    "TaiDptTrainingArguments",
    "align_classes",
    "average_precision",
    "baseline_models",
    "bootstrap_map",
    "build_clip_tokenizer",
    "calibrate",
    "calibrate_on_captions",
    "calibrate_without_labels",
    "class_names_of",
    "clip_tokenizer",
    "cluster_captions",
    "compute_multilabel_metrics",
    "convert_openai_checkpoint",
    "convert_openai_clip",
    "convert_taidpt_checkpoint",
    "count_words",
    "default_labeler",
    "describe_labels",
    "drop_labels",
    "ensemble_prompts",
    "evaluate_scores",
    "expected_calibration_error",
    "find_recipe",
    "fit_caption_bank",
    "fit_score_calibration",
    "fit_score_statistics",
    "fit_score_thresholds",
    "fit_thresholds",
    "get_loss",
    "image_label_matrix",
    "load_caption_file",
    "load_captions",
    "load_class_table",
    "load_coco",
    "load_coco_captions",
    "load_image_dataset",
    "load_image_folder",
    "load_images",
    "load_localized_narratives",
    "load_nuswide",
    "load_recipe_captions",
    "load_recipe_images",
    "load_template_captions",
    "load_templates",
    "load_voc",
    "make_captions",
    "match_labels",
    "match_prevalence",
    "mean_average_precision",
    "metric_path",
    "multilabel_f1",
    "paired_bootstrap",
    "partial_label_matrix",
    "plot_reliability",
    "predict_scores",
    "read_captions",
    "read_labels",
    "read_merges",
    "read_partial_labels",
    "read_recipe",
    "read_scores",
    "recipe_names",
    "reliability",
    "sample_few_shot",
    "score_images",
    "set_up_training",
    "suggest_synonyms",
    "tag_images",
    "two_step_zscore",
    "with_classes",
    "with_hypernyms",
    "with_negative_prompts",
    "write_report",
]
