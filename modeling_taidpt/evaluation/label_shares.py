"""Without a labelled image: how often each label is to be expected, and thresholds and probabilities from that.

Captions say which labels are frequent, not how frequent: a writer leaves out most of what a photograph shows. So only
the proportions of the labels are taken from captions, scaled to an expected number of labels per image. Each share is
then averaged with what the scores of unlabelled images say: a mixture of two Gaussians per label whose distance and
width all labels have in common (Dempster, Laird and Rubin 1977, "Maximum Likelihood from Incomplete Data via the EM
Algorithm"; the shares of classes in new data as in Saerens et al. 2002). The threshold of a label lies where as many
images are above it as its share says, and is drawn towards the threshold that the model would have for all labels.

The constants were chosen on the 199 photographs of COCO train2014 that were at hand and on half of VOC2007's test
images, see docs/studies.md; there F1 changes by less than a point between half and twice their values.
"""

from __future__ import annotations

import torch

LABELS_PER_NAMED = 1.5  # labels that a photograph shows, for each one that a caption which names any names
MAX_SHARE = 0.9  # of images that a label is expected in
SHARE_WEIGHT = 1.0  # of the expected shares beside those that the images say
OWN_WEIGHT = 0.75  # of a label's own threshold beside the model's
PRIOR_IMAGES = 1.0  # expected images with the label at which its own threshold has half of that weight
LOG_ODDS_PER_DEVIATION = 2.0  # that a standard deviation of a label's scores over images is worth
STEPS = 60  # of expectation maximization


def caption_shares(labels: torch.Tensor, labels_per_image: float | None = None) -> torch.Tensor:
    """Expected share of the images that show each label, from captions.

    Args:
        labels (`torch.Tensor` of shape `(captions, classes)`): multi-hot: which labels captions name.
        labels_per_image (`float`, *optional*): labels that an image shows, in the mean; by default 1.5 times those
            that a caption names which names any.

    Returns:
        `torch.Tensor` of shape `(classes,)`: above 0, below 1; they add up to `labels_per_image`. A label that no
        caption names counts as named by half a caption.

    Raises:
        ValueError: no caption names a label, or `labels_per_image` is not between 0 and nine tenths of the labels.
    """
    present = torch.as_tensor(labels).double() > 0  # (captions, classes)
    named = present[present.any(dim=1)]  # (captions that name any, classes)
    if not len(named):
        raise ValueError(f"None of the {len(present)} captions names a label: give others, or synonyms of the labels.")
    most = MAX_SHARE * present.shape[1]
    if labels_per_image is None:
        labels_per_image = min(LABELS_PER_NAMED * float(named.double().sum(dim=1).mean()), most)
    return scaled_shares(present.double().sum(dim=0).clamp(min=0.5), labels_per_image)


def scaled_shares(shares: torch.Tensor, labels_per_image: float) -> torch.Tensor:
    """Shares `(classes,)` in the same proportions that add up to a number of labels per image, each at most 0.9.

    Raises:
        ValueError: the number is not between 0 and nine tenths of the labels, or a share is not above 0.
    """
    shares = torch.as_tensor(shares).double()  # (classes,)
    most = MAX_SHARE * len(shares)
    if not 0 < labels_per_image <= most:
        raise ValueError(
            f"{labels_per_image:g} labels per image are expected of {len(shares)} labels: give a number above 0, at "
            f"most {most:g}."
        )
    if not (shares > 0).all():
        raise ValueError("Every share must be above 0: count labels that were never seen as rare.")
    full = torch.zeros(len(shares), dtype=torch.bool)  # (classes,), those at the most
    for _ in range(len(shares)):
        room = labels_per_image - MAX_SHARE * int(full.sum())
        factor = room / float(shares[~full].sum()) if not full.all() else 0.0
        over = ~full & (shares * factor > MAX_SHARE + 1e-12)  # (classes,)
        if not over.any():
            break
        full |= over
    return torch.where(full, torch.full_like(shares, MAX_SHARE), shares * factor)


def estimate_shares(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Expected shares, corrected by what the scores of unlabelled images say.

    Each label's scores are a mixture of those of images without and with it, two Gaussians whose distance and standard
    deviation all labels share. Its proportion is the mean of the expected share and of the images' responsibilities.

    Args:
        logits (`torch.Tensor` of shape `(images, classes)`): scores of unlabelled images.
        shares (`torch.Tensor` of shape `(classes,)`): expected shares of the images that show each label.

    Returns:
        `torch.Tensor` of shape `(classes,)`: above 0, at most 0.9 or as large as the expected share.
    """
    scores = torch.as_tensor(logits).double()  # (images, classes)
    expected = torch.as_tensor(shares).double().clamp(1e-6, MAX_SHARE)  # (classes,)
    centered = scores - scores.mean(dim=0)  # (images, classes)
    variance = centered.square().mean()
    if variance <= 1e-12 * scores.square().mean().clamp(min=1e-12):  # equal but for rounding: images say nothing
        return expected
    found, distance = expected.clone(), 2 * variance.sqrt()
    absent = -found * distance  # (classes,), mean of the images without the label, less the mean of all
    for _ in range(STEPS):
        odds = distance / variance * (centered - absent - distance / 2) + found.logit()  # (images, classes)
        present = odds.sigmoid()  # (images, classes), responsibilities
        mean = present.mean(dim=0)  # (classes,)
        found = ((mean + SHARE_WEIGHT * expected) / (1 + SHARE_WEIGHT)).clamp(1e-6, MAX_SHARE)
        spread = (present * (1 - mean)).sum()
        if spread <= 1e-9 * present.numel():
            break
        distance = ((present - mean) * centered).sum() / spread
        absent = -mean * distance  # (classes,)
        squares = (1 - present) * (centered - absent).square() + present * (centered - absent - distance).square()
        variance = squares.mean().clamp(min=1e-12)
    return found


def default_scale(logits: torch.Tensor) -> float:
    """Factor on the logits of unlabelled images `(images, classes)` that makes log odds of them.

    A standard deviation of a label's scores over images counts as 2 in log odds: on three bases, factors that were
    fitted to labelled photographs lay between 1.3 and 2.3 (docs/studies.md).
    """
    scores = torch.as_tensor(logits).double()  # (images, classes)
    deviation = float((scores - scores.mean(dim=0)).square().mean().sqrt())
    return LOG_ODDS_PER_DEVIATION / deviation if deviation > 1e-6 else 1.0


def share_cuts(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Scores above which as many images lie as each label's share says, drawn towards the cut for all labels.

    Args:
        logits (`torch.Tensor` of shape `(images, classes)`): scores of unlabelled images.
        shares (`torch.Tensor` of shape `(classes,)`): of the images that show each label.

    Returns:
        `torch.Tensor` of shape `(classes,)`: a cut in logits for each label. A label's own has three quarters of the
        weight where many images are expected to show it, and less where few are.
    """
    scores, shares = (
        torch.as_tensor(logits).double(),
        torch.as_tensor(shares).double(),
    )  # (images, classes), (classes,)
    own = torch.stack([column.quantile(1 - share) for column, share in zip(scores.T, shares, strict=True)])
    pairs = scores.flatten().sort().values  # (pairs,); `quantile` takes 16 million values at most
    place = (1 - float(shares.mean())) * (len(pairs) - 1)
    low = int(place)
    shared = torch.lerp(pairs[low], pairs[min(low + 1, len(pairs) - 1)], place - low)  # ()
    return torch.lerp(shared.expand_as(own), own, own_weights(len(scores), shares))


def own_weights(images: int, shares: torch.Tensor) -> torch.Tensor:
    """Weight `(classes,)` of each label's own value beside that of the model."""
    expected = images * torch.as_tensor(shares).double()  # (classes,), images with the label
    return OWN_WEIGHT * expected / (expected + PRIOR_IMAGES)


__all__ = [
    "LABELS_PER_NAMED",
    "caption_shares",
    "default_scale",
    "estimate_shares",
    "own_weights",
    "scaled_shares",
    "share_cuts",
]
