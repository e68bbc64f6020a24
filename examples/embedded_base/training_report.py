"""Figures of the tables of training: learned prompts scored plain and as the checkpoint ships."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from modeling_taidpt import TaiDptModel, mean_average_precision, paired_bootstrap
from modeling_taidpt.evaluation.evaluate import BRANCHES
from modeling_taidpt.evaluation.predict import score_features
from modeling_taidpt.evaluation.score_fitting import fit_caption_bank
from modeling_taidpt.features.images import ImageFeatures

from .corpus import draw_captions

BASELINES = {"template": "1 template", "templates": "80 templates", "prototypes": "caption prototypes"}
SCORINGS = ("plain", "shipped")
PAPER_SPATIAL_SCALE = 40.0  # of plain scores; as shipped: with the caption bank and the scale of the checkpoint
COMPARISONS = {  # how a row is scored, and the rows that it is compared with
    "plain": ("plain", "plain"),
    "as shipped": ("shipped", "shipped"),
    "as shipped, others plain": ("shipped", "plain"),
}
BANK_CAPTIONS = 6000
GROUPS = ("head", "middle", "tail")


@dataclass
class Figures:
    """What one model reaches.

    Attributes:
        scores (`dict`): `(scoring, part, branch)` to scores `(images, known classes)`.
        maps (`dict`): the same to mAP in percent.
        groups (`dict`): part to mAP of the head, middle and tail classes, as shipped.
        caption_map (`float`): mAP on held-out captions; NaN for what was not learned.
    """

    scores: dict[tuple[str, str, str], np.ndarray] = field(default_factory=dict)
    maps: dict[tuple[str, str, str], float] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    caption_map: float = float("nan")

    def mean(self, scoring: str = "shipped") -> float:
        """Mean over the parts of the merged mAP, what rows are chosen by."""
        return float(
            np.mean([value for (way, _, branch), value in self.maps.items() if (way, branch) == (scoring, "merged")])
        )


class Scorer:
    """Scores models on the same base and the same photographs.

    Args:
        base ([`TaiDptModel`]): encodes the captions of the bank; its spatial scale and the temperature of its bank are
            those of scores as shipped.
        parts (`Mapping[str, ImageFeatures]`): photographs by name.
        captions (`str`): corpus of the bank.
        counts (`np.ndarray` of shape `(classes,)`): captions that name each class, for head, middle and tail.
    """

    def __init__(
        self, base: TaiDptModel, parts: Mapping[str, ImageFeatures], captions: str, counts: np.ndarray
    ) -> None:
        """Make the bank as `package_embedded.py` does."""
        self.parts, self.groups = parts, frequency_groups(counts)
        self.scales = {"plain": PAPER_SPATIAL_SCALE, "shipped": base.config.image_spatial_scale}
        temperature = base.config.caption_bank_temperature if base.config.caption_bank_size else None
        fit_caption_bank(base, draw_captions(captions, BANK_CAPTIONS), caption_bank_temperature=temperature)
        bank = base.caption_bank
        self.bank = (bank.features.clone(), bank.log_weights.clone(), base.config.caption_bank_temperature)

    @torch.no_grad()
    def __call__(self, model: TaiDptModel, folder: Path | None = None) -> Figures:
        """The figures of a model; `folder` is that of its training."""
        found = Figures()
        model.set_score_statistics(None)
        for scoring, scale in self.scales.items():
            model.config.image_spatial_scale = scale
            model.set_caption_bank(None)
            if scoring == "shipped":
                model.set_caption_bank(*self.bank)
            for part, photographs in self.parts.items():
                outputs = score_features(model, photographs)
                known = (photographs.labels != 0).all(axis=0)  # (classes,)
                present = photographs.labels[:, known] > 0  # (images, known classes)
                branches = (outputs.logits_global, outputs.logits_local, outputs.logits)
                for branch, values in zip(BRANCHES, branches, strict=True):
                    key, scores = (scoring, part, branch), values.numpy()[:, known]  # (images, known classes)
                    measured = mean_average_precision(scores, present)
                    found.scores[key], found.maps[key] = scores, measured["map"]
                found.groups[part] = self._groups(measured["per_class"], np.flatnonzero(known))
        if folder is not None:
            results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
            found.caption_map = results["caption_map"]
        return found

    def _groups(self, per_class: np.ndarray, columns: np.ndarray) -> dict[str, float]:
        values = dict(zip(columns.tolist(), per_class.tolist(), strict=True))
        shown = {group: [values[c] for c in members.tolist() if c in values] for group, members in self.groups.items()}
        return {group: float(np.nanmean(known)) if known else float("nan") for group, known in shown.items()}


def selection_table(
    figures: Mapping[str, Sequence[Figures]], parts: Mapping[str, ImageFeatures], over: str | None = None
) -> str:
    """Markdown: merged mAP, mean over the seeds, plain and as shipped, by group of the first part's classes.

    Args:
        figures (`Mapping`): figures of every seed by row.
        parts (`Mapping[str, ImageFeatures]`): the photographs; head, middle and tail are of the first part.
        over (`str`, *optional*): row that the gain as shipped is over, in every part, with its interval.

    Returns:
        `str`: the table; the seeds' column is their distance from their mean.
    """
    names = list(parts)
    heads = [f"plain: {' / '.join(names)}", f"as shipped: {' / '.join(names)}", "mean", "seeds ±"]
    heads += [f"over {over}, {part}" for part in names if over] + ["head / middle / tail", "held-out captions"]
    lines = [f"| row | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name, runs in figures.items():
        cells = []
        for scoring in SCORINGS:
            means = [np.mean([run.maps[scoring, part, "merged"] for run in runs]) for part in names]
            cells.append(" / ".join(f"{value:.1f}" for value in means))
        means = [run.mean() for run in runs]
        cells += [f"{np.mean(means):.2f}", f"{(max(means) - min(means)) / 2:.2f}" if len(means) > 1 else ""]
        for part, photographs in parts.items() if over else ():
            key = ("shipped", part, "merged")
            cells.append("" if name == over else gain(runs, figures[over], key, key, photographs))
        cells.append(" / ".join(f"{np.mean([run.groups[names[0]][group] for run in runs]):.1f}" for group in GROUPS))
        caption_map = np.mean([run.caption_map for run in runs])
        cells.append("" if np.isnan(caption_map) else f"{caption_map:.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def frequency_groups(counts: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Three groups of as many classes each, by falling count; of equal counts the earlier class comes first.

    Args:
        counts (`Sequence[int]` of length `classes`): captions that mention each class.

    Returns:
        `dict[str, np.ndarray]`: columns of the `"head"`, `"middle"` and `"tail"` classes.
    """
    order = np.argsort(-np.asarray(counts), kind="stable")  # (classes,)
    return dict(zip(GROUPS, np.array_split(order, 3), strict=True))


def gain(
    runs: Sequence[Figures],
    others: Sequence[Figures],
    key: tuple[str, str, str],
    other_key: tuple[str, str, str],
    photographs: ImageFeatures,
    num_resamples: int = 2000,
) -> str:
    """Gain of a row's scores over another row's, in points with a 95 % paired bootstrap over the photographs.

    Args:
        runs (`Sequence[Figures]`): seeds of the row; numbers are means over the seeds. A row of one seed is compared
            with every seed of the other.
        others (`Sequence[Figures]`): seeds of the other row.
        key (`tuple`): scoring, part and branch of the row.
        other_key (`tuple`): those of the other row.
        photographs ([`ImageFeatures`]): the part, whose labels count.
        num_resamples (`int`, *optional*, defaults to 2000): resamples.

    Returns:
        `str`: as in `"+0.6 [-0.7, +1.9]"`.
    """
    known = (photographs.labels != 0).all(axis=0)  # (classes,)
    present = (photographs.labels[:, known] > 0).astype(np.int64)  # (images, known classes)
    count = max(len(runs), len(others))
    pairs = [(runs[i % len(runs)].scores[key], others[i % len(others)].scores[other_key]) for i in range(count)]
    gains = [paired_bootstrap(ours, theirs, present, num_resamples) for ours, theirs in pairs]
    value, low, high = (np.mean([each[name] for each in gains]) for name in ("difference", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def gains_table(
    figures: Mapping[str, Sequence[Figures]],
    parts: Mapping[str, ImageFeatures],
    others: Sequence[str],
    num_resamples: int = 2000,
) -> str:
    """Markdown: mAP of every branch as shipped, and gains of the merged score over some rows.

    Gains are those of [`gain`].

    Args:
        figures (`Mapping`): figures of every seed by row.
        parts (`Mapping[str, ImageFeatures]`): the photographs that were scored.
        others (`Sequence[str]`): rows that the gains are over.
        num_resamples (`int`, *optional*, defaults to 2000): resamples.

    Returns:
        `str`: one line per part, row and way of scoring.
    """
    head = ["part", "row", "scores", *BRANCHES, *(f"over {other}" for other in others)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for part, photographs in parts.items():
        for name, runs in figures.items():
            for label, (scoring, other_scoring) in COMPARISONS.items():
                key, other_key = (scoring, part, "merged"), (other_scoring, part, "merged")
                cells = [f"{np.mean([run.maps[scoring, part, branch] for run in runs]):.1f}" for branch in BRANCHES]
                for other in others:
                    same = other == name and scoring == other_scoring
                    keys = (key, other_key)
                    cells.append("" if same else gain(runs, figures[other], *keys, photographs, num_resamples))
                lines.append(f"| {part} | {name} | {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


__all__ = [
    "BANK_CAPTIONS",
    "BASELINES",
    "SCORINGS",
    "Figures",
    "Scorer",
    "frequency_groups",
    "gain",
    "gains_table",
    "selection_table",
]
