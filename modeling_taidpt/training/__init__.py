"""Learning prompts: trainer, arguments, data, schedules, reports."""

from .arguments import TaiDptTrainingArguments
from .images import IMAGE_RECIPES
from .setup import find_recipe, set_up_training
from .trainer import TaiDptTrainer

__all__ = [
    "IMAGE_RECIPES",
    "TaiDptTrainer",
    "TaiDptTrainingArguments",
    "find_recipe",
    "set_up_training",
]
