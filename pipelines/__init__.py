"""Pipelines of transformers that this package adds."""

from __future__ import annotations

from transformers import AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .image_classification import register as register_image_classification
from .multi_label_image_classification import MultiLabelImageClassificationPipeline

TASK = "multi-label-image-classification"


def register(default_checkpoint: str) -> None:
    """Makes `pipeline("multi-label-image-classification")` known to transformers; repeated calls change nothing.

    Args:
        default_checkpoint (`str`): folder or Hub repository that is used when `pipeline` gets no `model`.
    """
    pipeline_class = MultiLabelImageClassificationPipeline
    if PIPELINE_REGISTRY.supported_tasks.get(TASK, {}).get("impl") is pipeline_class:
        return
    register_image_classification()
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=pipeline_class,
        pt_model=AutoModelForImageClassification,
        default={"model": (default_checkpoint, "main")},
        type="image",
    )
    # `save_pretrained` writes this entry into config.json: the default is a path of this machine and stays out of it.
    entry = PIPELINE_REGISTRY.supported_tasks[TASK]
    pipeline_class._registered_impl = {TASK: {key: entry[key] for key in ("impl", "pt", "type")}}


__all__ = ["TASK", "MultiLabelImageClassificationPipeline", "register"]
