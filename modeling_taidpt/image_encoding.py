"""Pixels to pooled and dense image features of a CLIP, whatever its vision tower, and their means over views.

The plain last hidden states of a ViT are badly aligned with the text side. Its dense features come from a changed last
block instead (h = layer_norm1(x); q, k, v are the block's projections of h; W_o is `out_proj`), through the final norm
and the projection:

- `"value"`: W_o v, no attention, no residual, no MLP;
- `"value_residual"`: the same with residual and MLP kept (MaskCLIP, ECCV 2022, section 3.2);
- `"sclip"`: W_o (softmax(q q') + softmax(k k')) v, residual and MLP kept (SCLIP, ECCV 2024, section 3.2);
- `"clearclip"`: W_o softmax(q q') v, neither (ClearCLIP, ECCV 2024, section 3.3);
- `"naclip"`: W_o softmax(k k' + G) v, neither; G is a Gaussian of the distance in the grid (NACLIP, WACV 2025, 3.3).

Products are scaled as the block scales them; class token and registers, where there are any, take part in the
attention without a cell in the grid. A tower that scales what its layers add (TIPS v2) scales it here too. A
convolutional tower has an attention pool in the block's place: the same attention goes over its cells with the pool's
projections, without positions. The pool has neither residual nor MLP to keep.

Features may be averaged over views of an image: its mirror image, and overlapping windows of a large one. Or an image
keeps the features of ten views, the whole and nine tiles, whose scores are joined (`scores.join_tiles`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from .backbones import Block, DualEncoder, compute_dtype, image_side
from .configuration_taidpt import TaiDptConfig, check_dense_features
from .layer_record import Record
from .modeling_clip_resnet import AttentionPool, CLIPResNetModel
from .onnx_graphs import FEATURES, ImageGraph
from .scores import normalize

TILES = "max"  # value of `multi_crop`: the score of the whole plus the largest over tiles, half each
TILES_PER_SIDE = 3  # of half the side each, so that adjacent ones overlap by a half

Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

WITH_RESIDUAL = ("value_residual", "sclip")  # residual and MLP of the last block are kept
WITHOUT_ATTENTION = ("value", "value_residual")
NEIGHBORHOOD_STD = 5.0  # in cells, of the Gaussian of `"naclip"`


def encode_images(
    clip: DualEncoder,
    config: TaiDptConfig,
    pixel_values: torch.Tensor,
    interpolate_pos_encoding: bool = False,
    flip: bool | None = None,
    multi_crop: bool | str | None = None,
    record: Record | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodes images in the views that a call asks for, else those of the configuration.

    Args:
        clip (`CLIPModel` or another dual encoder): the frozen CLIP.
        config ([`TaiDptConfig`]): views, dense features and sizes.
        pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): normalised pixels.
        interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): lets images have another size.
        flip (`bool`, *optional*): averages with the mirror image.
        multi_crop (`bool` or `str`, *optional*): averages over windows, or `"max"`, see [`encode_tiles`].
        record ([`Record`], *optional*): keeps what the layers of the tower give.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: as of [`TaiDptModel.encode_images`].

    Raises:
        ValueError: the size does not fit.
    """
    flip = config.flip if flip is None else flip
    multi_crop = config.multi_crop if multi_crop is None else multi_crop
    # windows of the tower's own size are left as they are
    options = (interpolate_pos_encoding or bool(multi_crop), config.pool_with_positions, config.dense_features)

    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        graph = usable_graph(clip, pixels, config.image_size, options[0], record)
        if graph is not None:
            features = graph.run(FEATURES, pixels.numpy(), torch.get_num_threads())
            return torch.from_numpy(features[0]), torch.from_numpy(features[1])  # normalised in the graph
        pooled, dense = image_features(clip, pixels, *options, record)
        return normalize(pooled), normalize(dense)  # (batch, dim), (batch, height, width, dim)

    pixel_values = pixel_values.to(compute_dtype(clip))  # (batch, 3, height, width)
    if multi_crop == TILES:
        return encode_tiles(encode, pixel_values, config.image_size, config.patch_size, flip)
    window = config.image_size if multi_crop else None
    return encode_views(encode, pixel_values, window, config.patch_size, flip)


def usable_graph(
    clip: DualEncoder, pixels: torch.Tensor, size: int, any_size: bool, record: Record | None = None
) -> ImageGraph | None:
    """The graph that a CLIP runs its image tower by, see [`~TaiDptModel.use_backend`], where it serves these pixels.

    Args:
        clip (`CLIPModel` or another dual encoder): the CLIP.
        pixels (`torch.Tensor` of shape `(batch, 3, height, width)`): normalised pixels.
        size (`int`): the tower's own.
        any_size (`bool`): whether the images may have another one.
        record ([`Record`], *optional*): wants what the layers give, which a graph does not.

    Returns:
        [`ImageGraph`]: `None` where PyTorch is to run the tower: without a graph, for gradients, on another device or
        in another precision, for sizes that the graph does not take, and while a model is exported.
    """
    graph: ImageGraph | None = getattr(clip, "image_graph", None)
    if graph is None or record or pixels.device.type != "cpu" or pixels.dtype != torch.float32:
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not graph.fits(pixels.shape):
        return None
    if torch.is_grad_enabled() and (pixels.requires_grad or any(p.requires_grad for p in clip.parameters())):
        return None
    return graph if any_size or tuple(pixels.shape[-2:]) == (size, size) else None


def image_features(
    clip: DualEncoder,
    pixel_values: torch.Tensor,
    interpolate_pos_encoding: bool = False,
    with_positions: bool = False,
    dense_features: str = "value",
    record: Record | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodes images once into both of their features.

    Args:
        clip (`CLIPModel`, [`CLIPResNetModel`] or another one of `backbones.MODEL_CLASSES`): the frozen CLIP.
        pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): normalised pixels.
        interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): lets the image have another size than the
            positional embedding was made for.
        with_positions (`bool`, *optional*, defaults to `False`): whether the attention pool of a convolutional tower
            adds its positional embedding to the pooled feature.
        dense_features (`str`, *optional*, defaults to `"value"`): what is done to the last block, see above.
        record ([`Record`], *optional*): keeps what the layers of the tower give.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: pooled `(batch, dim)` and dense `(batch, height, width, dim)` features in
        the joint space, not normalised; height and width in cells.

    Raises:
        ValueError: the tower has no such dense features.
    """
    check_dense_features(clip.config.model_type, dense_features)
    record = Record() if record is None else record
    if isinstance(clip, CLIPResNetModel):
        tower = clip.vision_model
        if pixel_values.device.type == "cpu":  # convolutions of a CPU are quicker with the channels last
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)  # (batch, 3, height, width)
        cells = tower.encode_cells(pixel_values, record)  # (batch, channels, height / 32, width / 32)
        pooled = tower.attention_pool(cells, with_positions, interpolate_pos_encoding)  # (batch, dim)
        return pooled, _pool_features(tower.attention_pool, cells, dense_features)
    side = image_side(clip)
    hidden = side.embed(pixel_values, interpolate_pos_encoding)  # (batch, prefix + patches, width)
    *first, last = side.layers
    with record.of_layers(side.layers):
        for layer in first:
            hidden = layer(hidden, None)  # (batch, prefix + patches, width)
        block = side.parts(last)
        normed = block.norm(hidden)  # (batch, prefix + patches, width)
        value = block.value(normed)  # (batch, prefix + patches, width)
        # with a class token the block's other outputs are of no use: 7 % of a ViT-B's work
        alone = side.prefix_tokens and not record
        output = _class_token(block, hidden, normed, value) if alone else last(hidden, None)
    pooled = side.pool(output)  # (batch, dim)
    grid = tuple(length // side.patch_size for length in pixel_values.shape[-2:])  # height, width in cells
    changed = _changed_block(block, hidden, normed, value, grid, side.prefix_tokens, dense_features)
    dense = side.project(changed)  # (batch, patches, dim)
    return pooled, dense.unflatten(1, grid)  # (batch, dim), (batch, height, width, dim)


def _class_token(block: Block, hidden: torch.Tensor, normed: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The last block as it is, for the class token alone: `(batch, tokens, width)` thrice to `(batch, 1, width)`."""
    heads = (block.query(normed[:, :1]), block.key(normed), value)  # (batch, 1 or tokens, width) each
    attended = nn.functional.scaled_dot_product_attention(
        *(_split_heads(states, block.num_heads) for states in heads)
    )  # (batch, heads, 1, head_dim)
    token = hidden[:, :1] + block.out(attended.transpose(1, 2).flatten(2))  # (batch, 1, width)
    return token + block.feed(token)  # (batch, 1, width)


def _changed_block(
    block: Block,
    hidden: torch.Tensor,
    normed: torch.Tensor,
    value: torch.Tensor,
    grid: tuple[int, ...],
    prefix: int,
    option: str,
) -> torch.Tensor:
    """The changed last block: `(batch, prefix + patches, width)` thrice to the patches `(batch, patches, width)`."""
    if option not in WITHOUT_ATTENTION:
        heads = (block.query(normed), block.key(normed), value)  # (batch, prefix + patches, width) each
        value = _self_attention(*heads, block.num_heads, grid, prefix, option)
    patches = block.out(value[:, prefix:])  # (batch, patches, width)
    if option in WITH_RESIDUAL:
        patches = hidden[:, prefix:] + patches  # (batch, patches, width)
        patches = patches + block.feed(patches)  # (batch, patches, width)
    return patches


def _split_heads(states: torch.Tensor, num_heads: int) -> torch.Tensor:
    """`(batch, tokens, width)` to `(batch, heads, tokens, head_dim)`."""
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _pool_features(pool: AttentionPool, cells: torch.Tensor, option: str) -> torch.Tensor:
    """Cells `(batch, channels, height, width)` through an attention pool to `(batch, height, width, dim)`."""
    if option == "value":
        return pool.dense(cells)  # (batch, height, width, dim)
    grid, tokens = tuple(cells.shape[-2:]), cells.flatten(2).transpose(1, 2)  # (batch, cells, channels)
    heads = (pool.q_proj(tokens), pool.k_proj(tokens), pool.v_proj(tokens))  # (batch, cells, pool width) each
    attended = _self_attention(*heads, pool.num_heads, grid, 0, option)  # (batch, cells, pool width)
    return pool.c_proj(attended).unflatten(1, grid)  # (batch, height, width, dim)


def _self_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    num_heads: int,
    grid: tuple[int, ...],
    prefix: int,
    option: str,
) -> torch.Tensor:
    """Attention of queries to queries, keys to keys, or both: `(batch, tokens, width)` thrice to the same shape."""
    query, key, value = (_split_heads(states, num_heads) for states in (query, key, value))
    attend = nn.functional.scaled_dot_product_attention  # scales by head_dim ** -0.5, as the towers do
    if option == "naclip":
        near = neighborhood(grid, prefix).to(key)  # (tokens, tokens)
        attended = attend(key, key, value, attn_mask=near)  # (batch, heads, tokens, head_dim)
    else:
        attended = attend(query, query, value)  # (batch, heads, tokens, head_dim)
        if option == "sclip":
            attended = attended + attend(key, key, value)  # (batch, heads, tokens, head_dim)
    return attended.transpose(1, 2).flatten(2)  # (batch, tokens, width)


def neighborhood(grid: tuple[int, ...], prefix: int = 0, std: float = NEIGHBORHOOD_STD) -> torch.Tensor:
    """What `"naclip"` adds to the attention scores: `exp(-distance^2 / (2 std^2))` between cells.

    Args:
        grid (`tuple[int, int]`): height and width in cells.
        prefix (`int`, *optional*, defaults to 0): tokens before the cells, to and from which nothing is added.
        std (`float`, *optional*, defaults to 5.0): standard deviation in cells, the paper's.

    Returns:
        `torch.Tensor` of shape `(prefix + cells, prefix + cells)`, fp32.
    """
    height, width = grid
    axes = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")  # (height, width) each
    points = torch.stack(axes, dim=-1).flatten(0, 1).float()  # (cells, 2)
    squares = (points[:, None] - points[None]).square().sum(dim=-1)  # (cells, cells)
    near = torch.exp(-squares / (2 * std**2))  # (cells, cells)
    return nn.functional.pad(near, (prefix, 0, prefix, 0))  # (prefix + cells, prefix + cells)


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
        ValueError: with a window, a side of the image is not a multiple of the cell.
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
    corners = [(top, left) for top in _starts(height, window, cell) for left in _starts(width, window, cell)]
    for top, left in corners:
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
    return normalize(pooled_sum / len(corners)), normalize(dense_sum / seen)


def encode_tiles(
    encode: Encode, pixel_values: torch.Tensor, size: int, cell: int, flip: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodes the whole of images and 3 x 3 tiles of half their sides, each resized to the tower's own size.

    Args:
        encode (`Callable`): as in [`encode_views`].
        pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): normalised pixels; at twice the tower's
            size the tiles are seen as they are.
        size (`int`): shorter side in pixels that the tower sees of each view.
        cell (`int`): side in pixels of a cell.
        flip (`bool`): whether every view is also seen mirrored.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: pooled `(batch, 10, dim)` and dense `(batch, 10, rows, columns, dim)`
        features, the whole image first, then the tiles row by row.
    """
    if flip:
        encode = _with_mirror_image(encode)
    sides = tuple(pixel_values.shape[-2:])  # height, width
    seen = seen_sides(sides, size, cell)
    tile = [max(1, side // 2) for side in sides]
    starts = [
        [round(step * (side - length) / (TILES_PER_SIDE - 1)) for step in range(TILES_PER_SIDE)]
        for side, length in zip(sides, tile, strict=True)
    ]
    views = [pixel_values]
    views += [pixel_values[..., top : top + tile[0], left : left + tile[1]] for top in starts[0] for left in starts[1]]
    features = [encode(resized(view, seen)) for view in views]  # ten pairs
    pooled, dense = zip(*features, strict=True)
    return torch.stack(pooled, dim=1), torch.stack(dense, dim=1)


def seen_sides(sides: Sequence[int], size: int, cell: int) -> list[int]:
    """Height and width at which a tower sees an image whole: the shorter one is its own size, in whole cells."""
    return [max(1, round(side * size / min(sides) / cell)) * cell for side in sides]


def resized(pixels: torch.Tensor, sides: list[int]) -> torch.Tensor:
    """Pixels `(batch, 3, *, *)` as `(batch, 3, *sides)`: means of areas where they shrink, bilinear where not."""
    if list(pixels.shape[-2:]) == sides:
        return pixels
    if all(before >= after for before, after in zip(pixels.shape[-2:], sides, strict=True)):
        return nn.functional.interpolate(pixels, size=sides, mode="area")
    return nn.functional.interpolate(pixels, size=sides, mode="bilinear", align_corners=False)


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


__all__ = [
    "TILES",
    "encode_images",
    "encode_tiles",
    "encode_views",
    "image_features",
    "neighborhood",
    "resized",
    "seen_sides",
    "usable_graph",
]
