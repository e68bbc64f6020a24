"""Features of an image averaged over views of it: its mirror image, and overlapping windows of a large image."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .scores import normalize

Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def encode_views(
    encode: Encode, pixel_values: torch.Tensor, window: int | None, cell: int, flip: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodes views of images and averages their features.

    Args:
        encode (`Callable`): pixels `(batch, 3, height, width)` to pooled `(batch, dim)` and dense
            `(batch, height / cell, width / cell, dim)` features, L2-normalised.
        pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): normalised pixels.
        window (`int`, *optional*): side in pixels of the windows, which overlap by about a half and are encoded one
            by one; the whole image at once without it.
        cell (`int`): side in pixels of a cell.
        flip (`bool`): whether every view is also seen mirrored; its dense features are mirrored back.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: pooled `(batch, dim)` and dense `(batch, height / cell, width / cell,
        dim)`: means over the views that show a place, L2-normalised again.

    Raises:
        ValueError: with a window, a side of the image is no multiple of the cell.
    """
    if flip:
        encode = _with_mirror_image(encode)
    height, width = pixel_values.shape[-2:]
    if window is None or max(height, width) <= window:
        return encode(pixel_values)
    if height % cell or width % cell:
        raise ValueError(
            f"Windows need whole cells: the image has {height}x{width} pixels, resize it to multiples of {cell}."
        )
    pooled_sum, dense_sum, seen = None, None, None
    places = [(top, left) for top in _starts(height, window, cell) for left in _starts(width, window, cell)]
    for top, left in places:
        view = pixel_values[..., top : top + window, left : left + window]  # (batch, 3, <= window, <= window)
        pooled, dense = encode(view)  # (batch, dim), (batch, rows, columns, dim)
        if pooled_sum is None:
            pooled_sum = torch.zeros_like(pooled)  # (batch, dim)
            dense_sum = dense.new_zeros(dense.shape[0], height // cell, width // cell, dense.shape[-1])
            seen = dense.new_zeros(height // cell, width // cell, 1)  # (height, width, 1)
        rows = slice(top // cell, top // cell + dense.shape[1])
        columns = slice(left // cell, left // cell + dense.shape[2])
        pooled_sum += pooled
        dense_sum[:, rows, columns] += dense
        seen[rows, columns] += 1
    return normalize(pooled_sum / len(places)), normalize(dense_sum / seen)


def _with_mirror_image(encode: Encode) -> Encode:
    def encode_both(pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled, dense = encode(pixel_values)  # (batch, dim), (batch, height, width, dim)
        mirrored_pooled, mirrored_dense = encode(pixel_values.flip(-1))  # (batch, dim), (batch, height, width, dim)
        return normalize(pooled + mirrored_pooled), normalize(dense + mirrored_dense.flip(2))

    return encode_both


def _starts(length: int, window: int, cell: int) -> list[int]:
    """First pixels of the fewest windows that cover an axis, overlap by about a half and start on a cell."""
    if length <= window:
        return [0]
    last = (length - window) // cell  # in cells; exact where the window is made of whole cells
    steps = -(-(length - window) // max(window // 2, cell))  # rounded up
    return [round(step * last / steps) * cell for step in range(steps + 1)]


__all__ = ["encode_views"]
