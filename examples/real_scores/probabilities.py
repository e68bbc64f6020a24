"""Probabilities and thresholds on VOC2007: fitted on few labelled images, or on none from expected shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from modeling_taidpt.evaluation.calibration import fit_score_calibration, fit_thresholds
from modeling_taidpt.evaluation.reliability_diagram import plot_reliability, reliability
from modeling_taidpt.evaluation.score_fitting import fit_expected_shares

from .bank import standardized
from .judged import Judged
from .published import Voc2007, halves, read_voc2007

SIZES = (10, 30, 50, 100, 1000)
DRAWS = 10
BANK_TEMPERATURE = 16.0


def probabilities_table(shared: Path, resamples: int) -> list[dict]:
    """Rows by number of labelled images, plain and with the bank; the fit and thresholds per model or per label."""
    scores = read_voc2007(shared)
    rows = []
    for kind, values in (("plain", scores.text), ("bank", standardized(scores, BANK_TEMPERATURE))):
        logits = torch.from_numpy(values)  # (images, 20)
        for size in SIZES:
            for per_label, thresholds in ((False, False), (False, True), (True, False), (True, True)):
                judged = Judged()
                for draw in range(DRAWS):
                    order = np.random.default_rng(draw).permutation(len(logits))
                    fitted, others = order[:size], order[size:]
                    present, known = (torch.from_numpy(part[fitted]) for part in (scores.present, scores.known))
                    scale, bias = (
                        torch.as_tensor(value, dtype=torch.float64)
                        for value in fit_score_calibration(logits[fitted], present, per_label, known=known)
                    )
                    odds = scale * logits + bias  # (images, 20)
                    cuts = fit_thresholds(odds[fitted].sigmoid(), present, thresholds, known=known)
                    judged.add(odds[others].sigmoid(), cuts, scores.present[others], scores.known[others])
                names = {False: "model", True: "label"}
                row = {"scores": kind, "labelled": size, "scale, bias": names[per_label]}
                rows.append(row | {"thresholds": names[thresholds]} | judged.means())
        rows.append({"scores": kind, "labelled": 0} | unlabelled(scores, logits, lambda shares, draw: shares).means())
    return rows


def unlabelled(scores: Voc2007, logits: torch.Tensor, change: Callable[[np.ndarray, int], np.ndarray]) -> Judged:
    """Figures of expected shares: those of one half of the images, changed, for the other half without its labels."""
    judged = Judged()
    for draw in range(DRAWS):
        first, second = halves(len(logits), draw)
        shares = torch.from_numpy(change(scores.present[first].mean(axis=0), draw)).clamp(1e-4, 0.9)  # (20,)
        config = SimpleNamespace()
        fit_expected_shares(config, logits[second], shares)
        odds = config.score_scale * logits[second] + torch.tensor(config.score_bias)  # (half, 20)
        judged.add(odds.sigmoid(), config.score_thresholds, scores.present[second], scores.known[second])
    return judged


def shares_table(shared: Path, resamples: int) -> list[dict]:
    """Rows: the best single threshold that knows the labels, then shares that are right and wrong, without labels."""
    scores = read_voc2007(shared)

    def wrong(shares: np.ndarray, factors: np.ndarray) -> np.ndarray:
        changed = shares * factors
        return changed * shares.sum() / changed.sum()

    def within(shares: np.ndarray, draw: int) -> np.ndarray:
        return wrong(shares, 3 ** np.random.default_rng(draw).uniform(-1, 1, len(shares)))

    def exactly(shares: np.ndarray, draw: int) -> np.ndarray:
        return wrong(shares, 3.0 ** np.random.default_rng(draw).choice([-1, 1], len(shares)))

    changes: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "shares of the other half": lambda shares, draw: shares,
        "each wrong by a factor of up to 3": within,
        "each wrong by a factor of 3, up or down": exactly,
        "all three times too large": lambda shares, draw: 3 * shares,
        "all three times too small": lambda shares, draw: shares / 3,
        "equal for all labels": lambda shares, draw: np.full_like(shares, shares.mean()),
    }
    rows = []
    for kind, values in (("plain", scores.text), ("bank", standardized(scores, BANK_TEMPERATURE))):
        logits = torch.from_numpy(values)
        best = Judged()
        for draw in range(DRAWS):
            _, second = halves(len(logits), draw)
            present, known = torch.from_numpy(scores.present[second]), torch.from_numpy(scores.known[second])
            odds = logits[second] - logits[second].mean()
            cut = fit_thresholds(odds.sigmoid(), present, known=known)
            best.add(odds.sigmoid(), cut, scores.present[second], scores.known[second])
        known_labels = {name: value for name, value in best.means().items() if "error" not in name}
        rows.append({"scores": kind, "shares": "best single threshold, with all labels"} | known_labels)
        rows += [
            {"scores": kind, "shares": name} | unlabelled(scores, logits, change).means()
            for name, change in changes.items()
        ]
    return rows


def reliability_plot(shared: Path, path: str) -> None:
    """Draws the reliability of one draw: 50 labelled images, and none, on the images that were not used."""
    scores = read_voc2007(shared)
    logits = torch.from_numpy(standardized(scores, BANK_TEMPERATURE))  # (images, 20)
    first, second = halves(len(logits), 0)
    fitted = first[:50]
    present, known = (torch.from_numpy(part[fitted]) for part in (scores.present, scores.known))
    scale, bias = fit_score_calibration(logits[fitted], present, True, known=known)
    config = SimpleNamespace()
    fit_expected_shares(config, logits[second], torch.from_numpy(scores.present[first].mean(axis=0)))
    odds = {
        "50 labelled images": torch.tensor(scale) * logits[second] + torch.tensor(bias),
        "none, expected shares": config.score_scale * logits[second] + torch.tensor(config.score_bias),
    }
    labels, seen = torch.from_numpy(scores.present[second]), torch.from_numpy(scores.known[second])
    plot_reliability({name: reliability(values.sigmoid(), labels, known=seen) for name, values in odds.items()}, path)


__all__ = ["probabilities_table", "reliability_plot", "shares_table"]
