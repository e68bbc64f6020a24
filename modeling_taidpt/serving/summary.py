"""What a tagging run found, in a few numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .formats import TaggedImage, read_results

LEAST_SCORE = 0.5  # of a label that counts as found, where the run kept all labels


@dataclass
class TaggingSummary:
    """What is in the results of a run.

    Attributes:
        images (`int`): rows.
        errors (`int`): rows of images that could not be read.
        images_with_labels (`int`): rows with a label that was found.
        labels (`int`): labels found, over all images.
        counts (`Counter`): images of each label that was found, most frequent first.
        threshold (`float` or `dict[str, float]`): least score of a label that was found, or that of each label.
    """

    images: int = 0
    errors: int = 0
    images_with_labels: int = 0
    labels: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    threshold: float | Mapping[str, float] = LEAST_SCORE


def found_labels(row: TaggedImage, threshold: float | Mapping[str, float]) -> list[str]:
    """The labels of an image that reach the threshold, one for all or one for each; 0.5 for labels that have none."""
    least = {
        label: threshold.get(label, LEAST_SCORE) if isinstance(threshold, Mapping) else threshold
        for label in row.labels
    }
    return [label for label, score in zip(row.labels, row.scores, strict=True) if score >= least[label]]


def summarize_results(results: str | Path, threshold: float | Mapping[str, float] = LEAST_SCORE) -> TaggingSummary:
    """Counts what is in the results of a run.

    Args:
        results (`str` or `Path`): folder or file that [`tag_images`] wrote.
        threshold (`float` or `Mapping[str, float]`, *optional*, defaults to 0.5): least score of a label that counts
            as found, one for all or one for each; 0 for a run that kept only labels that were found.

    Returns:
        [`TaggingSummary`].

    Raises:
        FileNotFoundError: there are no results.
        ValueError: a file cannot be read; the message names it.
    """
    summary = TaggingSummary(threshold=threshold)
    for row in read_results(results):
        found = found_labels(row, threshold)
        summary.images += 1
        summary.errors += row.error is not None
        summary.images_with_labels += bool(found)
        summary.labels += len(found)
        summary.counts.update(found)
    summary.counts = Counter(dict(summary.counts.most_common()))
    return summary


__all__ = ["LEAST_SCORE", "TaggingSummary", "found_labels", "summarize_results"]
