"""A second look: the part of an image where a label seems to be is cut out, seen again and averaged in.

Source: the class-wise re-identification of TagCLIP (Lin et al., AAAI 2024, arXiv 2312.12828, section 3.4, and `cwr` in
its published `classify.py`). Each cell has a posterior over the labels, the softmax of its similarities at the CLIP's
own temperature. Labels whose largest posterior lies above half of the range of the image, over its cells and labels,
are looked at again; the box of a label encloses the cells above half of that label's own range; half of the new score
of the label is averaged with half of the old one.

What differs from the published code: averaged are the scores of the model, not posteriors; posteriors are not refined
by the attention of earlier blocks, and no background categories take part; boxes reach to the last row and column, and
one that would be empty does not end the search; the class token sees the whole box. Beside tiles a box is one more
tile of its label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .image_encoding import resized, seen_sides

SHARE = 0.5  # of the range of the image, of that of a label, and of the second look in the score
BOXES_AT_A_TIME = 32  # seen in one pass, so that memory does not depend on how many labels an image seems to show

See = Callable[[torch.Tensor], Sequence[torch.Tensor]]


def whole_view(config: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Images `(batch, 3, height, width)` at the size that the tower sees of a whole one; larger ones are for boxes."""
    return resized(pixel_values, seen_sides(pixel_values.shape[-2:], config.image_size, config.patch_size))


def find_boxes(similarity_map: torch.Tensor, logit_scale: float | torch.Tensor) -> torch.Tensor:
    """The labels that are worth a second look, and where.

    Args:
        similarity_map (`torch.Tensor` of shape `(batch, classes, rows, columns)`): of the cells of images.
        logit_scale (`float`): the CLIP's own temperature, the factor on cosines.

    Returns:
        `torch.Tensor` of shape `(boxes, 6)`: image, label, first row, end of the rows, first column, end of the
        columns, in the order of images and labels. An image of one label, or whose labels or cells are all alike or
        not numbers, has no box.
    """
    rows, columns = similarity_map.shape[-2:]
    maps = (logit_scale * similarity_map.float()).softmax(dim=1)  # (batch, classes, rows, columns)
    candidates = maps.amax(dim=(2, 3)) > _middle(maps.flatten(1))  # (batch, classes)
    images, labels = torch.nonzero(candidates, as_tuple=True)  # (candidates,) each
    own = maps[images, labels]  # (candidates, rows, columns)
    above = own > _middle(own.flatten(1))[:, :, None]  # (candidates, rows, columns)
    sides = []
    for axis, length in ((2, rows), (1, columns)):
        hit = above.any(dim=axis).int()  # (candidates, length)
        sides += [hit.argmax(dim=1), length - hit.flip(1).argmax(dim=1)]  # (candidates,) each
    boxes = torch.stack([images, labels, *sides], dim=1)  # (candidates, 6)
    return boxes[above.flatten(1).any(dim=1)]  # (boxes, 6)


def _middle(values: torch.Tensor) -> torch.Tensor:
    """Half of the range of each set of values `(sets, length)`, `(sets, 1)`."""
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)  # (sets, 1) each
    return low + SHARE * (high - low)  # (sets, 1)


def cut_boxes(pixel_values: torch.Tensor, places: torch.Tensor, cells: Sequence[int], size: int) -> list[torch.Tensor]:
    """Cuts the pixels of boxes out of images.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): what they are cut from; larger than the
            tower's size, so that they show more than was seen first.
        places (`torch.Tensor` of shape `(places, 5)`): image, first row, end of the rows, first column, end of the
            columns.
        cells (`Sequence[int]`): rows and columns of the cells, which share the images evenly.
        size (`int`): side in pixels of the tower's images.

    Returns:
        `list[torch.Tensor]`: pixels `(3, size, size)` of each place.
    """
    sides, views = pixel_values.shape[-2:], []
    for image, *edges in places.tolist():
        top, left = (edges[2 * axis] * sides[axis] // cells[axis] for axis in range(2))
        bottom, right = (-(-edges[2 * axis + 1] * sides[axis] // cells[axis]) for axis in range(2))  # rounded up
        view = pixel_values[image : image + 1, :, top:bottom, left:right]  # (1, 3, bottom - top, right - left)
        views.append(resized(view, [size, size])[0])  # (3, size, size)
    return views


def average_looks(
    first: torch.Tensor, boxes: torch.Tensor, second: torch.Tensor, whole: torch.Tensor | None = None
) -> torch.Tensor:
    """Half of the scores of images plus half of those of their boxes, for the labels that have one.

    Args:
        first (`torch.Tensor` of shape `(batch, classes)`): scores of images.
        boxes (`torch.Tensor` of shape `(boxes, 6)`): as of [`find_boxes`].
        second (`torch.Tensor` of shape `(boxes, classes)`): scores of what is in the boxes.
        whole (`torch.Tensor` of shape `(batch, classes)`, *optional*): scores of the whole images, where `first` are
            half of these plus half of the largest over tiles; a box is then one more tile of its label.

    Returns:
        `torch.Tensor` of shape `(batch, classes)`.
    """
    joined, (image, label) = first.clone(), boxes[:, :2].T  # (batch, classes), (boxes,) each
    own = second[torch.arange(len(boxes), device=second.device), label].to(first.dtype)  # (boxes,)
    base = first if whole is None else whole
    average = (1 - SHARE) * base[image, label] + SHARE * own  # (boxes,)
    joined[image, label] = average if whole is None else torch.maximum(first[image, label], average)
    return joined


def look_again(
    see: See,
    pixel_values: torch.Tensor,
    scores: Sequence[torch.Tensor],
    boxes: torch.Tensor,
    cells: Sequence[int],
    size: int,
    wholes: Sequence[torch.Tensor] | None = None,
) -> list[torch.Tensor]:
    """Averages the scores of images with those of the boxes in which their labels seem to be.

    Args:
        see (`Callable`): views of boxes `(places, 3, size, size)` to their scores `(places, classes)` of each branch.
        pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): as in [`cut_boxes`].
        scores (`Sequence[torch.Tensor]` of shapes `(batch, classes)`): of each branch.
        boxes (`torch.Tensor` of shape `(boxes, 6)`): as of [`find_boxes`].
        cells (`Sequence[int]`): rows and columns of the cells.
        size (`int`): side in pixels of the tower's images.
        wholes (`Sequence[torch.Tensor]` of shapes `(batch, classes)`, *optional*): of each branch, as in
            [`average_looks`].

    Returns:
        `list[torch.Tensor]`: the scores `(batch, classes)` of each branch.
    """
    if not len(boxes):
        return list(scores)
    # labels of an image that have the same box share a pass
    places, place = boxes[:, [0, 2, 3, 4, 5]].unique(dim=0, return_inverse=True)  # (places, 5), (boxes,)
    parts = []
    for start in range(0, len(places), BOXES_AT_A_TIME):
        members = places[start : start + BOXES_AT_A_TIME]
        parts.append(see(torch.stack(cut_boxes(pixel_values, members, cells, size))))
    seconds = (torch.cat(branch)[place] for branch in zip(*parts, strict=True))  # (boxes, classes) each
    bases: Sequence[torch.Tensor | None] = [None] * len(scores) if wholes is None else wholes
    branches = zip(scores, seconds, bases, strict=True)
    return [average_looks(first, boxes, second, whole) for first, second, whole in branches]


__all__ = ["average_looks", "cut_boxes", "find_boxes", "look_again", "whole_view"]
