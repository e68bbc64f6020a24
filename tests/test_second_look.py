"""The second look against TagCLIP's class-wise re-identification written out, and images that have no box."""

from __future__ import annotations

import pytest
import torch

from modeling_taidpt import TaiDptModel
from modeling_taidpt.second_look import find_boxes

from .conftest import make_clip

LABELS = ["dog", "cat", "traffic light", "zebra", "boat"]


@pytest.fixture
def model(tokenizer):
    return TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=2, class_specific_context=True)


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def area_means(pixels, size):
    """Each pixel of the smaller image is the mean of those that it covers."""
    step = pixels.shape[-1] // size
    return torch.stack([pixels[:, i::step, j::step] for i in range(step) for j in range(step)]).mean(dim=0)


def by_hand(model, image, tiles=False):
    """One image `(3, 64, 64)` as in TagCLIP's `cwr`, with loops; boxes end where the image does."""
    whole = model(pixel_values=area_means(image, 32)[None])
    first = model(pixel_values=image[None], multi_crop="max") if tiles else whole
    scores, looks = first.logits[0].clone(), set()
    old = first.logits[0]
    posterior = (model.clip.logit_scale.exp() * whole.similarity_map[0]).softmax(dim=0)  # (classes, rows, columns)
    largest = posterior.flatten(1).max(dim=1).values
    bar = posterior.min() + 0.5 * (posterior.max() - posterior.min())
    for label in range(len(old)):
        if not largest[label] > bar:
            continue
        cells = posterior[label]
        scaled = (cells - cells.min()) / (cells - cells.min()).max()
        rows = [i for i in range(4) if any(scaled[i, j] > 0.5 for j in range(4))]
        columns = [j for j in range(4) if any(scaled[i, j] > 0.5 for i in range(4))]
        box = (rows[0] * 16, (rows[-1] + 1) * 16, columns[0] * 16, (columns[-1] + 1) * 16)
        crop = image[None, :, box[0] : box[1], box[2] : box[3]]
        mode = {"mode": "area"} if min(crop.shape[-2:]) >= 32 else {"mode": "bilinear", "align_corners": False}
        again = model(pixel_values=torch.nn.functional.interpolate(crop, (32, 32), **mode)).logits[0]
        scores[label] = 0.5 * whole.logits[0][label] + 0.5 * again[label]
        if tiles:  # the box is one more tile of its label
            scores[label] = max(scores[label], old[label])
        looks.add(box)
    return scores, looks


@pytest.mark.parametrize("tiles", [False, True])
@torch.no_grad()
def test_it_equals_the_published_steps_written_out(model, images, tiles):
    views = {"multi_crop": "max"} if tiles else {}
    outputs = model(pixel_values=images, second_look=True, **views)
    plain = model(pixel_values=images, interpolate_pos_encoding=True, **views)
    written = [by_hand(model, image, tiles) for image in images]
    torch.testing.assert_close(outputs.logits, torch.stack([scores for scores, _ in written]))
    assert sum(len(looks) for _, looks in written) > 3  # several labels were looked at again
    if not tiles:  # the largest over tiles is taken in each branch alone
        torch.testing.assert_close(outputs.logits, 0.5 * outputs.logits_global + 0.5 * outputs.logits_local)
    assert outputs.similarity_map.shape == (3, 5, 4, 4)
    assert not torch.allclose(outputs.logits, plain.logits)


@torch.no_grad()
def test_an_image_scores_the_same_alone_and_again(model, images):
    together = model(pixel_values=images, second_look=True).logits
    alone = torch.cat([model(pixel_values=image[None], second_look=True).logits for image in images])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together, model(pixel_values=images, second_look=True).logits, rtol=0, atol=0)


def test_boxes_enclose_the_cells_above_half_of_the_range_of_the_label():
    maps = torch.full((1, 3, 3, 4), 0.1)
    maps[0, 0, 1, 2], maps[0, 0, 2, 3], maps[0, 0, 0, 0] = 0.8, 0.5, 0.44  # 0.45 is half of the range of the label
    maps[0, 1, 1, 3] = 0.2  # far below half of the range of the image
    maps[0, 2, 2, 0] = 0.75  # a corner
    rest = torch.full((1, 1, 3, 4), 1.0) - maps.sum(dim=1, keepdim=True)  # of a label that is everywhere a little
    boxes = find_boxes(torch.cat([maps, rest], dim=1).log() / 7, 7.0)
    assert boxes.tolist()[:2] == [[0, 0, 1, 3, 2, 4], [0, 2, 2, 3, 0, 1]]


def test_the_range_of_the_image_is_that_of_its_cells_and_labels():
    """As published: of two labels that are sure of different cells both are looked at again."""
    first = torch.tensor([[0.9, 0.45], [0.45, 0.45]])
    maps = torch.stack([first, 1 - first])[None]  # (1, 2, 2, 2), from 0.1 to 0.9
    assert find_boxes(maps.log(), 1.0).tolist() == [[0, 0, 0, 1, 0, 1], [0, 1, 0, 2, 0, 2]]


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_cells_that_say_nothing_have_no_box(odd):
    maps = torch.rand(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    maps[0] = 0.5  # all labels are the same everywhere
    maps[1, 0, 1, 1] = odd
    maps[2, 0], maps[2, 1] = 0.9, 0.1  # no cell is above the others
    assert find_boxes(maps, 10.0).shape == (0, 6)


def test_one_label_has_no_range(model, images):
    one = model.with_labels(["dog"])
    with torch.no_grad():
        outputs = one(pixel_values=images, second_look=True)
        small = torch.nn.functional.interpolate(images, (32, 32), mode="area")
        torch.testing.assert_close(outputs.logits, one(pixel_values=small).logits)


def test_it_needs_pixels(model, images):
    pooled, dense = model.encode_images(images[..., :32, :32])
    with pytest.raises(ValueError, match="`second_look` cuts parts from images: give `pixel_values`"):
        model(image_embeds=pooled, dense_embeds=dense, second_look=True)
