"""Logits to probabilities: one scale and one bias, fitted on labelled scores (Platt scaling).

Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines", without its label smoothing.
"""

from __future__ import annotations

import torch


def fit_score_calibration(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Fits `sigmoid(scale * logit + bias)` to labels by maximum likelihood over all (sample, class) pairs.

    Args:
        logits (`torch.Tensor` of shape `(samples, classes)`): merged scores, of captions or of images.
        labels (`torch.Tensor` of shape `(samples, classes)`): 1 where a class is present, else 0.

    Returns:
        `tuple[float, float]`: scale and bias, for `config.score_scale` and `config.score_bias`.

    Raises:
        ValueError: the shapes differ, or the labels are all equal.
    """
    logits, labels = torch.as_tensor(logits).double(), torch.as_tensor(labels).double()  # (samples, classes) each
    if logits.shape != labels.shape:
        raise ValueError(
            f"Logits have the shape {tuple(logits.shape)} and labels {tuple(labels.shape)}: give equal ones."
        )
    if labels.min() == labels.max():
        raise ValueError(f"All labels are {labels.min():g}: a probability needs present and absent classes.")
    mean, spread = logits.mean(), logits.std().clamp(min=1e-12)
    standard = (logits - mean) / spread  # (samples, classes)
    parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scores = parameters[0] * standard + parameters[1]  # (samples, classes)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    scale = float(parameters[0].detach() / spread)
    return scale, float(parameters[1].detach()) - scale * float(mean)


__all__ = ["fit_score_calibration"]
