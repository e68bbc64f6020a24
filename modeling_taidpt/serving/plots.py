"""Figures of what a model found: the photograph, a bar for each score, and where each label is.

Everything takes the results of `pipeline("multi-label-image-classification")` for one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..atomic import staged_file
from ..pipelines.image_reading import ImageEntry, read_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORMAP = "inferno"
BAR_COLOR = "#d1495b"
STRENGTH = 0.8  # how much of the photograph the strongest point of a heatmap covers
OUTSIDE = 0.35  # brightness of what the image processor crops away
WIDTH = 8.0  # inches of a figure: a column of text, so that its letters are as large as those around it
ROW = 2.9  # inches of height at most of a row of images
SCALE_NAME = "where a label is: from the lowest to the highest value of its own map (the score says how much)"
FIGURE_SUFFIXES = (".jpg", ".jpeg", ".pdf", ".png", ".svg", ".webp")


def overlay_heatmap(image: Any, heatmap: np.ndarray, scale: tuple[float, float] | None = None) -> Image.Image:
    """Lays a heatmap on its photograph, which turns gray: low values show it, high ones cover most of it.

    What the image processor crops away (NaN) is dark.

    Args:
        image (`PIL.Image.Image` or anything that the pipeline reads): the photograph.
        heatmap (`np.ndarray` of shape `(height, width)`): `"heatmap"` of a result.
        scale (`tuple[float, float]`, *optional*): the values of no and of full color, so that several maps can share
            them; by default the lowest and the highest value of this map, whose colors then say where a label is
            rather than whether it is there.

    Returns:
        `PIL.Image.Image`: RGB, of the size of the heatmap.

    Raises:
        ValueError: the photograph cannot be read.
        ImportError: matplotlib is not installed.
    """
    colormap = _matplotlib().colormaps[COLORMAP]
    height, width = heatmap.shape
    photograph = read_image(ImageEntry(image))
    if photograph.size != (width, height):
        photograph = photograph.resize((width, height), Image.Resampling.BICUBIC)
    grey = np.asarray(photograph.convert("L"), dtype=np.float32)[..., None] / 255  # (height, width, 1)
    seen = np.isfinite(heatmap)  # (height, width)
    low, high = _range([heatmap]) if scale is None else scale
    strength = np.where(seen, (heatmap - low) / max(high - low, 1e-12), 0.0).clip(0, 1)  # (height, width)
    colors = colormap(strength)[..., :3]  # (height, width, 3)
    weight = STRENGTH * strength[..., None] ** 2  # (height, width, 1)
    inside = (1 - weight) * grey + weight * colors  # (height, width, 3)
    blended = np.where(seen[..., None], inside, OUTSIDE * grey)  # (height, width, 3)
    return Image.fromarray(np.rint(255 * blended.clip(0, 1)).astype(np.uint8))


def draw_results(
    image: Any, results: Sequence[Mapping[str, Any]], *, max_labels: int = 8, max_heatmaps: int = 3
) -> Figure:
    """Draws a photograph, the scores of its labels and, where the results have them, heatmaps of the best labels.

    Args:
        image (`PIL.Image.Image` or anything that the pipeline reads): the photograph.
        results (`Sequence[Mapping]`): what the pipeline returned for it, with `return_heatmaps=True` for heatmaps.
        max_labels (`int`, *optional*, defaults to 8): bars at most.
        max_heatmaps (`int`, *optional*, defaults to 3): heatmaps at most.

    Returns:
        `matplotlib.figure.Figure`: to show or to save.

    Raises:
        ValueError: the photograph cannot be read, or the results are those of several images.
        ImportError: matplotlib is not installed.
    """
    _matplotlib()
    from matplotlib.figure import Figure

    if any(not isinstance(result, Mapping) for result in results):
        raise ValueError("`results` holds lists: give those of one image, and draw each image for itself.")
    photograph = read_image(ImageEntry(image))
    maps = [result for result in results if "heatmap" in result][:max_heatmaps]
    aspect = min(max(photograph.width / photograph.height, 0.5), 2.0)
    top = min(ROW, WIDTH / 2 / aspect)  # inches, as those below
    below = min(ROW, WIDTH / max(len(maps), 2) / aspect) + 0.6 if maps else 0.0
    figure = Figure(figsize=(WIDTH, top + 0.4 + below), layout="constrained")
    rows = figure.add_gridspec(2 if maps else 1, 1, height_ratios=[top + 0.4, below] if maps else None)
    image_panel, bars = figure.add_subfigure(rows[0]).subplots(1, 2, width_ratios=[top * aspect, WIDTH - top * aspect])
    image_panel.imshow(photograph)
    image_panel.set_axis_off()
    _draw_bars(bars, results[:max_labels])
    if maps:
        draw_heatmap_row(figure.add_subfigure(rows[1]), [(photograph, result) for result in maps])
    return figure


def draw_heatmap_row(figure: Any, maps: Sequence[tuple[Any, Mapping[str, Any]]]) -> None:
    """Draws heatmaps side by side, each from its own lowest to its own highest value, as a bar below them says.

    Args:
        figure (`matplotlib.figure.Figure` or `SubFigure`): where to draw.
        maps (`Sequence[tuple]`): photograph and result with its `"heatmap"`, for each panel.
    """
    from matplotlib.colors import Normalize

    panels = figure.subplots(1, max(len(maps), 2), squeeze=False)[0]  # one map is no wider than two
    for panel in panels:
        panel.set_axis_off()
        panel.set_anchor("N")
    for panel, (photograph, result) in zip(panels, maps, strict=False):
        panel.imshow(overlay_heatmap(photograph, result["heatmap"]))
        panel.set_title(f"{_short(result['label'])}  {result['score']:.2f}", fontsize=10)
    colors = _matplotlib().cm.ScalarMappable(Normalize(0, 1), _matplotlib().colormaps[COLORMAP])
    bar = figure.colorbar(
        colors, ax=panels.tolist(), location="bottom", fraction=0.04, pad=0.03, aspect=60, label=SCALE_NAME
    )
    bar.set_ticks([0, 1], labels=["lowest", "highest"])
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def save_figure(
    image: Any,
    results: Sequence[Mapping[str, Any]],
    output: str | Path,
    *,
    max_labels: int = 8,
    max_heatmaps: int = 3,
    dpi: int = 150,
) -> Path:
    """Saves what [`draw_results`] draws; the file is written whole or not at all.

    Args:
        image (`PIL.Image.Image` or anything that the pipeline reads): the photograph.
        results (`Sequence[Mapping]`): what the pipeline returned for it.
        output (`str`): file; its suffix is the format (.png, .jpg, .webp, .svg or .pdf).
        max_labels (`int`, *optional*, defaults to 8): bars at most.
        max_heatmaps (`int`, *optional*, defaults to 3): heatmaps at most.
        dpi (`int`, *optional*, defaults to 150): pixels per inch.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: the suffix is not such a format, or as [`draw_results`].
        ImportError: matplotlib is not installed.
    """
    output = Path(output)
    if output.suffix.lower() not in FIGURE_SUFFIXES:
        raise ValueError(f"No figure can be saved as {str(output)!r}: end it in {', '.join(FIGURE_SUFFIXES)}.")
    figure = draw_results(image, results, max_labels=max_labels, max_heatmaps=max_heatmaps)
    with staged_file(output) as file:
        figure.savefig(file, dpi=dpi, facecolor="white")
    return output


def _draw_bars(axes: Any, results: Sequence[Mapping[str, Any]]) -> None:
    """One horizontal bar for each score, the best on top; the axis ends a little after the best score."""
    scores = [result["score"] for result in results]
    bars = axes.barh(range(len(scores)), scores, color=BAR_COLOR, height=0.7)
    decimals = max(2, 1 - math.floor(math.log10(max([*scores, 1e-9]))))  # those of the best score, if it is small
    axes.bar_label(bars, [f"{score:.{decimals}f}" for score in scores], padding=3, fontsize=9)
    axes.set_yticks(range(len(scores)), [_short(result["label"]) for result in results], fontsize=10)
    axes.set_xlim(0, 1.25 * max([*scores, 1e-9]))
    axes.set_ylim(max(len(scores), 3) - 0.5, -0.5)  # the best on top; few bars stay thin
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("score" if scores else "no label reaches the threshold", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _range(heatmaps: Sequence[np.ndarray]) -> tuple[float, float]:
    """The lowest and the highest value of heatmaps."""
    seen = [heatmap[np.isfinite(heatmap)] for heatmap in heatmaps]  # (seen pixels,) each
    seen = [values for values in seen if values.size]
    return (
        (float(min(values.min() for values in seen)), float(max(values.max() for values in seen)))
        if seen
        else (0.0, 0.0)
    )


def _short(label: str) -> str:
    """A label that fits beside a bar, without the signs that matplotlib takes for formulas."""
    return (label if len(label) <= 24 else f"{label[:23]}…").replace("$", r"\$")


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("Figures need matplotlib: run `pip install matplotlib`.") from error
    return matplotlib


__all__ = ["draw_heatmap_row", "draw_results", "overlay_heatmap", "save_figure"]
