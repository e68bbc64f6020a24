"""Logits to probabilities, and probabilities to labels.

- Scale and bias (Platt 1999, "Probabilistic Outputs for Support Vector Machines", without its label smoothing), for
  the model or per class. Classes with few positives are held to the model's fit: a Gaussian prior around it. Scales
  stay finite where the scores tell all labels apart, and positive, so that no fit turns the order of labels around.
- Without labels: a bias that makes the mean probability of unlabelled images what the classes' shares should be.
- Thresholds that maximize F1, for the model or per class, shrunk towards the model's in the same way.

Everything here works on tensors; [`calibrate`] and its relatives do it for a model.
"""

from __future__ import annotations

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

RIDGE = 0.01  # weight, in pairs, of the squared factor: without it a fit to separable labels has no end
MIN_SLOPE = 0.01  # per standard deviation of the scores
BISECTIONS = 60  # halvings of [-50, 50]: exact in fp64
MAX_LOGIT = 50.0


def fit_score_calibration(
    logits: torch.Tensor,
    labels: torch.Tensor,
    per_class: bool = False,
    prior_strength: float = 5.0,
    known: torch.Tensor | None = None,
) -> tuple[float | list[float], float | list[float]]:
    """Fits `sigmoid(scale * logit + bias)` to labels by maximum likelihood over all (sample, class) pairs.

    Args:
        logits (`torch.Tensor` of shape `(samples, classes)`): merged scores, of captions or of images.
        labels (`torch.Tensor` of shape `(samples, classes)`): 1 where a class is present, else 0.
        per_class (`bool`, *optional*, defaults to `False`): one scale and bias per class, held to those of the model.
        prior_strength (`float`, *optional*, defaults to 5.0): how firmly, about in positives: a class with so many has
            as much say as the model's fit. A class without labels gets the model's fit.
        known (`torch.Tensor` of shape `(samples, classes)`, *optional*): true where the label is known; all by
            default.

    Returns:
        `tuple[float, float]` or `tuple[list[float], list[float]]`: scale and bias, for `config.score_scale` and
        `config.score_bias`. Every scale is positive: where present labels do not score higher than absent ones, the
        probability is nearly their share, and a warning says so.

    Raises:
        ValueError: the shapes differ, the known labels are all equal, or `prior_strength` is not positive.
    """
    logits, labels, known = _check(logits, labels, known)
    if per_class and not prior_strength > 0:
        raise ValueError(f"`prior_strength` is {prior_strength}: give a number above 0.")
    seen = logits[known]  # (pairs,)
    mean, spread = seen.mean(), seen.std()
    if spread < 1e-6 * max(1.0, float(mean.abs())):  # equal but for rounding
        spread = torch.ones_like(spread)
    standard = (logits - mean) / spread  # (samples, classes)
    shared = _fit_logistic(standard[known], labels[known])  # (2,)
    parameters = shared if not per_class else _fit_classes(standard, labels, known, shared, prior_strength)
    scale = parameters[0] / spread  # () or (classes,)
    bias = parameters[1] - scale * mean  # () or (classes,)
    return scale.tolist(), bias.tolist()


def _fit_logistic(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Factor, at least `MIN_SLOPE`, and offset `(2,)` of a logistic regression on scores `(pairs,)`, by LBFGS."""
    parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(parameters[0] * scores + parameters[1], labels)
        loss = loss + RIDGE / (2 * len(scores)) * parameters[0].square()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = parameters.detach()
    if found[0] < MIN_SLOPE:
        logger.warning("Present labels do not score higher than absent ones here: probabilities say little.")
        offset = match_prevalence(MIN_SLOPE * scores[:, None], float(labels.mean()))
        found = torch.tensor([MIN_SLOPE, offset], dtype=torch.float64)
    return found


def _fit_classes(
    scores: torch.Tensor, labels: torch.Tensor, known: torch.Tensor, shared: torch.Tensor, strength: float
) -> torch.Tensor:
    """Factors and offsets `(2, classes)`: Newton's method on each class's penalized likelihood."""
    design = torch.stack([scores, torch.ones_like(scores)], dim=-1)  # (samples, classes, 2)
    weights = known.double()  # (samples, classes)
    prior = strength * torch.eye(2, dtype=torch.float64)  # (2, 2)

    def value(parameters: torch.Tensor) -> torch.Tensor:
        logits = (design * parameters).sum(dim=-1)  # (samples, classes)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="none")
        return losses.sum(dim=0) + strength / 2 * (parameters - shared).square().sum(dim=1)  # (classes,)

    def minimise(found: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
        """Parameters `(classes, 2)` that are found from these; where `free` is 0 they stay."""
        for _ in range(50):
            probabilities = (design * found).sum(dim=-1).sigmoid()  # (samples, classes)
            slope = ((probabilities - labels) * weights)[..., None] * design  # (samples, classes, 2)
            gradient = (slope.sum(dim=0) + strength * (found - shared)) * free  # (classes, 2)
            curvature = probabilities * (1 - probabilities) * weights  # (samples, classes)
            hessian = torch.einsum("sc,scp,scq->cpq", curvature, design, design) + prior  # (classes, 2, 2)
            hessian = hessian * free[:, :, None] * free[:, None] + torch.diag_embed(1 - free)  # (classes, 2, 2)
            step = torch.linalg.solve(hessian, gradient[..., None])[..., 0]  # (classes, 2)
            size, before = torch.ones(len(found), 1, dtype=torch.float64), value(found)  # (classes, 1), (classes,)
            for _ in range(20):  # halved where the full step would climb
                worse = value(found - size * step) > before + 1e-12  # (classes,)
                if not worse.any():
                    break
                size[worse] /= 2
            found = found - size * step
            if step.abs().max() < 1e-9:
                break
        return found

    free = torch.ones(scores.shape[1], 2, dtype=torch.float64)  # (classes, 2)
    found = minimise(shared.repeat(len(free), 1), free)  # (classes, 2)
    if (found[:, 0] < MIN_SLOPE).any():
        free[:, 0] = (found[:, 0] >= MIN_SLOPE).double()
        found[:, 0].clamp_(min=MIN_SLOPE)
        found = minimise(found, free)
        found[:, 0].clamp_(min=MIN_SLOPE)
    return found.T  # (2, classes)


def match_prevalence(
    logits: torch.Tensor, prevalence: torch.Tensor | float, scale: float | list[float] = 1.0
) -> float | list[float]:
    """The bias with which the mean probability over unlabelled images is what it should be; needs no labels.

    Args:
        logits (`torch.Tensor` of shape `(images, classes)`): merged scores of unlabelled images.
        prevalence (`torch.Tensor` of shape `(classes,)` or `float`): share of images that show each class, as of the
            captions that name it; or one share for all (image, class) pairs, which gives one bias for the model.
        scale (`float` or `list[float]`, *optional*, defaults to 1.0): factor on the logits.

    Returns:
        `float` or `list[float]`: bias, for `config.score_bias`.

    Raises:
        ValueError: a share is not between 0 and 1 (both excluded).
    """
    shares = torch.as_tensor(prevalence, dtype=torch.float64)  # () or (classes,)
    if not ((shares > 0) & (shares < 1)).all():
        raise ValueError("Every prevalence must lie between 0 and 1, both excluded: count unnamed classes as rare.")
    scaled = torch.as_tensor(scale, dtype=torch.float64) * torch.as_tensor(logits).double()  # (images, classes)
    if shares.ndim == 0:
        scaled = scaled.flatten()  # (pairs,)
    low, high = -scaled.amax(dim=0) - MAX_LOGIT, -scaled.amin(dim=0) + MAX_LOGIT  # () or (classes,)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2  # () or (classes,)
        too_high = (scaled + middle).sigmoid().mean(dim=0) > shares  # () or (classes,)
        low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
    return ((low + high) / 2).tolist()


def fit_thresholds(
    probabilities: torch.Tensor,
    labels: torch.Tensor,
    per_class: bool = False,
    prior_strength: float = 5.0,
    known: torch.Tensor | None = None,
) -> float | list[float]:
    """Thresholds that maximize F1 on labelled samples.

    The model's threshold maximizes F1 over all (sample, class) pairs. A class's own maximizes its F1; what is used
    is the mean of their logits, weighted by the class's positives and by `prior_strength`.

    Args:
        probabilities (`torch.Tensor` of shape `(samples, classes)`): in [0, 1].
        labels (`torch.Tensor` of shape `(samples, classes)`): 1 where a class is present, else 0.
        per_class (`bool`, *optional*, defaults to `False`): one threshold per class.
        prior_strength (`float`, *optional*, defaults to 5.0): positives that weigh as much as the model's threshold.
        known (`torch.Tensor` of shape `(samples, classes)`, *optional*): true where the label is known.

    Returns:
        `float` or `list[float]`: for `config.score_thresholds`. Each lies halfway (in logits) between the lowest
        probability that counts as present and the next one below, or half a logit below it where there is none.

    Raises:
        ValueError: the shapes differ, or the known labels are all equal.
    """
    probabilities, labels, known = _check(probabilities, labels, known)
    logits = probabilities.clamp(1e-12, 1 - 1e-12).logit()  # (samples, classes)
    shared = _best_cut(logits[known], labels[known])
    if not per_class:
        return float(torch.tensor(shared, dtype=torch.float64).sigmoid())
    thresholds = []
    for column in range(labels.shape[1]):
        seen = known[:, column]  # (samples,)
        positives = float(labels[seen, column].sum())
        own = _best_cut(logits[seen, column], labels[seen, column]) if positives else shared
        thresholds.append((positives * own + prior_strength * shared) / max(positives + prior_strength, 1e-12))
    return torch.tensor(thresholds, dtype=torch.float64).sigmoid().tolist()


def _best_cut(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Where to cut logits `(pairs,)` for the best F1: halfway from the lowest one that is kept to the next below."""
    ranked, order = logits.sort(descending=True)  # (pairs,)
    hits = labels[order].cumsum(dim=0)  # (pairs,)
    kept = torch.arange(1, len(ranked) + 1, dtype=torch.float64)  # (pairs,)
    f1 = 2 * hits / (kept + labels.sum())  # (pairs,)
    f1[:-1][ranked[:-1] == ranked[1:]] = -1  # equal scores stay together
    last = int(f1.argmax())
    below = ranked[last + 1] if last + 1 < len(ranked) else ranked[last] - 1
    return float(ranked[last] + below) / 2


def _check(
    values: torch.Tensor, labels: torch.Tensor, known: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores and labels in fp64 and the mask of known labels, `(samples, classes)` each."""
    values, labels = torch.as_tensor(values).double(), torch.as_tensor(labels).double()  # (samples, classes) each
    if values.shape != labels.shape or (known is not None and tuple(known.shape) != tuple(labels.shape)):
        raise ValueError(
            f"Logits have the shape {tuple(values.shape)} and labels {tuple(labels.shape)}: give equal ones."
        )
    known = torch.ones_like(labels, dtype=torch.bool) if known is None else torch.as_tensor(known).bool()
    seen = labels[known]  # (pairs,)
    if not len(seen) or seen.min() == seen.max():
        which = f"All labels are {seen.min():g}" if len(seen) else "No label is known"
        raise ValueError(f"{which}: a probability needs present and absent classes.")
    return values, labels, known


__all__ = ["fit_score_calibration", "fit_thresholds", "match_prevalence"]
