"""Heatmaps of the pipeline, other sizes and views: each against a plain computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_taidpt.pipelines import TASK, MultiLabelImageClassificationPipeline
from modeling_taidpt.pipelines.heatmaps import cell_shares

from .conftest import LABELS, SIDE, make_processor, picture, plain_outputs


def slow_heatmap(cells, width, height, resized, crop):
    """Bilinear, pixel by pixel: the centre of each pixel goes to the crop, and there between the nearest cells."""
    rows, columns = cells.shape
    heatmap = np.full((height, width), np.nan)
    for y in range(height):
        for x in range(width):
            v = (y + 0.5) * resized[0] / height - (resized[0] - crop[0]) // 2
            u = (x + 0.5) * resized[1] / width - (resized[1] - crop[1]) // 2
            if not (0 <= v < crop[0] and 0 <= u < crop[1]):
                continue
            v = min(max(v * rows / crop[0] - 0.5, 0), rows - 1)
            u = min(max(u * columns / crop[1] - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            above = cells[top, left] * (1 - (u - left)) + cells[top, right] * (u - left)
            below = cells[bottom, left] * (1 - (u - left)) + cells[bottom, right] * (u - left)
            heatmap[y, x] = above * (1 - (v - top)) + below * (v - top)
    return heatmap


def slow_shares(cosines):
    """Cell by cell: exp(50 s) of the label over its sum with that of the label's mean plus standard deviation."""
    cosines = np.asarray(cosines, dtype=np.float64)  # (labels, rows, columns)
    ordinary = [label.mean() + label.std() for label in cosines]
    shares = np.zeros_like(cosines)
    for label, row, column in np.ndindex(cosines.shape):
        shares[label, row, column] = 1 / (1 + np.exp(50 * (ordinary[label] - cosines[label, row, column])))
    return shares


def slow_mean(coarse, fine):
    """Mean of cosines at two sizes, the coarser ones read bilinearly at the centers of the finer cells."""
    rows, columns = fine.shape[1:]
    read = [slow_heatmap(label, columns, rows, (rows, columns), (rows, columns)) for label in coarse.numpy()]
    return (np.stack(read) + fine.numpy()) / 2


@pytest.mark.parametrize("labels", [1, 2, 7])
def test_cells_are_shared_with_what_is_ordinary(labels):
    cosines = torch.rand(2, labels, 3, 4, generator=torch.Generator().manual_seed(labels)) - 0.5
    shares = cell_shares(cosines)
    np.testing.assert_allclose(shares, np.stack([slow_shares(image) for image in cosines]), rtol=1e-4)
    assert (shares.amax(dim=(2, 3)) > 5 * shares.amin(dim=(2, 3))).all()  # no label is flat, not even one alone
    torch.testing.assert_close(cell_shares(cosines[:, :1]), shares[:, :1])  # the others do not matter
    half = cell_shares(cosines.half())
    assert half.dtype == torch.float32 and half.isfinite().all()
    flat = cell_shares(torch.full((labels, 2, 2), 0.3))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5))


def test_labels_of_the_same_cells_do_not_hide_another():
    """Where each label is at home its map is high, however the cosines of the labels differ in level."""
    cosines = torch.full((3, 4, 4), 0.1) + torch.tensor([0.0, 0.15, -0.2])[:, None, None]
    for label, cell in enumerate([(0, 0), (3, 3), (0, 3)]):
        cosines[label][cell] += 0.4
    for share, cell in zip(cell_shares(cosines), [(0, 0), (3, 3), (0, 3)], strict=True):
        assert np.unravel_index(int(share.argmax()), (4, 4)) == cell and share[cell] > 0.9


@pytest.mark.parametrize(
    ("width", "height", "settings", "resized"),
    [
        (75, 50, {}, (32, 48)),
        (41, 97, {}, (75, 32)),
        (20, 13, {}, (32, 49)),
        (53, 40, {"size": {"height": 40, "width": 36}}, (40, 36)),
        (53, 40, {"size": {"height": 32, "width": 32}, "do_center_crop": False}, (32, 32)),
        (50, 37, {"do_resize": False}, (37, 50)),
        (27, 45, {"do_resize": False}, (45, 27)),  # narrower than the crop: padded with an odd number of columns
    ],
)
def test_heatmap_against_a_plain_computation(model, tmp_path, width, height, settings, resized):
    """The model sees what it scores at twice the size, where the processor resizes at all."""
    processor = make_processor(tmp_path, **settings)
    pipe = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    image = picture(width, height)
    larger, factor, crop = {}, 1, (SIDE, SIDE)
    larger_sizes = {(41, 97): (151, 64), (20, 13): (64, 98)}  # rounded down
    if settings.get("do_resize", True):
        factor, crop = 2, (2 * SIDE, 2 * SIDE)
        size = settings.get("size", {"shortest_edge": SIDE})
        larger = {"size": {name: 2 * side for name, side in size.items()}}
        larger["crop_size"] = {"height": 2 * SIDE, "width": 2 * SIDE}
        resized = larger_sizes.get((width, height), tuple(2 * side for side in resized))
    pixels = processor(images=image, return_tensors="pt", **larger)["pixel_values"]
    assert tuple(pixels.shape[2:]) == crop
    scored = plain_outputs(model, processor, image)
    with torch.no_grad():
        cosines = model(pixel_values=pixels, interpolate_pos_encoding=True).similarity_map[0]
    assert cosines.shape == (len(LABELS), 4 * factor, 4 * factor)
    cells = slow_shares(slow_mean(scored.similarity_map[0], cosines))
    logits = scored.logits[0]
    results = pipe(image, return_heatmaps=True, top_k=3)
    assert len(results) == 3
    for result in results:
        index = LABELS.index(result["label"])
        assert result["score"] == pytest.approx(float(torch.sigmoid(logits[index])), abs=1e-5)  # as without heatmaps
        expected = slow_heatmap(cells[index], width, height, resized, crop)
        assert result["heatmap"].dtype == np.float32 and result["heatmap"].shape == (height, width)
        np.testing.assert_allclose(result["heatmap"], expected, atol=1e-5)  # NaN in the same places


SQUARE = {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False}


@pytest.mark.parametrize(
    ("width", "height", "options", "settings", "resized", "seen"),
    [
        (75, 50, {"center_crop": False}, {}, (32, 48), (32, 48)),
        (75, 50, {"image_size": 47, "center_crop": False}, {}, (48, 72), (48, 72)),
        (41, 97, {"image_size": 48}, {}, (113, 48), (48, 48)),
        (53, 40, {"center_crop": True, "image_size": 40}, {"do_center_crop": False}, (40, 53), (40, 40)),
        (
            53,
            40,
            {"image_size": 48},
            {"size": {"height": 32, "width": 32}, "do_center_crop": False},
            (48, 48),
            (48, 48),
        ),
        (75, 50, {"center_crop": False}, SQUARE, (32, 48), (32, 48)),  # SigLIP's squeezes images into a square
        (75, 50, {"image_size": 48, "center_crop": False, "multi_crop": True, "flip": True}, {}, (48, 72), (48, 72)),
    ],
)
def test_other_sizes_and_views(model, tmp_path, width, height, options, settings, resized, seen):
    processor, image = make_processor(tmp_path, **settings), picture(width, height)
    size = dict(zip(("height", "width"), resized, strict=True))
    crop = {"do_center_crop": seen != resized, "crop_size": dict(zip(("height", "width"), seen, strict=True))}
    pixels = processor(images=image, return_tensors="pt", size=size, **crop)["pixel_values"]
    assert tuple(pixels.shape[2:]) == seen
    views = {name: options[name] for name in ("flip", "multi_crop") if name in options}
    with torch.no_grad():
        outputs = model(pixel_values=pixels, interpolate_pos_encoding=True, **views)
        cosines, window = outputs.similarity_map[0], (resized, seen)
        if "image_size" not in options:  # the whole image, at twice the size
            larger = {name: 2 * side for name, side in size.items()}
            pixels = processor(images=image, return_tensors="pt", size=larger, do_center_crop=False)["pixel_values"]
            shown = model(pixel_values=pixels, interpolate_pos_encoding=True, **views)
            cosines = slow_mean(cosines, shown.similarity_map[0])
            window = (tuple(pixels.shape[2:]),) * 2
    shares = slow_shares(cosines)
    pipe = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    results = pipe([image, picture()], return_heatmaps=True, batch_size=2, **options)[0]
    for result in results:
        index = LABELS.index(result["label"])
        assert result["score"] == pytest.approx(float(torch.sigmoid(outputs.logits[0, index])), abs=1e-5)
        expected = slow_heatmap(shares[index], width, height, *window)
        np.testing.assert_allclose(result["heatmap"], expected, atol=1e-5)


@pytest.mark.parametrize("width, height", [(91, 60), (60, 91), (40, 40), (200, 37), (33, 120), (21, 30)])
@pytest.mark.parametrize("settings", [{}, {"size": {"shortest_edge": 41}}, {"size": {"height": 40, "width": 51}}])
def test_the_window_is_where_the_processor_looks(tmp_path, width, height, settings):
    """An image whose values are its coordinates shows where each pixel of the crop came from."""
    from modeling_taidpt.pipelines.heatmaps import crop_window, resized_size

    processor = make_processor(tmp_path, do_rescale=False, do_normalize=False, resample=2, **settings)
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = Image.fromarray(np.stack([rows, columns, rows], axis=-1))
    seen = processor(images=image, return_tensors="pt")["pixel_values"][0].numpy()  # (3, 32, 32)
    resized = resized_size(processor, height, width)
    for channel, axis in enumerate(crop_window(processor, (height, width), resized, (SIDE, SIDE))):
        places = (np.arange(SIDE) + 0.5 + axis.offset) * axis.original / axis.resized - 0.5
        found = seen[channel].mean(axis=1 - channel)
        inner = (places > 1) & (places < axis.original - 2)  # borders are smoothed
        assert inner.sum() > SIDE // 2
        np.testing.assert_allclose(found[inner], places[inner], atol=0.6)


def test_heatmaps_only_on_demand(pipe, model, monkeypatch):
    assert "heatmap" not in pipe(picture())[0]
    kept = []
    original = MultiLabelImageClassificationPipeline._forward

    def watch(self, *args, **kwargs):
        kept.append(set(original(self, *args, **kwargs)))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MultiLabelImageClassificationPipeline, "_forward", watch)
    pipe([picture()] * 2, batch_size=2)
    assert kept == [{"logits"}]  # the similarity map is let go with the batch


def test_heatmap_of_a_processor_that_cannot_be_followed(model, processor):
    class Flipping(type(processor)):
        def center_crop(self, image, size, **kwargs):
            return image[:, :SIDE, :SIDE]

    strange = Flipping(**{**processor.to_dict(), "crop_size": {"height": 24, "width": 24}})
    pipe = pipeline(TASK, model=model, image_processor=strange, device="cpu")
    assert len(pipe(picture())) == len(LABELS)
    with pytest.raises(ValueError, match="Heatmaps cannot be placed"):
        pipe(picture(), return_heatmaps=True)


@pytest.mark.parametrize(
    "views", [{"multi_crop": "max"}, {"second_look": True}, {"multi_crop": "max", "second_look": True}]
)
def test_parts_score_and_the_whole_image_is_drawn(model, processor, views):
    image = picture(75, 50)
    pipe = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    results = pipe([image, picture()], return_heatmaps="cells", batch_size=2, **views)[0]
    square = {"height": 2 * SIDE, "width": 2 * SIDE}
    seen = {"size": square, "do_center_crop": False}  # tiles are of the whole image, boxes of what is scored
    if "multi_crop" not in views:
        seen = {"size": {"shortest_edge": 2 * SIDE}, "crop_size": square}
    pixels = processor(images=image, return_tensors="pt", **seen)["pixel_values"]
    with torch.no_grad():
        scored = model(pixel_values=pixels, interpolate_pos_encoding=True, **views)
        whole = model(pixel_values=pixels, interpolate_pos_encoding=True)
    shares = slow_shares(slow_mean(scored.similarity_map[0], whole.similarity_map[0]))
    for result in results:
        index = LABELS.index(result["label"])
        assert result["score"] == pytest.approx(float(torch.sigmoid(scored.logits[0, index])), abs=1e-5)
        np.testing.assert_allclose(result["heatmap"], shares[index], atol=1e-5)


def test_a_map_of_an_image_that_is_too_long_to_enlarge_is_that_of_its_scores(pipe, model, processor, monkeypatch):
    image = picture(75, 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 75 * 50)  # 64 x 96 are more
    results = pipe([image, picture(33, 33)], return_heatmaps="cells", batch_size=2)
    shares = slow_shares(plain_outputs(model, processor, image).similarity_map[0])
    for result in results[0]:
        np.testing.assert_allclose(result["heatmap"], shares[LABELS.index(result["label"])], atol=1e-5)
    assert {result["heatmap"].shape for result in results[1]} == {(4, 4)}
