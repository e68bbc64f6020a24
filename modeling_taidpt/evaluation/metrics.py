"""Multi-label metrics: mAP, per-class and overall precision, recall and F1, bootstrap intervals.

Scores and labels are `(images, classes)` arrays of numpy or tensors of torch; figures in dictionaries are in percent.
Nothing loops over classes or images in Python; columns are worked on in blocks, so that what is needed beside the
inputs stays under `BLOCK_BYTES` however many classes there are.

Conventions: average precision uses all points and tied scores form one group, as scikit-learn's
`average_precision_score`. CP and CR are means over ALL classes, where 0/0 (a class without predictions, or without
positives) is 0, as DualCoOp's published code (NeurIPS 2022) and scikit-learn's `zero_division=0` have it. CF1 is the
harmonic mean of CP and CR, as in ML-GCN's (CVPR 2019). OP and OR come from counts summed over classes; ML-GCN's code
counts one prediction for a class that has none there too, which is not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

Array: TypeAlias = np.ndarray | torch.Tensor

BLOCK_BYTES = 256 * 2**20
_RANKING_BYTES = 112  # per score, at the worst: every label positive and every score tied
_RESAMPLING_BYTES = 72  # per score and resample, at the worst
_RESAMPLES_AT_ONCE = 16  # at least, where one class allows it: the innermost loop runs over resamples


def _to_numpy(values: Any) -> np.ndarray:
    """Gives a numpy view of a tensor or array without a copy where none is needed."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _blocks(total: int, bytes_each: int) -> Iterator[slice]:
    """Cuts `range(total)` into slices whose members need at most `BLOCK_BYTES` together (at least one member)."""
    step = max(1, BLOCK_BYTES // max(1, bytes_each))
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def _check(scores: Array, labels: Array, name: str = "scores") -> tuple[np.ndarray, np.ndarray]:
    """Checks scores and labels and gives both as numpy arrays.

    Args:
        scores: Scores `(images, classes)`.
        labels: Labels `(images, classes)`, 0 or 1.
        name: What to call the scores in errors.

    Returns:
        Both as arrays `(images, classes)`, of their own dtypes.

    Raises:
        ValueError: On unequal or empty shapes, a NaN score or a label that is neither 0 nor 1.
    """
    scores, labels = _to_numpy(scores), _to_numpy(labels)
    if scores.ndim != 2 or scores.shape != labels.shape or scores.size == 0:
        raise ValueError(
            f"{name} and labels must have one shape (images, classes) with no dimension empty, but {name} are "
            f"{scores.shape} and labels {labels.shape}; give one row per image and one column per class."
        )
    for array, what in ((scores, name), (labels, "labels")):
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{what} must hold real numbers, but are of dtype {array.dtype}; convert them first.")
    for rows in _blocks(len(scores), 4 * scores.shape[1]):
        bad = np.isnan(scores[rows])  # (rows, classes)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"{name}[{rows.start + row}, {column}] is NaN; every image needs a score for every class."
            )
        bad = (labels[rows] != 0) & (labels[rows] != 1)  # (rows, classes)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"labels[{rows.start + row}, {column}] is {labels[rows][row, column]}; labels must be 0 or 1 "
                "(VOC's 'difficult' and unknown labels count as 0)."
            )
    return scores, labels


@dataclass
class _Ranking:
    """Images of a block of classes, ranked by falling score; positions count through the block, class after class.

    Attributes:
        order: Image at each rank `(classes, images)`.
        positives: Positions of the positives `(positives,)`.
        ends: Position of the last image tied with each positive `(positives,)`.
        last: Index among the positives of the last one tied with each `(positives,)`.
        class_of: Class of each positive, counted in the block `(positives,)`.
        counts: Positives of each class `(classes,)`.
    """

    order: np.ndarray
    positives: np.ndarray
    ends: np.ndarray
    last: np.ndarray
    class_of: np.ndarray
    counts: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Index among the positives of the first one of each class `(classes,)`."""
        return np.cumsum(self.counts) - self.counts  # (classes,)


def _rank(scores: np.ndarray, labels: np.ndarray) -> _Ranking:
    """Ranks a block of classes.

    Args:
        scores: Scores `(images, classes)`.
        labels: Labels `(images, classes)`, 0 or 1.

    Returns:
        The ranking of the block.
    """
    dtype = np.float64 if scores.dtype.kind != "f" else np.result_type(scores.dtype, np.float32)
    keys = np.negative(scores.T, dtype=dtype, order="C")  # (classes, images), rising key = falling score
    order = np.argsort(keys, axis=1)  # (classes, images)
    keys = np.take_along_axis(keys, order, axis=1)  # (classes, images)
    is_end = np.ones(keys.shape, dtype=bool)  # (classes, images)
    np.not_equal(keys[:, 1:], keys[:, :-1], out=is_end[:, :-1])
    del keys
    truth = np.take_along_axis(np.ascontiguousarray(labels.T != 0), order, axis=1)  # (classes, images)
    positives = np.flatnonzero(truth)  # (positives,)
    ends = positives.copy()  # (positives,)
    tied = ~is_end.ravel()[positives]  # (positives,)
    if tied.any():
        all_ends = np.flatnonzero(is_end)  # (groups,)
        ends[tied] = all_ends[np.searchsorted(all_ends, positives[tied])]
    last = np.searchsorted(ends, ends, side="right") - 1  # (positives,)
    return _Ranking(order, positives, ends, last, positives // len(scores), truth.sum(axis=1))


def average_precision(scores: Array, labels: Array) -> np.ndarray:
    """Computes the average precision of every class.

    `AP = sum over positives of precision at the positive's rank / positives`; images with equal scores share the rank
    of the last of them (the value does not depend on their order), as in scikit-learn's `average_precision_score`.

    Args:
        scores: Scores `(images, classes)`, higher is more likely; any floating or integer dtype.
        labels: Labels `(images, classes)`, 0 or 1.

    Returns:
        Average precision of each class `(classes,)` in [0, 1], float64; NaN for a class without positives.

    Raises:
        ValueError: On unequal or empty shapes, a NaN score or a label that is neither 0 nor 1.
    """
    scores, labels = _check(scores, labels)
    return _average_precision(scores, labels)


def _average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Does the work of [`average_precision`] on inputs that were checked."""
    images, classes = scores.shape
    result = np.full(classes, np.nan)  # (classes,)
    for block in _blocks(classes, _RANKING_BYTES * images):
        ranking = _rank(scores[:, block], labels[:, block])
        true_positives = ranking.last - ranking.first[ranking.class_of] + 1  # (positives,)
        predicted = ranking.ends - ranking.class_of * images + 1  # (positives,)
        precision = true_positives / predicted  # (positives,)
        total = np.bincount(ranking.class_of, weights=precision, minlength=len(ranking.counts))  # (block,)
        np.divide(total, ranking.counts, out=result[block], where=ranking.counts > 0)
    return result  # (classes,)


def mean_average_precision(scores: Array, labels: Array) -> dict[str, Any]:
    """Computes mAP, the mean of [`average_precision`] over classes with a positive.

    Args:
        scores: Scores `(images, classes)`, higher is more likely.
        labels: Labels `(images, classes)`, 0 or 1.

    Returns:
        `map` (percent; NaN if no class has a positive), `per_class` (percent, float64 `(classes,)`, NaN for a class
        without positives) and `classes_without_positives` (their number, left out of the mean).

    Raises:
        ValueError: On unequal or empty shapes, a NaN score or a label that is neither 0 nor 1.

    Example:
        >>> import numpy as np
        >>> from modeling_taidpt import mean_average_precision
        >>> scores = np.array([[0.9, 0.1], [0.8, 0.7], [0.3, 0.6]])  # (images, classes)
        >>> labels = np.array([[1, 0], [0, 1], [1, 0]])
        >>> mean_average_precision(scores, labels)["per_class"].round(1)
        array([ 83.3, 100. ])
    """
    per_class = 100 * average_precision(scores, labels)  # (classes,)
    present = ~np.isnan(per_class)  # (classes,)
    return {
        "map": float(per_class[present].mean()) if present.any() else float("nan"),
        "per_class": per_class,
        "classes_without_positives": int((~present).sum()),
    }


def _predict(scores: np.ndarray, threshold: float | np.ndarray | None, top_k: int | None) -> np.ndarray:
    """Chooses labels for some images.

    Args:
        scores: Scores `(images, classes)`.
        threshold: Smallest score that is chosen, one or `(classes,)`, or `None`.
        top_k: Most labels chosen per image, or `None`; of equal scores the earlier class is chosen.

    Returns:
        Mask of chosen labels `(images, classes)`.
    """
    chosen = np.ones(scores.shape, dtype=bool) if threshold is None else scores >= threshold  # (images, classes)
    if top_k is not None and top_k < scores.shape[1]:
        kth = np.partition(scores, -top_k, axis=1)[:, -top_k, None]  # (images, 1), the k-th largest
        above = scores > kth  # (images, classes)
        room = top_k - above.sum(axis=1, keepdims=True)  # (images, 1)
        tied = scores == kth  # (images, classes)
        chosen &= above | (tied & (tied.cumsum(axis=1) <= room))  # (images, classes)
    return chosen  # (images, classes)


def _divide(numerator: Any, denominator: Any) -> np.ndarray:
    """Divides, with 0/0 = 0."""
    return np.asarray(numerator, dtype=np.float64) / np.maximum(denominator, 1)


def _harmonic(precision: Any, recall: Any) -> Any:
    """Computes F1 of precision and recall, 0 where both are 0."""
    total = np.asarray(precision + recall)
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def _check_choice(threshold: Any, top_k: Any, scores: np.ndarray) -> tuple[float | np.ndarray | None, int | None]:
    """Threshold and number of labels as numbers; raises `ValueError` unless they choose labels."""
    if threshold is None and top_k is None:
        raise ValueError("Nothing says which labels are predicted; give threshold, top_k or both.")
    if threshold is not None:
        dtype = scores.dtype if scores.dtype.kind == "f" else np.float64
        try:
            threshold = np.asarray(_to_numpy(threshold), dtype=dtype)  # () or (classes,)
        except (TypeError, ValueError) as error:
            raise ValueError(f"threshold is {threshold!r}; give a number, or one for each class.") from error
        if threshold.shape not in ((), scores.shape[1:]):
            raise ValueError(
                f"threshold has the shape {threshold.shape}; give a number, or one for each of {scores.shape[1]} "
                "classes."
            )
        if np.isnan(threshold).any():
            raise ValueError("threshold is NaN; give a number on the scale of the scores.")
    if top_k is not None and (isinstance(top_k, str) or not (top_k >= 1 and float(top_k).is_integer())):
        raise ValueError(f"top_k is {top_k!r}; it must be a whole number, 1 or more.")
    return threshold, None if top_k is None else int(top_k)


def multilabel_f1(
    scores: Array, labels: Array, threshold: float | Sequence[float] | Array | None = None, top_k: int | None = None
) -> dict[str, Any]:
    """Computes precision, recall and F1 per class (CP, CR, CF1) and overall (OP, OR, OF1).

    A label is predicted when its score is at least `threshold` and, with `top_k`, among the `top_k` highest of its
    image (of equal scores the earlier class). `top_k` alone is DualCoOp's convention, both together that of ML-GCN's
    top-3 columns.

    `CP` and `CR` are means over ALL classes of precision and recall, where 0/0 is 0: a class that is never predicted
    has precision 0, a class without positives has recall 0. `CF1` is the harmonic mean of `CP` and `CR`, as in ML-GCN;
    the mean of the classes' own F1, which DualCoOp prints instead, is `per_class_f1.mean()`. `OP`, `OR`, `OF1` come
    from counts summed over classes.

    Args:
        scores: Scores `(images, classes)`.
        labels: Labels `(images, classes)`, 0 or 1.
        threshold: Smallest score that counts as predicted (inclusive), one or `(classes,)`, on the scale of the
            scores: 0.5 for probabilities, 0 for logits, `config.score_thresholds` of a fitted model.
        top_k: Most labels predicted per image; more than there are classes means all.

    Returns:
        `CP`, `CR`, `CF1`, `OP`, `OR`, `OF1` (percent), `per_class_precision`, `per_class_recall`, `per_class_f1`
        (percent, float64 `(classes,)`), `classes_without_predictions` and `classes_without_positives` (numbers of
        classes).

    Raises:
        ValueError: On bad scores or labels, or if neither `threshold` nor `top_k` (1 or more) is given.

    Example:
        >>> import numpy as np
        >>> from modeling_taidpt import multilabel_f1
        >>> scores = np.array([[0.9, 0.1], [0.8, 0.7], [0.3, 0.6]])  # (images, classes)
        >>> labels = np.array([[1, 0], [0, 1], [1, 0]])
        >>> multilabel_f1(scores, labels, threshold=0.5)["OP"]
        50.0
    """
    scores, labels = _check(scores, labels)
    threshold, top_k = _check_choice(threshold, top_k, scores)
    predicted, positive, correct = np.zeros((3, scores.shape[1]), dtype=np.int64)  # (classes,) each
    for rows in _blocks(len(scores), 32 * scores.shape[1]):
        truth = labels[rows] != 0  # (rows, classes)
        chosen = _predict(scores[rows], threshold, top_k)  # (rows, classes)
        predicted += chosen.sum(axis=0)
        positive += truth.sum(axis=0)
        correct += (chosen & truth).sum(axis=0)
    precision, recall = 100 * _divide(correct, predicted), 100 * _divide(correct, positive)  # (classes,) each
    class_precision, class_recall = precision.mean(), recall.mean()
    overall_precision = 100 * _divide(correct.sum(), predicted.sum())
    overall_recall = 100 * _divide(correct.sum(), positive.sum())
    return {
        "CP": float(class_precision),
        "CR": float(class_recall),
        "CF1": float(_harmonic(class_precision, class_recall)),
        "OP": float(overall_precision),
        "OR": float(overall_recall),
        "OF1": float(_harmonic(overall_precision, overall_recall)),
        "per_class_precision": precision,
        "per_class_recall": recall,
        "per_class_f1": _harmonic(precision, recall),
        "classes_without_predictions": int((predicted == 0).sum()),
        "classes_without_positives": int((positive == 0).sum()),
    }


def compute_multilabel_metrics(
    scores: Array, labels: Array, threshold: float | Sequence[float] | Array = 0.5, top_k: int = 3
) -> dict[str, float | int]:
    """Computes every figure of a multi-label table as one flat dictionary.

    Args:
        scores: Scores `(images, classes)`.
        labels: Labels `(images, classes)`, 0 or 1.
        threshold: Smallest score that counts as predicted, one or `(classes,)`, on the scale of the scores: 0.5 for
            probabilities, 0 for logits.
        top_k: Labels per image of the top-k figures, which use no threshold.

    Returns:
        `map`, `classes_without_positives`, `CP`, `CR`, `CF1`, `OP`, `OR`, `OF1` at the threshold, and the same six
        followed by `_top3` (after `top_k`), in percent.

    Raises:
        ValueError: On unequal or empty shapes, a NaN score, a label that is neither 0 nor 1, or a bad `top_k`.
    """
    ranked = mean_average_precision(scores, labels)
    at_threshold = multilabel_f1(scores, labels, threshold=threshold)
    at_top_k = multilabel_f1(scores, labels, top_k=top_k)
    names = ("CP", "CR", "CF1", "OP", "OR", "OF1")
    return {
        "map": ranked["map"],
        "classes_without_positives": ranked["classes_without_positives"],
        **{name: at_threshold[name] for name in names},
        **{f"{name}_top{int(top_k)}": at_top_k[name] for name in names},
    }


def _resampled_precision(ranking: _Ranking, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the average precision of a block of classes where each image counts several times.

    Args:
        ranking: Ranked block of classes.
        weights: How often each image was drawn `(images, resamples)`, int32.

    Returns:
        Sum over the block's classes of average precision `(resamples,)`, and how many classes had a positive
        `(resamples,)`; the others add nothing.
    """
    drawn = weights[ranking.order.ravel()]  # (classes * images, resamples)
    hits = drawn[ranking.positives]  # (positives, resamples)
    shape = (*ranking.order.shape, weights.shape[1])  # (classes, images, resamples)
    predicted = np.cumsum(drawn.reshape(shape), axis=1, dtype=np.int32).reshape(drawn.shape)
    predicted = np.maximum(predicted[ranking.ends], 1)  # (positives, resamples)
    running = np.zeros((len(hits) + 1, weights.shape[1]), dtype=np.int64)  # (1 + positives, resamples)
    np.cumsum(hits, axis=0, out=running[1:])
    true_positives = running[ranking.last + 1] - running[ranking.first[ranking.class_of]]  # (positives, resamples)
    precision = hits * (true_positives / predicted)  # (positives, resamples)
    seen = ranking.counts > 0  # (classes,)
    if not seen.any():
        return np.zeros(weights.shape[1]), np.zeros(weights.shape[1], dtype=np.int64)
    starts = ranking.first[seen]  # (seen,)
    totals = np.add.reduceat(hits, starts, axis=0, dtype=np.int64)  # (seen, resamples)
    values = np.add.reduceat(precision, starts, axis=0) / np.maximum(totals, 1)  # (seen, resamples)
    return values.sum(axis=0), (totals > 0).sum(axis=0)  # (resamples,) each


def _resampled_maps(scores: list[np.ndarray], labels: np.ndarray, num_resamples: int, seed: int) -> list[np.ndarray]:
    """Computes mAP of several score matrices on the same resamples of the images.

    Beside the blocks, the rankings of all classes are held: 8 bytes per score and some 40 per positive.

    Args:
        scores: Score matrices, each `(images, classes)`.
        labels: Labels `(images, classes)`, 0 or 1.
        num_resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        mAP in percent of each matrix, `(resamples,)`; NaN for a resample without any positive.
    """
    images, classes = labels.shape
    columns = list(_blocks(classes, _RESAMPLES_AT_ONCE * _RESAMPLING_BYTES * images))
    rankings = [[_rank(matrix[:, block], labels[:, block]) for block in columns] for matrix in scores]
    largest = max(ranking.order.size for ranking in rankings[0])
    generator = np.random.default_rng(seed)
    maps = [np.empty(num_resamples) for _ in scores]  # (resamples,) each
    for chunk in _blocks(num_resamples, _RESAMPLING_BYTES * largest):
        size = chunk.stop - chunk.start
        draws = generator.integers(0, images, (size, images))  # (chunk, images)
        flat = draws + np.arange(size)[:, None] * images  # (chunk, images)
        weights = np.bincount(flat.ravel(), minlength=size * images).reshape(size, images)  # (chunk, images)
        weights = np.ascontiguousarray(weights.T, dtype=np.int32)  # (images, chunk)
        for result, blocks in zip(maps, rankings, strict=True):
            pairs = [_resampled_precision(block, weights) for block in blocks]
            total, present = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)  # (chunk,) each
            result[chunk] = np.divide(100 * total, present, out=np.full(size, np.nan), where=present > 0)
    return maps


def _check_bootstrap(labels: np.ndarray, num_resamples: int, confidence: float) -> None:
    """Raises `ValueError` unless an interval can be computed."""
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"A bootstrap needs 1 resample or more and a confidence between 0 and 1, but num_resamples is "
            f"{num_resamples} and confidence {confidence}."
        )
    if not labels.any():
        raise ValueError("No label is 1, so mAP is undefined; a bootstrap needs at least one positive.")


def _interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Gives the percentile interval of resampled values `(resamples,)`."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_map(
    scores: Array, labels: Array, num_resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> dict[str, float | int]:
    """Computes mAP with a bootstrap interval over images.

    Images are drawn with replacement; a class without a positive in a resample is left out of that resample's mean.
    That, and positives that are drawn twice, make the mAP of a resample too high: by some points where classes have
    one or two images. The mAP of the sample has no such excess, so the resamples are moved to have it as their mean,
    and their percentiles are the interval: of the mAP on other samples of as many images. In [`paired_bootstrap`] the
    excess of the two models all but cancels, and nothing is moved.
    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), sections 10.2 (the bias of resamples) and
    13.3 (percentiles).

    Args:
        scores: Scores `(images, classes)`.
        labels: Labels `(images, classes)`, 0 or 1.
        num_resamples: Number of resamples.
        seed: Seed of the draws; the same seed gives the same interval.
        confidence: Share of resamples inside the interval.

    Returns:
        `map` (of all images), `low`, `high` (percent), `num_resamples`, `confidence`.

    Raises:
        ValueError: On bad scores or labels, labels without any positive, or a bad `num_resamples` or `confidence`.
    """
    scores, labels = _check(scores, labels)
    _check_bootstrap(labels, num_resamples, confidence)
    point = 100 * float(np.nanmean(_average_precision(scores, labels)))
    resampled = _resampled_maps([scores], labels, num_resamples, seed)[0]  # (resamples,)
    low, high = _interval(resampled + (point - np.nanmean(resampled)), confidence)
    low, high = max(low, 0.0), min(high, 100.0)
    return {"map": point, "low": low, "high": high, "num_resamples": num_resamples, "confidence": confidence}


def paired_bootstrap(
    scores_a: Array,
    scores_b: Array,
    labels: Array,
    num_resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, float | int]:
    """Compares the mAP of two models on the same images with a paired percentile bootstrap over images.

    Both models are scored on the same draws, so what makes a resample easy or hard for both cancels.

    Args:
        scores_a: Scores of the first model `(images, classes)`.
        scores_b: Scores of the second model `(images, classes)`.
        labels: Labels `(images, classes)`, 0 or 1.
        num_resamples: Number of resamples.
        seed: Seed of the draws; the same seed gives the same interval.
        confidence: Share of resamples inside the interval.

    Returns:
        `map_a`, `map_b` (of all images, percent), `difference` (a - b, points), `low` and `high` of the difference,
        `num_resamples`, `confidence`. The difference stands out when 0 is outside `[low, high]`.

    Raises:
        ValueError: On bad scores or labels, labels without any positive, or a bad `num_resamples` or `confidence`.
    """
    first, truth = _check(scores_a, labels, "scores_a")
    second, _ = _check(scores_b, labels, "scores_b")
    _check_bootstrap(truth, num_resamples, confidence)
    resampled = _resampled_maps([first, second], truth, num_resamples, seed)
    low, high = _interval(resampled[0] - resampled[1], confidence)
    map_a, map_b = (100 * float(np.nanmean(_average_precision(matrix, truth))) for matrix in (first, second))
    return {
        "map_a": map_a,
        "map_b": map_b,
        "difference": map_a - map_b,
        "low": low,
        "high": high,
        "num_resamples": num_resamples,
        "confidence": confidence,
    }


def metric_path(name: str) -> str:
    """Gives the folder of an `evaluate` module that ships with this package, for `evaluate.load(metric_path(name))`.

    Args:
        name: "multilabel_map" or "multilabel_f1".

    Returns:
        Path of the folder; loading it needs no network.

    Raises:
        ValueError: If no module has that name.
    """
    folder = Path(__file__).parents[1] / "evaluate_modules"
    names = sorted(path.name for path in folder.iterdir() if (path / f"{path.name}.py").is_file())
    if name not in names:
        raise ValueError(f"No metric module is called {name!r}; choose one of {', '.join(names)}.")
    return str(folder / name)
