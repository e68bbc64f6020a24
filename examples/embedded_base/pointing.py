"""The grid pointing game: photographs of one label each in a 2 x 2 grid, and whether a label's map finds its own part.

Source: Böhle et al., "Convolutional Dynamic Alignment Networks for Interpretable Classifications" (CVPR 2021, arXiv
2104.00032), section 4.2 (localisation in grids of images of different classes); the peak is the pointing game of Zhang
et al. (ECCV 2016, arXiv 1608.00507).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageOps

from modeling_taidpt.pipelines.image_reading import open_encoded

from .image_features import is_selection
from .labelled import VOC_NAMES

PARTS = 4  # of a grid: top left, top right, bottom left, bottom right


class Single(NamedTuple):
    """A photograph that shows one label, as far as its folder knows."""

    file: str
    label: str
    folder: str


def read_singles(folder: str | Path, labels: Sequence[str], selection: bool | None = True) -> list[Single]:
    """Photographs of a folder that are labelled with exactly one of the labels of a model.

    Args:
        folder (`str`): holds `images/` and `labels.json`: `{"categories", "images"}` with indices as labels, or a list
            of `{"file_name", "labels"}` with names.
        labels (`Sequence[str]`): the model's.
        selection (`bool`, *optional*, defaults to `True`): only the selection part, or only the rest; `None` is all.

    Returns:
        `list[Single]`: in the order of the file.
    """
    folder = Path(folder)
    table = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    rows = table["images"] if isinstance(table, dict) else table
    singles = []
    for row in rows:
        if len(row["labels"]) != 1 or (selection is not None and is_selection(row["file_name"]) != selection):
            continue
        name = table["categories"][row["labels"][0]] if isinstance(table, dict) else row["labels"][0]
        name = VOC_NAMES.get(name, name)
        if name in labels:
            singles.append(Single(str(folder / "images" / row["file_name"]), name, folder.name))
    return singles


def draw_grids(singles: Sequence[Single], rounds: int, seed: int) -> list[tuple[Single, ...]]:
    """Grids of four photographs of different labels; in each round every photograph is in one grid at most.

    Args:
        singles (`Sequence[Single]`): photographs of at least four labels.
        rounds (`int`): how often the photographs are shuffled and dealt.
        seed (`int`): of the shuffling.

    Returns:
        `list[tuple[Single, ...]]`: grids, each in the order of its parts.
    """
    generator, grids = random.Random(seed), []
    for _ in range(rounds):
        left = list(singles)
        generator.shuffle(left)
        while len({single.label for single in left}) >= PARTS:
            grid: dict[str, Single] = {}
            for single in left:
                if single.label not in grid:
                    grid[single.label] = single
                if len(grid) == PARTS:
                    break
            grids.append(tuple(grid.values()))
            left = [single for single in left if single not in grids[-1]]
    return grids


def paste_grid(grid: Sequence[Single], side: int) -> Image.Image:
    """The middle squares of four photographs, side by side in an image of `side` x `side` pixels."""
    canvas, half = Image.new("RGB", (side, side)), side // 2
    for part, single in enumerate(grid):
        square = ImageOps.fit(open_encoded(single.file).convert("RGB"), (half, half), Image.Resampling.BICUBIC)
        canvas.paste(square, (half * (part % 2), half * (part // 2)))
    return canvas


def part_shares(rows: int, columns: int) -> torch.Tensor:
    """Share of each cell that lies in each part: `(parts, rows, columns)`; cells on the border count for both."""
    upper, left = ((axis / 2 - torch.arange(axis)).clamp(0, 1) for axis in (rows, columns))  # (rows,), (columns,)
    pairs = [(y, x) for y in (upper, 1 - upper) for x in (left, 1 - left)]
    return torch.stack([y[:, None] * x[None] for y, x in pairs])  # (parts, rows, columns)


def judge_map(values: torch.Tensor, shares: torch.Tensor) -> tuple[float, float]:
    """How much of a map's peak cell, and of its positive mass, lies in a part.

    Args:
        values (`torch.Tensor` of shape `(rows, columns)`): the map of a label.
        shares (`torch.Tensor` of shape `(rows, columns)`): of the cells, in the part that shows the label.

    Returns:
        `tuple[float, float]`: in [0, 1]; a flat map, or one without positive mass, points nowhere: a quarter.
    """
    peaks, mass = values == values.max(), values.clamp(min=0)  # (rows, columns) each
    inside = float((mass * shares).sum() / mass.sum()) if mass.sum() > 0 else 1 / PARTS
    return float(shares[peaks].mean()), inside


# cosines (classes, rows, columns), class, classes of the grid -> (rows, columns)
Draw = Callable[[torch.Tensor, int, list[int]], torch.Tensor]


@torch.no_grad()
def play(
    cosines: Iterator[torch.Tensor], grids: Sequence[Sequence[Single]], labels: Sequence[str], ways: dict[str, Draw]
) -> dict[str, torch.Tensor]:
    """Plays all grids.

    Args:
        cosines (`Iterator[torch.Tensor]`): `(classes, rows, columns)` for each grid; classes beyond the labels may
            follow.
        grids (`Sequence[Sequence[Single]]`): what the images show.
        labels (`Sequence[str]`): names of the classes.
        ways (`dict[str, Callable]`): name and how the map of a class is made: of the cosines, its index and the
            indices of the classes in the grid.

    Returns:
        `dict[str, torch.Tensor]`: for each way `(grids, parts, 2)`: peak and mass in the right part.
    """
    results: dict[str, list[list[tuple[float, float]]]] = {way: [] for way in ways}
    indices = {label: index for index, label in enumerate(labels)}
    for values, grid in zip(cosines, grids, strict=True):
        shares = part_shares(*values.shape[1:])  # (parts, rows, columns)
        shown = [indices[single.label] for single in grid]
        for way, draw in ways.items():
            maps = [draw(values, index, shown) for index in shown]  # (rows, columns) each
            results[way].append([judge_map(map_, share) for map_, share in zip(maps, shares, strict=True)])
    return {way: torch.tensor(rows) for way, rows in results.items()}
