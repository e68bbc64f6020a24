"""Which way of drawing heatmaps finds objects: the grid pointing game on photographs that no training saw.

    python examples/study_heatmaps.py --images voc2012 imagenet_samples caltech101_coco

Four photographs of one label each, all of the selection part, are laid in a 2 x 2 grid; the map of each label should
have its peak, and its positive values, in the right quarter (chance: 25 %). Intervals are of a bootstrap over grids.
`share of own background` at the mean of both sizes is what the pipeline draws: rivals among the labels make it sharper
on photographs of one object, but hide an object in scenes of several. `--sizes 512 1024` plays with objects twice as
large; `of four` knows only the labels of the grid, `bank` rivals are the caption bank of the checkpoint, if any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from embedded_base.pointing import Single, draw_grids, paste_grid, play, read_singles
from transformers import AutoImageProcessor, HfArgumentParser

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel
from modeling_taidpt.pipelines.heatmaps import INVERSE_TEMPERATURE, cell_shares, join_sizes, processor_for


@dataclass
class Arguments:
    """What to play with."""

    images: list[str] = field(metadata={"help": "Folders with labels.json and images/."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint."})
    sizes: list[int] | None = field(
        default=None, metadata={"help": "Sides in pixels that it sees, the larger last; its own and twice that."}
    )
    rounds: int = field(default=1, metadata={"help": "How often the photographs are dealt into grids."})
    seed: int = field(default=0, metadata={"help": "Of the dealing."})
    resamples: int = field(default=2000, metadata={"help": "Bootstrap resamples over grids."})


def softmax(cosines: torch.Tensor) -> torch.Tensor:
    """Softmax over the classes `(classes, rows, columns)`."""
    return (INVERSE_TEMPERATURE * cosines).softmax(dim=0)


def softmax_with_own(cosines: torch.Tensor, index: int) -> torch.Tensor:
    """Softmax over the classes and the mean plus standard deviation of one of them, whose map it is."""
    own = cosines[index]  # (rows, columns)
    ordinary = (own.mean() + own.std()).expand_as(own)[None]  # (1, rows, columns)
    return softmax(torch.cat([cosines, ordinary]))[index]  # (rows, columns)


def make_ways(labels: int, log_weights: torch.Tensor | None) -> dict:
    """Ways of drawing one class: cosines `(labels and bank, rows, columns)`, class, classes of the grid to its map."""
    ways = {
        "cosine": lambda values, c, grid: values[c],
        "cosine less mean over classes": lambda values, c, grid: values[c] - values[:labels].mean(dim=0),
        "cosine less mean over cells": lambda values, c, grid: values[c] - values[c].mean(),
        "softmax over classes": lambda values, c, grid: softmax(values[:labels])[c],
        "softmax, of four": lambda values, c, grid: softmax(values[grid])[grid.index(c)],
        "softmax with own background": lambda values, c, grid: softmax_with_own(values[:labels], c),
        "share of own background": lambda values, c, grid: cell_shares(values[[c]])[0],
    }
    if log_weights is not None:
        shift = torch.cat([torch.zeros(1), log_weights / INVERSE_TEMPERATURE])[:, None, None]
        rivals = list(range(labels, labels + len(log_weights)))
        ways["softmax with bank, alone"] = lambda values, c, grid: softmax(values[[c, *rivals]] + shift)[0]
    return ways


@torch.no_grad()
def encode_grids(
    model: TaiDptModel, processor, grids: list[tuple[Single, ...]], sizes: list[int], texts: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Cosines `(texts, rows, columns)` of the cells of each grid, the mean over sizes in pixels, the largest last."""
    side = max(2 * model.config.image_size, *sizes)
    views = [processor_for(processor, (side, side), size, None, model.config.patch_size) for size in sizes]
    for grid in grids:
        image = paste_grid(grid, side)
        pixels = [torch.as_tensor(view(image)) for view in views]  # (1, 3, side, side) each
        dense = [model.encode_images(each, interpolate_pos_encoding=True)[1][0] for each in pixels]
        cosines = [(cells @ texts.T).permute(2, 0, 1) for cells in dense]  # (texts, rows, columns) each
        yield cosines[0] if len(sizes) == 1 else join_sizes(*cosines)  # (texts, rows, columns)


def interval(values: torch.Tensor, resamples: int) -> str:
    """Mean and 95 % bootstrap interval over grids, of `(grids, parts)`, in percent."""
    drawn = torch.randint(len(values), (resamples, len(values)), generator=torch.Generator().manual_seed(0))
    means = 100 * values.mean(dim=1)[drawn].mean(dim=1)  # (resamples,)
    low, high = means.quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{100 * values.mean():5.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    model = TaiDptModel.from_pretrained(arguments.model)
    processor, labels = AutoImageProcessor.from_pretrained(arguments.model), model.config.labels
    singles = [single for folder in arguments.images for single in read_singles(folder, labels)]
    grids = draw_grids(singles, arguments.rounds, arguments.seed)
    print(f"{len(grids)} grids of {len(singles)} photographs, {len({single.label for single in singles})} labels")
    texts, bank = model.encode_classes()[1].detach(), model.caption_bank
    if bank is not None:
        texts = torch.cat([texts, bank.features])  # (labels and bank, dim)
    ways = make_ways(len(labels), None if bank is None else bank.log_weights)
    both = arguments.sizes or [model.config.image_size, 2 * model.config.image_size]
    for sizes in [*([size] for size in both), both]:
        print(f"{' and '.join(map(str, sizes))} pixels")
        for way, results in play(encode_grids(model, processor, grids, sizes, texts), grids, labels, ways).items():
            peak, mass = (interval(results[..., index], arguments.resamples) for index in (0, 1))
            print(f"  {way:30s} peak {peak}  mass {mass}", flush=True)


if __name__ == "__main__":
    main()
