"""Where the model looks in an image, and heatmaps in the pixels of that image, whatever was resized and cropped.

What a heatmap shows was chosen by `examples/study_heatmaps.py` of the project: see [`cell_shares`]. The cosines are
means of those at the size that the scores come from and at twice that size ([`enlarged`], [`join_sizes`]): objects
come in all sizes, coarse cells see large ones whole, and fine cells find the small ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import get_image_size_for_max_height_width

from .pixels import image_pixels, resized_sides

INVERSE_TEMPERATURE = 50.0  # on cosines, of the shares of a cell
ENLARGEMENT = 2  # of an image, where its cells are to be shown


class Axis(NamedTuple):
    """How one axis of an image went through the image processor, in pixels."""

    original: int  # of the turned image
    resized: int  # after resizing
    offset: int  # of the crop in the resized image; negative where the processor pads
    crop: int  # of what the model saw


class ProcessorView:
    """An image processor with some of its settings replaced for one image.

    Args:
        processor (`BaseImageProcessor`): gives the settings that are not replaced.
        replaced (`dict`): settings, as keyword arguments of its call.
    """

    def __init__(self, processor: Any, replaced: dict[str, Any]) -> None:
        self.processor, self.replaced = processor, replaced

    def __getattr__(self, name: str) -> Any:
        return self.replaced[name] if name in self.replaced else getattr(self.processor, name)

    def __call__(self, image: Any, **settings: Any) -> Any:
        """Pixels `(1, 3, height, width)` of an RGB image; further settings are replaced for this call."""
        return image_pixels(self.processor, image, self.replaced | settings)


def processor_for(
    processor: Any, original: tuple[int, int], image_size: int | None, center_crop: bool | None, cell: int
) -> ProcessorView:
    """The image processor for one image at a size of choice.

    Args:
        processor (`BaseImageProcessor`): with the settings `size`, `do_center_crop` and `crop_size`.
        original (`tuple[int, int]`): height and width of the image.
        image_size (`int`, *optional*): shorter side that the model is to see, rounded to whole cells; the processor's
            by default.
        center_crop (`bool`, *optional*): `False` keeps the whole image, both sides rounded to whole cells; `True`
            crops the middle square; what the processor does by default.
        cell (`int`): side in pixels of a cell.

    Returns:
        [`ProcessorView`].

    Raises:
        ValueError: the processor has no size, and none is given.
    """
    crops, size = bool(getattr(processor, "do_center_crop", False)), dict(processor.size or {})
    squeezes = bool(getattr(processor, "do_resize", False)) and not crops and {"height", "width"} <= set(size)
    if image_size is None and center_crop in (None, crops) and not (center_crop is False and squeezes):
        return ProcessorView(processor, {})
    short = image_size or (processor.crop_size["height"] if crops else size.get("shortest_edge") or size.get("height"))
    if short is None:
        raise ValueError(f"A `{type(processor).__name__}` resizes to {size}: give `image_size`, the shorter side.")
    replaced: dict[str, Any] = {"do_resize": True, "do_center_crop": False}
    if getattr(processor, "do_pad", False):
        replaced["do_pad"] = False
    square = dict.fromkeys(("height", "width"), max(1, round(short / cell)) * cell)
    if center_crop is False:
        sides = (max(1, round(side * short / min(original) / cell)) * cell for side in original)
        replaced["size"] = dict(zip(("height", "width"), sides, strict=True))
    elif center_crop or crops:
        replaced |= {"size": {"shortest_edge": square["height"]}, "do_center_crop": True, "crop_size": square}
    else:
        replaced["size"] = {"shortest_edge": square["height"]} if "shortest_edge" in size else square
    return ProcessorView(processor, replaced)


def enlarged(view: ProcessorView) -> ProcessorView:
    """The same part of the image at twice the size; the view itself where its processor does not resize, or pads."""
    if not getattr(view, "do_resize", False) or getattr(view, "do_pad", False):
        return view
    names = ("size", "crop_size") if getattr(view, "do_center_crop", False) else ("size",)
    sizes = {name: {key: ENLARGEMENT * side for key, side in _sides(getattr(view, name))} for name in names}
    return ProcessorView(view.processor, view.replaced | sizes)


def _sides(size: Any) -> list[tuple[str, int]]:
    return [(key, side) for key, side in dict(size).items() if side is not None]


def join_sizes(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """Mean of the cosines of an image at two sizes, on the finer cells.

    Args:
        coarse (`torch.Tensor` of shape `(labels, rows, columns)`): at one size.
        fine (`torch.Tensor` of shape `(labels, finer rows, finer columns)`): of the same part at another.

    Returns:
        `torch.Tensor` of shape `(labels, finer rows, finer columns)`.
    """
    size = tuple(fine.shape[-2:])
    upsampled = torch.nn.functional.interpolate(coarse[None], size=size, mode="bilinear", align_corners=False)[0]
    return (upsampled + fine) / 2  # (labels, finer rows, finer columns)


def cell_shares(cosines: torch.Tensor) -> torch.Tensor:
    """How much of each cell a label takes from what is ordinary for it in the image.

    `exp(50 s) / (exp(50 s) + exp(50 o))`, where the cosine that is ordinary for the label, `o = mean + standard
    deviation`, is taken over the cells of the image. Labels do not compete: several may be in one place, and the map
    of a label is the same whatever others are asked for, also when it is alone.

    Args:
        cosines (`torch.Tensor` of shape `(..., labels, rows, columns)`): of cells with labels.

    Returns:
        `torch.Tensor` of the same shape: in [0, 1], at least fp32; high where the label is, whether or not the image
        shows it: that is what its score says.
    """
    cosines = cosines.float()  # (..., labels, rows, columns)
    mean = cosines.mean(dim=(-2, -1), keepdim=True)  # (..., labels, 1, 1)
    spread = (cosines - mean).square().mean(dim=(-2, -1), keepdim=True).sqrt()  # (..., labels, 1, 1)
    return torch.sigmoid(INVERSE_TEMPERATURE * (cosines - mean - spread))  # (..., labels, rows, columns)


def resized_size(processor: Any, height: int, width: int) -> tuple[int, int] | None:
    """Height and width after the resizing of an image processor, rounded as it does; None if it is not known."""
    if not getattr(processor, "do_resize", False):
        return height, width
    size = dict(processor.size)
    if {"shortest_edge", "longest_edge"} <= set(size):
        new_size = get_size_with_aspect_ratio((height, width), size["shortest_edge"], size["longest_edge"])
    elif "shortest_edge" in size:
        new_size = resized_sides(size["shortest_edge"], height, width)
    elif {"max_height", "max_width"} <= set(size):
        new_size = get_image_size_for_max_height_width((height, width), size["max_height"], size["max_width"])
    elif {"height", "width"} <= set(size):
        new_size = (size["height"], size["width"])
    else:
        return None
    return int(new_size[0]), int(new_size[1])


def crop_window(
    processor: Any, original: tuple[int, int], resized: tuple[int, int] | None, processed: tuple[int, int]
) -> tuple[Axis, Axis]:
    """Where the pixels that the model saw lie in the image, for the rows and for the columns.

    Args:
        processor (`BaseImageProcessor`): with the settings `do_resize`, `size`, `do_center_crop` and `crop_size`.
        original (`tuple[int, int]`): height and width of the image.
        resized (`tuple[int, int]`, *optional*): height and width after resizing.
        processed (`tuple[int, int]`): height and width that came out.

    Returns:
        `tuple[Axis, Axis]`: rows and columns.

    Raises:
        ValueError: the processor does something else than resizing, centre-cropping and padding below and right.
    """
    crops = bool(getattr(processor, "do_center_crop", False))
    crop = dict(processor.crop_size) if crops else {}
    if crops:
        fits = (crop.get("height"), crop.get("width")) == processed
    else:
        fits = resized == processed or bool(getattr(processor, "do_pad", False))
    if resized is None or not fits:
        raise ValueError(
            f"Heatmaps cannot be placed for a `{type(processor).__name__}` that makes {processed[0]} x {processed[1]} "
            f"out of {original[0]} x {original[1]} pixels: use one that only resizes and centre-crops, as CLIP's."
        )
    rows, columns = (
        Axis(old, new, _crop_offset(processor, new, seen) if crops else 0, seen)
        for old, new, seen in zip(original, resized, processed, strict=True)
    )
    return rows, columns


def _crop_offset(processor: Any, resized: int, crop: int) -> int:
    """First pixel of the centre crop; the torchvision backend pads the odd pixel at the other end than PIL's."""
    if resized < crop and getattr(processor, "backend", "pil") == "torchvision":
        return -((crop - resized) // 2)
    return (resized - crop) // 2


def _axis_weights(axis: Axis, cells: int) -> tuple[slice, np.ndarray]:
    """Bilinear weights of cells for the pixels of one axis whose centre lies in the crop.

    Args:
        axis (`Axis`): rows or columns.
        cells (`int`): number of cells that share the crop evenly.

    Returns:
        `tuple[slice, np.ndarray]`: the pixels inside, and their weights `(inside, cells)`.
    """
    # The centre of pixel i lies at (i + 0.5) * resized / original - offset in the crop; whole numbers keep it exact.
    edges = (2 * axis.original * edge for edge in (axis.offset, axis.offset + axis.crop))
    first, last = (-((axis.resized - edge) // (2 * axis.resized)) for edge in edges)  # rounded up
    first, last = max(first, 0), min(last, axis.original)
    centres = (np.arange(first, last) + 0.5) * axis.resized / axis.original - axis.offset  # (inside,)
    positions = np.clip(centres * cells / axis.crop - 0.5, 0, cells - 1)  # (inside,), in cells
    low = np.floor(positions).astype(int)  # (inside,)
    high = np.minimum(low + 1, cells - 1)  # (inside,)
    weights = np.zeros((len(positions), cells))  # (inside, cells)
    np.add.at(weights, (np.arange(len(positions)), low), 1 - (positions - low))
    np.add.at(weights, (np.arange(len(positions)), high), positions - low)
    return slice(first, last), weights


def draw_heatmaps(cells: np.ndarray, window: Sequence[Axis]) -> Iterator[np.ndarray]:
    """Heatmaps of the cells `(labels, rows, columns)`: float32 `(height, width)` each, NaN outside the crop."""
    rows, columns = (Axis(*axis) for axis in window)
    inside_rows, row_weights = _axis_weights(rows, cells.shape[1])  # (inside, rows)
    inside_columns, column_weights = _axis_weights(columns, cells.shape[2])  # (inside, columns)
    for label_cells in cells:
        heatmap = np.full((rows.original, columns.original), np.nan, dtype=np.float32)  # (height, width)
        heatmap[inside_rows, inside_columns] = row_weights @ label_cells @ column_weights.T
        yield heatmap


__all__ = [
    "Axis",
    "ProcessorView",
    "cell_shares",
    "crop_window",
    "draw_heatmaps",
    "enlarged",
    "join_sizes",
    "processor_for",
    "resized_size",
]
