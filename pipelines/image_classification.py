"""`pipeline("image-classification")` with the probabilities of a model that knows them.

transformers' pipeline takes the sigmoid of the logits. A calibrated checkpoint makes probabilities of them by a scale
and a bias of each label, so its scores would be others than those of `pipeline("multi-label-image-classification")`,
without a word. The pipeline here gives the same ones; for every other model it is that of transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import ImageClassificationPipeline
from transformers.pipelines import PIPELINE_REGISTRY

IMAGE_CLASSIFICATION = "image-classification"


class ProbabilityImageClassificationPipeline(ImageClassificationPipeline):
    """transformers' pipeline, whose scores are `model.probabilities(logits)` where the model has that."""

    def check_model_type(self, supported_models: list[str] | dict) -> None:
        """As in every pipeline; transformers' list of models does not know those that are registered later."""
        if not hasattr(self.model, "probabilities"):
            super().check_model_type(supported_models)

    def _forward(self, model_inputs: Any) -> Any:
        outputs = super()._forward(model_inputs)
        probabilities = getattr(self.model, "probabilities", None)
        if probabilities is not None:  # `postprocess` takes their sigmoid
            outputs["logits"] = torch.logit(probabilities(outputs["logits"].double()))  # (batch, classes)
        return outputs

    def postprocess(self, model_outputs: Any, function_to_apply: Any = None, top_k: int = 5) -> list[dict[str, Any]]:
        """As in transformers, with a sigmoid for probabilities of each label whatever the configuration says."""
        if function_to_apply is None and hasattr(self.model, "probabilities"):
            function_to_apply = "sigmoid"
        return super().postprocess(model_outputs, function_to_apply, top_k)


def register() -> None:
    """Puts it in the place of transformers' own pipeline, unless somebody else's is there."""
    task, theirs = PIPELINE_REGISTRY.supported_tasks[IMAGE_CLASSIFICATION], ImageClassificationPipeline
    if task["impl"] in (theirs, f"{theirs.__module__}.{theirs.__qualname__}"):  # by name until it is used
        task["impl"] = ProbabilityImageClassificationPipeline


__all__ = ["IMAGE_CLASSIFICATION", "ProbabilityImageClassificationPipeline", "register"]
