"""The caption bank's temperature, the local branch, banks of few labels; on VOC2007, where the bank is 20 prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modeling_taidpt import mean_average_precision, paired_bootstrap

from .published import LOGIT_SCALE, Voc2007, halves, read_voc2007

TEMPERATURES = (4.0, 8.0, 12.0, 16.0, 22.6, 32.0, 48.0, 100.0)
DRAWS = 10


def partition(cosines: np.ndarray, temperature: float) -> np.ndarray:
    """What images score for a bank in general `(images, 1)`, in units of cosine; cosines `(images, bank)`."""
    return np.log(np.exp(temperature * cosines).mean(axis=1, keepdims=True)) / temperature


def standardized(
    scores: Voc2007, temperature: float, local: bool = False, classes: np.ndarray | None = None, own: bool = False
) -> np.ndarray:
    """Merged scores `(images, classes)` less what images score for the bank.

    Args:
        scores (`Voc2007`): the scores.
        temperature (`float`): of the bank.
        local (`bool`, *optional*, defaults to `False`): takes it off the local score too.
        classes (`np.ndarray`, *optional*): columns that are scored; all by default.
        own (`bool`, *optional*, defaults to `False`): the bank holds these classes alone.
    """
    columns = np.arange(scores.present.shape[1]) if classes is None else classes
    bank = columns if own else slice(None)
    whole = scores.text_global[:, columns] - LOGIT_SCALE * partition(scores.cosines[:, bank], temperature)
    part = scores.text_local[:, columns]
    if local:
        part = part - LOGIT_SCALE * partition(scores.text_local[:, bank] / LOGIT_SCALE, temperature)
    return 0.5 * whole + 0.5 * part


def bank_table(shared: Path, resamples: int) -> list[dict]:
    """Rows: temperatures with their gain; the choice on a half judged on the other; few labels."""
    scores = read_voc2007(shared)
    plain = scores.ranked(scores.text)
    rows: list[dict] = [{"row": "plain", "mAP": _map(scores, scores.text)}]
    for local in (False, True):
        for temperature in TEMPERATURES:
            values = standardized(scores, temperature, local)
            row = {"row": f"T = {temperature:g}{', local too' if local else ''}", "mAP": _map(scores, values)}
            if resamples and temperature in (12.0, 16.0, 100.0):
                gain = paired_bootstrap(scores.ranked(values), plain, scores.present, num_resamples=resamples, seed=0)
                row["gain"] = [gain[key] for key in ("difference", "low", "high")]
            rows.append(row)
    return rows + _chosen_on_halves(scores) + _few_labels(scores)


def _map(scores: Voc2007, values: np.ndarray, rows: np.ndarray | slice = slice(None)) -> float:
    return mean_average_precision(scores.ranked(values)[rows], scores.present[rows])["map"]


def _chosen_on_halves(scores: Voc2007) -> list[dict]:
    """Over draws of halves: the gain on one half of the temperature that is best on the other, and which it was."""
    candidates = {temperature: standardized(scores, temperature) for temperature in TEMPERATURES}
    gains, chosen = [], []
    for draw in range(DRAWS):
        first, second = halves(len(scores.present), draw)
        best = max(candidates, key=lambda temperature: _map(scores, candidates[temperature], first))
        chosen.append(best)
        gains.append(_map(scores, candidates[best], second) - _map(scores, scores.text, second))
    which = ", ".join(f"{value:g}: {chosen.count(value)}" for value in sorted(set(chosen)))
    return [
        {"row": f"chosen on one half, judged on the other (T {which})", "mean gain": float(np.mean(gains))},
    ]


def _few_labels(scores: Voc2007) -> list[dict]:
    """Means over draws of labels of the gain at T = 16: bank of these labels alone, and of all 20."""
    rows = []
    for count in (5, 2):
        for own in (True, False):
            gains = []
            for draw in range(DRAWS):
                columns = np.random.default_rng(draw).choice(scores.present.shape[1], count, replace=False)
                ranked = [
                    np.where(scores.known[:, columns], values, -np.inf)
                    for values in (standardized(scores, 16.0, classes=columns, own=own), scores.text[:, columns])
                ]
                found, plain = (mean_average_precision(v, scores.present[:, columns])["map"] for v in ranked)
                gains.append(found - plain)
            name = f"{count} labels, bank of {'them alone' if own else 'these and the other classes'}, T = 16"
            rows.append({"row": name, "mean gain": float(np.mean(gains))})
    return rows


__all__ = ["bank_table", "partition", "standardized"]
