"""taidpt: tag images with your own labels, learned from captions alone (TaI-DPT, native to transformers).

Importing the package registers its configuration, models and pipeline with transformers. `__all__` holds what most
people need; everything else that is public is documented where it lives (`modeling_taidpt.data`, `.evaluation`, ...)
and can be imported from here as well. What is not needed to load a model and to tag is read when it is first asked
for: it takes a fifth of the time of an import of all.
"""

import importlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .configuration_taidpt import CLIPResNetConfig, CLIPResNetVisionConfig, TaiDptConfig
from .losses import LOSSES, get_loss
from .modeling_clip_resnet import CLIPResNetModel, CLIPResNetVisionModel
from .modeling_taidpt import TaiDptModel, TaiDptOutput
from .pipelines import MultiLabelImageClassificationPipeline, register
from .prompt_templates import load_templates
from .rare_words import count_words
from .standardization import two_step_zscore
from .tokenization_taidpt import build_clip_tokenizer, clip_tokenizer, read_merges

if TYPE_CHECKING:
    from .captions import *
    from .conversion import *
    from .data import *
    from .ensembles import *
    from .evaluation import *
    from .features import *
    from .serving import *
    from .training import *

# The folders whose public names are names of the package, in the order in which they are looked through
LATER = ("captions", "features", "data", "evaluation", "training", "ensembles", "conversion", "serving")

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


def __getattr__(name: str) -> Any:
    """A public name of a folder that was not read yet, or the folder itself (PEP 562)."""
    if name in LATER:
        return importlib.import_module(f".{name}", __name__)
    if not name.startswith("_"):
        for folder in LATER:
            module = importlib.import_module(f".{folder}", __name__)
            if name in module.__all__:
                globals()[name] = found = getattr(module, name)
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER, *__all__})
