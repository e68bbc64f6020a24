"""The table of the study: every setting alone and merged with the prompts that were learned from text."""

from __future__ import annotations

from typing import Any

import numpy as np

from modeling_taidpt import ScoreEnsemble, mean_average_precision, paired_bootstrap

from .settings import SETTINGS, WEIGHTS


def figures(scores: dict[Any, np.ndarray], labels: np.ndarray, seeds: int) -> dict[str, Any]:
    """Figures of every setting.

    Args:
        scores (`dict`): scores `(images, classes)` of `"text"` and of every `(setting, seed)`.
        labels (`np.ndarray` of shape `(images, classes)`): 0 or 1.
        seeds (`int`): number of seeds.

    Returns:
        `dict`: mAP of the text prompts; for every setting mean and standard deviation over the seeds alone and merged,
        the gain of the merged scores over the better part with its mean over seeds, how many seeds gain, and the
        interval of a paired bootstrap over images, whose ends are means over the seeds.
    """
    text = scores["text"]
    text_map = mean_average_precision(text, labels)["map"]
    rows = {}
    for name, (kind, _) in SETTINGS.items():
        alone = [scores[name, seed] for seed in range(seeds)]
        merged = [ScoreEnsemble(text, matrix, WEIGHTS[kind]).scores() for matrix in alone]
        alone_maps = [mean_average_precision(matrix, labels)["map"] for matrix in alone]
        merged_maps = [mean_average_precision(matrix, labels)["map"] for matrix in merged]
        row: dict[str, Any] = {"weight": WEIGHTS[kind], "alone": _spread(alone_maps), "merged": _spread(merged_maps)}
        for part, matrices in (("text", [text] * seeds), ("alone", alone)):
            compared = [paired_bootstrap(a, b, labels) for a, b in zip(merged, matrices, strict=True)]
            row[f"merged_minus_{part}"] = {
                key: float(np.mean([entry[key] for entry in compared])) for key in ("difference", "low", "high")
            } | {"seeds_that_gain": sum(entry["difference"] > 0 for entry in compared)}
        rows[name] = row
    return {"text": text_map, "seeds": seeds, "settings": rows}


def _spread(values: list[float]) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=min(1, len(values) - 1)))}


def as_table(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        f"Text only: {found['text']:.1f} mAP; {found['seeds']} seeds.",
        "",
        "| setting | images only | merged with text | merged - text | merged - images only |",
        "|---|---|---|---|---|",
    ]
    for name, row in found["settings"].items():
        cells = [f"{row[key]['mean']:.1f} ± {row[key]['deviation']:.1f}" for key in ("alone", "merged")]
        for part in ("text", "alone"):
            gain = row[f"merged_minus_{part}"]
            cells.append(f"{gain['difference']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
