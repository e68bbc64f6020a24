"""Figures of held-out data: the mAP that chooses the checkpoint, and what the user's own functions add to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from transformers.trainer_utils import EvalPrediction

from ..evaluation.metrics import mean_average_precision

TIMES = ("loss", "runtime", "samples_per_second", "steps_per_second")  # what transformers measures beside


class HeldOutMetrics:
    """The `compute_metrics` and `preprocess_logits_for_metrics` of a [`TaiDptTrainer`].

    The mAP is always that of the model's scores. The user's functions get what those of [`~transformers.Trainer`] get:
    `compute_metrics` sees what `preprocess_logits_for_metrics` made of the scores, whatever its shape, and with
    `batch_eval_metrics` one batch at a time.

    Args:
        metric (`str`): name of the mAP.
        others (`Callable[[], Mapping[str, float]]`): measures further figures of the model as it is.
        compute_metrics (`Callable`, *optional*): the user's.
        preprocess (`Callable`, *optional*): the user's, of scores and labels `(batch, classes)`.
        by_batch (`bool`, *optional*, defaults to `False`): whether it is called with one batch at a time.

    Raises:
        ValueError: If `compute_metrics` is to be called with batches and has no argument `compute_result`.
    """

    def __init__(
        self,
        metric: str,
        others: Callable[[], Mapping[str, float]],
        compute_metrics: Callable[..., dict] | None = None,
        preprocess: Callable[[torch.Tensor, torch.Tensor], Any] | None = None,
        by_batch: bool = False,
    ) -> None:
        self.metric, self.others = metric, others
        self.compute_metrics, self.user_preprocess, self.by_batch = compute_metrics, preprocess, by_batch
        self._batches: list[tuple[np.ndarray, np.ndarray]] = []  # scores and labels (batch, classes) each
        known = () if compute_metrics is None else inspect.signature(compute_metrics).parameters
        if by_batch and compute_metrics is not None and "compute_result" not in known:
            raise ValueError(
                "`batch_eval_metrics` calls `compute_metrics` with one batch at a time: give it an argument "
                "`compute_result`, which is true for the last one."
            )

    def preprocess(self, scores: torch.Tensor, labels: torch.Tensor) -> Any:
        """The scores `(batch, classes)`, with what the user's function makes of them."""
        return scores if self.user_preprocess is None else (scores, self.user_preprocess(scores.clone(), labels))

    def users_part(self, predictions: Any) -> Any:
        """Of predictions that were preprocessed what the user's function made."""
        if self.user_preprocess is None or predictions is None:
            return predictions
        return [part[1] for part in predictions] if isinstance(predictions, list) else predictions[1]

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """The figures of all held-out data, or with `batch_eval_metrics` of the batches so far.

        Args:
            prediction (`EvalPrediction`): preprocessed scores and labels, of all data or of a batch.
            compute_result (`bool`, *optional*, defaults to `True`): whether it is the last batch.

        Returns:
            `dict[str, float]`: empty but for the last batch.
        """
        self._batches.append((self._scores(prediction.predictions), _joined(prediction.label_ids)))
        users: dict[str, float] = {}
        if self.compute_metrics is not None:
            options = {"compute_result": compute_result} if self.by_batch else {}
            users = self.compute_metrics(
                EvalPrediction(
                    predictions=self.users_part(prediction.predictions),
                    label_ids=prediction.label_ids,
                    inputs=prediction.inputs,
                    losses=prediction.losses,
                ),
                **options,
            )
        if not compute_result:
            return {}
        scores, labels = (np.concatenate(column) for column in zip(*self._batches, strict=True))  # (rows, classes)
        self._batches = []
        return {self.metric: mean_average_precision(scores, labels)["map"], **self.others(), **(users or {})}

    def _scores(self, predictions: Any) -> np.ndarray:
        """The model's scores `(rows, classes)` among preprocessed predictions."""
        if self.user_preprocess is None:
            return _joined(predictions)
        return _joined([part[0] for part in predictions] if isinstance(predictions, list) else predictions[0])

    def names(self) -> set[str]:
        """Names of the figures, but for those of the user."""
        return {self.metric, f"zero_shot_{self.metric}", "template_cosine", *TIMES}


def _joined(values: Any) -> np.ndarray:
    """An array `(rows, classes)` of an array, a tensor on any device, or a list of them, one per batch."""
    if isinstance(values, list):
        return np.concatenate([_joined(value) for value in values])
    return values.float().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


__all__ = ["HeldOutMetrics"]
