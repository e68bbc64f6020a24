"""Multi-label losses: ranking (the paper's), BCE, focal, asymmetric, soft cross-entropy, partial-label asymmetric.

Every loss is an `nn.Module` called with `(logits, labels)`, both `(batch, classes)`, and returns a scalar in fp32
(fp64 for fp64 logits). Neither input is ever changed in place.

Sources: "Texts as Images in Prompt Tuning for Multi-Label Image Recognition" (CVPR 2023, arXiv 2211.12739) and its
published code (github.com/guozix/TaI-DPT, `trainers/utils.py`); reductions are those of that code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BINARY, PARTIAL, SOFT = "0 or 1", "-1, 0 or 1", "between 0 and 1"


def _values_allowed(labels: Tensor, allowed: str) -> Tensor:
    """Tells which entries of `labels` are allowed: `(batch, classes)` of `bool`. NaN never is."""
    if allowed == SOFT:
        return (labels >= 0) & (labels <= 1)  # (batch, classes)
    known = (labels == 0) | (labels == 1)  # (batch, classes)
    return known | (labels == -1) if allowed == PARTIAL else known  # (batch, classes)


def _host_can_wait() -> bool:
    """Whether the label values may be read on the host: not while a graph is being compiled or captured."""
    if torch.compiler.is_compiling():
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


class MultiLabelLoss(nn.Module):
    """What the losses share: they look at the labels before they use them.

    Attributes:
        check_labels (`bool`): whether a label with a value that is not allowed is an error. Where it was ruled out
            before, `False` spares a GPU's host the wait for the values.
    """

    check_labels = True

    def _prepare(self, logits: Tensor, labels: Tensor, allowed: str) -> tuple[Tensor, Tensor]:
        """Checks one (logits, labels) pair and brings the logits to at least fp32.

        Args:
            logits: Scores `(batch, classes)`, any floating dtype.
            labels: Labels `(batch, classes)`, any dtype.
            allowed: Values that `labels` may hold: `BINARY`, `PARTIAL` or `SOFT`.

        Returns:
            Logits in fp32 or fp64 and the labels, unchanged.

        Raises:
            ValueError: If the shapes differ or are not `(batch, classes)`, or a label has a value that is not allowed.
        """
        loss = type(self).__name__
        if logits.dim() != 2 or logits.shape != labels.shape or logits.numel() == 0:
            raise ValueError(
                f"{loss} needs logits and labels of one shape (batch, classes) with no dimension empty, but logits "
                f"are {tuple(logits.shape)} and labels {tuple(labels.shape)}; give a row per sample and a column per "
                "class."
            )
        if not logits.is_floating_point():
            raise ValueError(
                f"{loss} needs floating-point logits, but they are {logits.dtype}; convert them with .float()."
            )
        if self.check_labels and _host_can_wait():
            good = _values_allowed(labels, allowed)  # (batch, classes)
            if not bool(good.all()):
                row, column = (~good).nonzero()[0].tolist()
                raise ValueError(
                    f"{loss} needs labels that are {allowed}, but labels[{row}, {column}] is "
                    f"{labels[row, column].item()}"
                    + ("; unknown labels (-1/0/1) are for PartialAsymmetricLoss." if allowed == BINARY else ".")
                )
        return logits if logits.dtype == torch.float64 else logits.float(), labels  # (batch, classes) each


class RankingLoss(MultiLabelLoss):
    r"""Pairwise hinge loss of TaI-DPT: every positive class should score a margin above every negative one.

    `R(z, y) = mean_b sum_{i: y_i = 1} sum_{j: y_j = 0} max(0, margin - z_i + z_j)`, not divided by the number of
    pairs. A sample without positives, or without negatives, adds 0.

    The published code builds a `(batch, classes, classes)` cube. Here each row is sorted once: the number of active
    pairs that a class is in is its derivative, and the loss is linear in the logits between two kinks, so
    `R = mean_b (sum_c n_c z_c + margin * pairs)` is the same number with the same gradient in `O(classes log classes)`
    time and `O(classes)` memory per sample. Shapes do not depend on the labels. On a kink (a pair apart by exactly the
    margin) the pair counts as satisfied, with derivative 0.

    Source: arXiv 2211.12739, the ranking loss; published code `trainers/utils.py`, `ranking_loss` with `scale_ = 1`
    (that function scales its input in place; this one does not).

    Args:
        margin (`float`, *optional*, defaults to 1.0):
            Distance in logits that a positive must be above a negative.
    """

    def __init__(self, margin: float = 1.0) -> None:
        """Keeps the margin."""
        super().__init__()
        self.margin = margin

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Computes the loss.

        Args:
            logits: Scores `(batch, classes)`.
            labels: Multi-hot labels `(batch, classes)`, 0 or 1, any dtype.
            weights: Weights `(batch, classes)`, 0 or more: a pair counts as often as the product of its two weights.
                All 1 without.

        Returns:
            Scalar, summed over pairs and averaged over the batch.

        Raises:
            ValueError: On a wrong shape or a label that is neither 0 nor 1.
        """
        logits, labels = self._prepare(logits, labels, BINARY)
        positive = labels == 1  # (batch, classes)
        with torch.no_grad():
            derivative, pairs = self._count_active_pairs(logits, positive, weights)  # (batch, classes), scalar
            # Every row of derivatives sums to 0: taking the row's mean away changes nothing but the rounding.
            center = logits.mean(dim=1, keepdim=True)  # (batch, 1)
        return ((derivative * (logits - center)).sum() + self.margin * pairs) / logits.shape[0]  # ()

    def _count_active_pairs(self, logits: Tensor, positive: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Counts the pairs with a hinge above 0.

        Args:
            logits: Scores `(batch, classes)`.
            positive: Mask of positives `(batch, classes)`.
            weights: Weights `(batch, classes)`, or `None` for all 1.

        Returns:
            Active pairs of each class `(batch, classes)`, + for a negative and - for a positive, and their number.
        """
        raised = logits + self.margin  # (batch, classes); a pair is active when raised[negative] > logits[positive]
        infinity = float("inf")
        positives, positive_order = logits.masked_fill(~positive, infinity).sort(dim=1)  # others at the end
        negatives, negative_order = raised.masked_fill(positive, -infinity).sort(dim=1)  # others in front
        # (batch, classes) all four
        below = torch.searchsorted(positives, raised.contiguous())  # (batch, classes) positives under this negative
        not_above = torch.searchsorted(negatives, logits.contiguous(), right=True)  # (batch, classes)
        if weights is None:
            above = logits.shape[1] - not_above  # (batch, classes) negatives over this positive
        else:
            weights = weights.to(logits.dtype).expand_as(logits)  # (batch, classes)
            below = weights * _sum_of_first(weights.masked_fill(~positive, 0).gather(1, positive_order), below)
            over = weights.masked_fill(positive, 0).gather(1, negative_order).flip(1)  # (batch, classes)
            above = weights * _sum_of_first(over, logits.shape[1] - not_above)  # (batch, classes)
        below = below.masked_fill(positive, 0).to(logits.dtype)  # (batch, classes)
        above = above.masked_fill(~positive, 0).to(logits.dtype)  # (batch, classes)
        return below - above, below.sum()  # (batch, classes), ()


def _sum_of_first(values: Tensor, counts: Tensor) -> Tensor:
    """Sum of the first `counts` entries of each row; both and the result `(batch, classes)`."""
    sums = F.pad(values.cumsum(dim=1), (1, 0))  # (batch, 1 + classes)
    return sums.gather(1, counts)  # (batch, classes)


class BCELoss(MultiLabelLoss):
    """Binary cross-entropy of the sigmoid, averaged over all entries.

    Source: published TaI-DPT code, `trainers/utils.py`, `norm_logits_BCEloss`. Labels may be soft (0 to 1).
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            logits: Scores `(batch, classes)`.
            labels: Labels `(batch, classes)` in [0, 1], any dtype.

        Returns:
            Scalar, the mean over batch and classes.

        Raises:
            ValueError: On a wrong shape or a label outside [0, 1].
        """
        logits, labels = self._prepare(logits, labels, SOFT)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))  # ()


class FocalLoss(MultiLabelLoss):
    r"""Sigmoid focal loss without class weight, `|y - p|^gamma BCE(z, y)`, averaged over all entries.

    Source: Lin et al., "Focal Loss for Dense Object Detection" (arXiv 1708.02002); published TaI-DPT code,
    `trainers/utils.py`, `sigmoid_focal_loss` (`alpha = -1`). Labels may be soft (0 to 1).

    Args:
        gamma (`float`, *optional*, defaults to 2.0):
            Exponent that lessens easy entries; 0 is binary cross-entropy.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        """Keeps the exponent."""
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            logits: Scores `(batch, classes)`.
            labels: Labels `(batch, classes)` in [0, 1], any dtype.

        Returns:
            Scalar, the mean over batch and classes.

        Raises:
            ValueError: On a wrong shape or a label outside [0, 1].
        """
        logits, labels = self._prepare(logits, labels, SOFT)
        labels = labels.to(logits.dtype)  # (batch, classes)
        entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")  # (batch, classes)
        return (entropy * (labels - logits.sigmoid()).abs() ** self.gamma).mean()  # ()


class AsymmetricLoss(MultiLabelLoss):
    r"""Asymmetric loss (ASL) for full labels: negatives are clipped and lessened more than positives.

    With `p = sigmoid(z)` and `q = min(1, 1 - p + clip)`: `-(1 - p)^gamma_pos log p` for a positive and
    `-(1 - q)^gamma_neg log q` for a negative, averaged over all entries. No gradient flows through the two weights.

    Source: Ridnik et al., "Asymmetric Loss For Multi-Label Classification" (ICCV 2021, arXiv 2009.14119); published
    TaI-DPT code, `trainers/utils.py`, `ASL_loss`.

    Args:
        gamma_neg (`float`, *optional*, defaults to 2.0):
            Exponent of the weight of negatives.
        gamma_pos (`float`, *optional*, defaults to 1.0):
            Exponent of the weight of positives.
        clip (`float`, *optional*, defaults to 0.05):
            Probability under which a negative costs nothing.
        eps (`float`, *optional*, defaults to 1e-8):
            Smallest probability that goes into a logarithm; beyond it the gradient is 0.
    """

    def __init__(self, gamma_neg: float = 2.0, gamma_pos: float = 1.0, clip: float = 0.05, eps: float = 1e-8) -> None:
        """Keeps the exponents and the clipping."""
        super().__init__()
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip
        self.eps = eps

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            logits: Scores `(batch, classes)`.
            labels: Multi-hot labels `(batch, classes)`, 0 or 1, any dtype.

        Returns:
            Scalar, the mean over batch and classes.

        Raises:
            ValueError: On a wrong shape or a label that is neither 0 nor 1.
        """
        logits, labels = self._prepare(logits, labels, BINARY)
        return self._entries(logits, labels == 1, labels == 0).mean()  # ()

    def _entries(self, logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Computes the loss of each entry, 0 where a class is neither positive nor negative.

        Args:
            logits: Scores `(batch, classes)`.
            positive: Mask of positives `(batch, classes)`.
            negative: Mask of negatives `(batch, classes)`.

        Returns:
            Losses `(batch, classes)`.
        """
        present = logits.sigmoid()  # (batch, classes)
        absent = (1 - present + self.clip).clamp(max=1)  # (batch, classes)
        with torch.no_grad():
            positive_weight = positive * (1 - present) ** self.gamma_pos  # (batch, classes)
            negative_weight = negative * (1 - absent) ** self.gamma_neg  # (batch, classes)
        positive_loss = positive_weight * present.clamp(min=self.eps).log()  # (batch, classes)
        negative_loss = negative_weight * absent.clamp(min=self.eps).log()  # (batch, classes)
        return -(positive_loss + negative_loss)  # (batch, classes)


class PartialAsymmetricLoss(AsymmetricLoss):
    r"""Asymmetric loss for partial labels (1 present, -1 absent, 0 unknown), summed and divided by the batch.

    An unknown class adds nothing. Arguments are those of [`AsymmetricLoss`].

    Source: Sun et al., "DualCoOp" (NeurIPS 2022, arXiv 2206.09541), published code `AsymmetricLoss_partial`; published
    TaI-DPT code, `trainers/utils.py`, `dualcoop_loss`.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            logits: Scores `(batch, classes)`.
            labels: Partial labels `(batch, classes)`, -1, 0 or 1, any dtype.

        Returns:
            Scalar, the sum over classes averaged over the batch.

        Raises:
            ValueError: On a wrong shape or a label that is not -1, 0 or 1.
        """
        logits, labels = self._prepare(logits, labels, PARTIAL)
        return self._entries(logits, labels == 1, labels == -1).sum() / logits.shape[0]  # ()


class SoftCrossEntropyLoss(MultiLabelLoss):
    """Cross-entropy of the softmax with a soft target, `mean_b sum_c -y_c log softmax(z)_c`.

    The target is used as it is: a row with three positives weighs three times one with one.

    Source: published TaI-DPT code, `trainers/utils.py`, `soft_cross_entropy`.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            logits: Scores `(batch, classes)`.
            labels: Labels `(batch, classes)` in [0, 1], any dtype.

        Returns:
            Scalar, summed over classes and averaged over the batch.

        Raises:
            ValueError: On a wrong shape or a label outside [0, 1].
        """
        logits, labels = self._prepare(logits, labels, SOFT)
        log_probability = logits.log_softmax(dim=1)  # (batch, classes)
        return -(labels.to(logits.dtype) * log_probability).sum(dim=1).mean()  # ()


LOSSES: dict[str, type[MultiLabelLoss]] = {
    "ranking": RankingLoss,
    "bce": BCELoss,
    "focal": FocalLoss,
    "asl": AsymmetricLoss,
    "soft_ce": SoftCrossEntropyLoss,
    "partial_asl": PartialAsymmetricLoss,
}


SMOOTHED = ("bce", "focal", "soft_ce")  # losses that take labels between 0 and 1


def smooth_labels(labels: Tensor, factor: float, loss: str) -> Tensor:
    """Labels that are less sure (Szegedy et al., CVPR 2016, arXiv 1512.00567, section 7).

    Each label is a class of its own for `"bce"` and `"focal"`, `y (1 - factor) + factor / 2`; for `"soft_ce"` all are
    one distribution, `y (1 - factor) + factor * sum(y) / classes`.

    Args:
        labels: Labels `(batch, classes)`.
        factor: 0 changes nothing.
        loss: One of `SMOOTHED`.

    Returns:
        Labels `(batch, classes)`.
    """
    if not factor:
        return labels
    other = labels.mean(dim=1, keepdim=True) if loss == "soft_ce" else 0.5  # (batch, 1)
    return labels * (1 - factor) + factor * other  # (batch, classes)


def get_loss(name: str, **options: Any) -> MultiLabelLoss:
    """Makes a loss by its name.

    Args:
        name: One of the keys of `LOSSES`.
        options: Arguments of the loss, as `margin=1.0`.

    Returns:
        The loss, called with `(logits, labels)`.

    Raises:
        ValueError: If no loss has that name.
    """
    if name not in LOSSES:
        raise ValueError(f"No loss is called {name!r}; choose one of {', '.join(LOSSES)}.")
    return LOSSES[name](**options)
