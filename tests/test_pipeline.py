"""The pipeline: scores, order and choice of labels, every kind of image, heatmaps, and what it says when it cannot."""

from __future__ import annotations

import base64
import http.server
import io
import json
import logging
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from transformers import AutoImageProcessor, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils import logging as transformers_logging

import modeling_taidpt
from modeling_taidpt import TaiDptModel
from modeling_taidpt.pipelines import TASK, MultiLabelImageClassificationPipeline, register

from .conftest import make_clip

LABELS = ["dog", "traffic light", "cat", "boat", "person"]
SIDE = 32  # of the images that the tiny CLIP takes
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}

register(modeling_taidpt.DEFAULT_CHECKPOINT)  # does nothing where importing the package has done it


def make_processor(folder: Path, **settings):
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | settings))
    return AutoImageProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return make_processor(tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="module")
def model():
    """A learned model with a shared context, and logits that differ clearly between labels."""
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=4, logit_scale=6.0)
    torch.manual_seed(1)
    with torch.no_grad():
        for context in model.prompt_learner.parameters():
            context.add_(torch.randn_like(context) * 0.05)
    return model


@pytest.fixture
def restored(model):
    """The model, whose configuration a test may change."""
    saved = {name: getattr(model.config, name) for name in ("score_scale", "score_bias", "label_origin")}
    yield model
    for name, value in saved.items():
        setattr(model.config, name, value)


@pytest.fixture(scope="module")
def pipe(model, processor, tokenizer):
    return pipeline(TASK, model=model, image_processor=processor, tokenizer=tokenizer, device="cpu")


def picture(width=48, height=36, seed=0) -> Image.Image:
    """A smooth colourful image, other for every seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain_outputs(model, processor, image):
    with torch.no_grad():
        return model(pixel_values=processor(images=image, return_tensors="pt")["pixel_values"])


def assert_same(left, right, tolerance=1e-5):
    """Equal lists of labels; labels whose scores are within the tolerance may stand in any order."""
    scores = {entry["label"]: entry for entry in right}
    assert len(left) == len(right) and {entry["label"] for entry in left} == set(scores)
    for entry in left:
        other = scores[entry["label"]]
        assert entry["score"] == pytest.approx(other["score"], abs=tolerance)
        if "heatmap" in entry:
            np.testing.assert_allclose(entry["heatmap"], other["heatmap"], atol=tolerance)


# ---------------------------------------------------------------- scores and options


def test_every_label_by_falling_score(pipe, model, processor):
    result = pipe(picture())
    logits = plain_outputs(model, processor, picture()).logits[0].double()
    expected = sorted(zip(torch.sigmoid(logits).tolist(), LABELS, strict=True), reverse=True)
    assert [entry["label"] for entry in result] == [label for _, label in expected]
    assert [entry["score"] for entry in result] == pytest.approx([score for score, _ in expected], abs=1e-6)
    assert all(set(entry) == {"label", "score"} and type(entry["score"]) is float for entry in result)


@pytest.mark.parametrize(("scale", "bias"), [(2.5, -0.75), ([0.5, 1.0, 2.0, 3.0, -1.0], [0.1, -0.2, 0.3, -0.4, 2.0])])
def test_scores_follow_scale_and_bias(pipe, restored, processor, scale, bias):
    restored.config.score_scale, restored.config.score_bias = scale, bias
    logits = plain_outputs(restored, processor, picture()).logits[0].double().numpy()
    expected = dict(zip(LABELS, 1 / (1 + np.exp(-(np.array(scale) * logits + np.array(bias)))), strict=True))
    result = pipe(picture())
    assert {entry["label"]: entry["score"] for entry in result} == pytest.approx(expected, abs=1e-6)
    scores = [entry["score"] for entry in result]
    assert scores == sorted(scores, reverse=True)


def test_extreme_logits_stay_in_range_and_ties_keep_the_order_of_labels(pipe, restored):
    restored.config.score_scale, restored.config.score_bias = 0.0, [1e4, -1e4, 0.0, 1e4, 0.0]
    result = pipe(picture())
    assert [(entry["label"], entry["score"]) for entry in result] == [
        ("dog", 1.0),
        ("boat", 1.0),
        ("cat", 0.5),
        ("person", 0.5),
        ("traffic light", 0.0),
    ]


def test_threshold_is_inclusive_and_comes_before_top_k(pipe):
    everything = pipe(picture())
    third = everything[2]["score"]
    assert pipe(picture(), threshold=third) == everything[:3]
    assert pipe(picture(), threshold=math.nextafter(third, 1)) == everything[:2]
    assert pipe(picture(), threshold=third, top_k=2) == everything[:2]
    assert pipe(picture(), threshold=third, top_k=5) == everything[:3]
    assert pipe(picture(), top_k=1) == everything[:1]
    assert pipe(picture(), top_k=100) == everything
    assert pipe(picture(), threshold=1.0) == []
    assert pipe(picture(), threshold=0) == everything


def test_options_given_to_the_constructor_are_defaults(model, processor):
    pipe = pipeline(TASK, model=model, image_processor=processor, top_k=2, device="cpu")
    assert len(pipe(picture())) == 2
    assert len(pipe(picture(), top_k=3)) == 3


@pytest.mark.parametrize(
    ("option", "value"),
    [("top_k", 0), ("top_k", -1), ("top_k", 2.5), ("top_k", True), ("top_k", "3")]
    + [("threshold", value) for value in (-0.1, 1.1, float("nan"), "0.5", True)]
    + [("image_size", value) for value in (0, 2.5, True)]
    + [("candidate_labels", value) for value in ("", " , ", [], ["dog", ""], ["dog", 3])],
)
def test_wrong_options_are_named(pipe, option, value):
    with pytest.raises(ValueError, match=f"`{option}`"):
        pipe(picture(), **{option: value})


# ---------------------------------------------------------------- kinds of input


class _Images(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved.png":
            self.send_response(302)
            self.send_header("Location", "/image.png")
            self.end_headers()
            return
        body = {"/image.png": encoded(picture()), "/page.html": b"<html>no image</html>"}.get(self.path)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Images) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_all_kinds_of_one_image_give_the_same(pipe, tmp_path, server):
    path = tmp_path / "image.png"
    path.write_bytes(encoded(picture()))
    text = base64.b64encode(path.read_bytes()).decode()
    array = np.asarray(picture())
    expected = pipe(picture())
    kinds = [str(path), path, path.read_bytes(), bytearray(path.read_bytes()), text, f"data:image/png;base64,{text}"]
    kinds += [f"{server}/image.png", f"{server}/moved.png", array, array.transpose(2, 0, 1), torch.tensor(array)]
    kinds += [array.astype(np.uint16) * 257, {"bytes": path.read_bytes(), "path": None}, Image.open(path)]
    for kind in kinds:
        assert pipe(kind, timeout=10) == expected


def test_many_images(pipe):
    datasets = pytest.importorskip("datasets")
    images = [picture(40 + 8 * seed, 50, seed) for seed in range(3)]
    expected = [pipe(image) for image in images]
    assert expected[0] != expected[1]
    assert pipe(images) == expected
    assert pipe(tuple(images)) == expected
    assert pipe([images[0]]) == expected[:1]
    assert pipe([]) == []
    stream = pipe(image for image in images)
    assert not isinstance(stream, list) and list(stream) == expected
    assert list(pipe(iter(images))) == expected
    dataset = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
    assert list(pipe(KeyDataset(dataset, "image"))) == expected
    undecoded = dataset.cast_column("image", datasets.Image(decode=False))
    for left, right in zip(pipe(KeyDataset(undecoded, "image"), batch_size=2), expected, strict=True):
        assert_same(left, right)
    with pytest.raises(ValueError, match="KeyDataset"):
        pipe(dataset)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_equals_its_images(pipe, workers):
    images = [picture(64, 40, 1), picture(33, 70, 2), picture(32, 32, 3), picture(90, 31, 4), picture(64, 40, 5)]
    images = [encoded(image) for image in images]
    single = [pipe(image, return_heatmaps=True) for image in images]
    batched = pipe(images, batch_size=3, num_workers=workers, return_heatmaps=True)
    assert len(batched) == 5
    for left, right in zip(batched, single, strict=True):
        assert_same(left, right)
    for left, right in zip(pipe(images, batch_size=2, num_workers=workers), single, strict=True):
        assert_same(left, right)


def test_images_that_stay_of_different_size_share_a_batch(model, tmp_path):
    """Without resizing and cropping the model sees each size apart, in the right order."""
    processor = make_processor(tmp_path, do_resize=False, do_center_crop=False)
    pipe = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    images = [picture(40, 48, 1), picture(64, 32, 2), picture(40, 48, 3)]
    batched = pipe(images, batch_size=3, return_heatmaps=True)
    for image, left in zip(images, batched, strict=True):
        assert_same(left, pipe(image, return_heatmaps=True))
        assert left[0]["heatmap"].shape == (image.height, image.width)
        assert not np.isnan(left[0]["heatmap"]).any()


def test_bf16(processor):
    model = TaiDptModel.from_clip(make_clip().to(torch.bfloat16), labels=LABELS, num_context_tokens=4)
    pipe = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    plain = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=4)
    plain.prompt_learner.load_state_dict(model.prompt_learner.state_dict())
    expected = pipeline(TASK, model=plain, image_processor=processor, device="cpu")(picture(), return_heatmaps=True)
    result = pipe([picture(), picture(seed=1)], batch_size=2, return_heatmaps=True)[0]
    assert result[0]["heatmap"].dtype == np.float32
    assert_same(result, expected, tolerance=0.05)


# ---------------------------------------------------------------- colours and orientation


def test_pixels_of_unusual_modes(pipe):
    grey = np.linspace(0, 255, 48 * 36).reshape(36, 48).astype(np.uint8)
    expected = pipe(Image.fromarray(grey))
    wide = (grey.astype(np.uint16) * 257).astype("<u2")
    assert pipe(encoded(Image.fromarray(wide))) == expected  # a 16-bit PNG; clipping would make it white
    assert pipe(Image.fromarray(wide.astype(np.int32))) == expected
    assert pipe(Image.fromarray(grey.astype(np.float32) / 255)) == expected
    assert pipe(Image.fromarray(grey).convert("LA")) == expected
    assert pipe(encoded(Image.fromarray(grey).convert("RGBA"))) == expected
    # a CMYK JPEG looks like its RGB twin
    cmyk, twin = encoded(picture().convert("CMYK"), "JPEG", quality=100), encoded(picture(), "JPEG", quality=100)
    assert_same(pipe(cmyk), pipe(twin), tolerance=0.05)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(pipe, mode):
    """What lies under full transparency, here black, does not show."""
    seen, alpha = np.full((36, 48), 128, np.uint8), np.full((36, 48), 255, np.uint8)
    seen[:, :20], alpha[:, :20] = 0, 0
    image = Image.merge("LA", (Image.fromarray(seen), Image.fromarray(alpha)))
    if mode == "RGBA":
        image = image.convert("RGBA")
    elif mode == "P":
        image = Image.fromarray((seen > 0).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 128, 128, 128])
        image.info["transparency"] = 0
    seen[:, :20] = 255
    assert pipe(encoded(image)) == pipe(Image.fromarray(seen))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(pipe, orientation):
    upright = picture(60, 34)
    turns = [None, None, 0, 3, 1, 5, 4, 6, 2]  # the transposition that undoes each orientation
    inverse = {0: 0, 1: 1, 2: 4, 3: 3, 4: 2, 5: 5, 6: 6}
    stored = upright if turns[orientation] is None else upright.transpose(inverse[turns[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = pipe(encoded(stored, exif=exif), return_heatmaps=True)
    expected = pipe(upright, return_heatmaps=True)
    assert result[0]["heatmap"].shape == (34, 60)
    assert_same(result, expected)


# ---------------------------------------------------------------- heatmaps


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
    processor = make_processor(tmp_path, **settings)
    pipe = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    image = picture(width, height)
    cells = plain_outputs(model, processor, image).similarity_map[0].numpy()  # (classes, 4, 4)
    results = pipe(image, return_heatmaps=True, top_k=3)
    assert len(results) == 3
    for result in results:
        expected = slow_heatmap(cells[LABELS.index(result["label"])], width, height, resized, (SIDE, SIDE))
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
    pipe = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    results = pipe([image, picture()], return_heatmaps=True, batch_size=2, **options)[0]
    for result in results:
        index = LABELS.index(result["label"])
        assert result["score"] == pytest.approx(float(torch.sigmoid(outputs.logits[0, index])), abs=1e-5)
        expected = slow_heatmap(outputs.similarity_map[0, index].numpy(), width, height, resized, seen)
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


# ---------------------------------------------------------------- images that cannot be read


def broken_files(folder: Path) -> dict[str, str]:
    """Names of broken files and the reason that the error gives."""
    jpeg = encoded(picture(), "JPEG")
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) * 2 // 3])
    (folder / "text.jpg").write_text("this is a text")
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder").mkdir()
    (folder / "cut.png").write_bytes(encoded(picture())[:200])
    return {
        "cut.jpg": "broken or cut off",
        "text.jpg": "not an image",
        "empty.png": "not an image",
        "cut.png": "broken or cut off",
        "folder": "folder",
        "missing.jpg": "no such file",
    }


def test_broken_files_name_themselves(pipe, tmp_path):
    good = tmp_path / "good.png"
    good.write_bytes(encoded(picture()))
    for name, reason in broken_files(tmp_path).items():
        path = str(tmp_path / name)
        calls = [
            lambda path=path: pipe(path),
            lambda path=path: pipe([str(good), path], batch_size=2),
            lambda path=path: list(pipe(entry for entry in [good, path])),
            lambda path=path: pipe([good, path], num_workers=1),
        ]
        for call in calls if name == "cut.jpg" else calls[:1]:
            with pytest.raises(ValueError) as error:
                call()
            last_line = str(error.value).strip().splitlines()[-1]
            assert last_line.startswith(("cannot read image", "ValueError: cannot read image"))
            assert f"{path!r}: " in last_line and reason in last_line


def test_broken_images_without_a_name_tell_their_kind_and_place(pipe, server):
    jpeg = encoded(picture(), "JPEG")[:-300]
    with pytest.raises(ValueError, match=rf"^cannot read image \({len(jpeg)} bytes\): it is broken"):
        pipe(jpeg)
    with pytest.raises(ValueError, match=r"^cannot read image at index 1 \(\d+ bytes\): it is broken"):
        pipe([encoded(picture()), jpeg])
    with pytest.raises(ValueError, match=r"^cannot read image \(base64 text\): .*no image"):
        pipe("data:image/png;base64,AAAA")
    with pytest.raises(ValueError, match=rf"^cannot read image '{server}/none.jpg': the server answered 404"):
        pipe(f"{server}/none.jpg")
    with pytest.raises(ValueError, match=rf"^cannot read image '{server}/page.html': it is not an image"):
        pipe(f"{server}/page.html")
    with pytest.raises(ValueError, match=r"^cannot read image 'http://127.0.0.1:9/x.jpg': the server gave no answer"):
        pipe("http://127.0.0.1:9/x.jpg", timeout=5)
    for wrong in (3, np.zeros((4, 4, 2), np.uint8), np.zeros((8, 8, 3))):
        with pytest.raises(ValueError, match=r"^cannot read image"):
            pipe(wrong)
    with pytest.raises(ValueError, match="There is no image"):
        pipe(None)


def test_a_broken_image_of_a_dataset_tells_its_place(pipe):
    datasets = pytest.importorskip("datasets")
    entries = [{"bytes": encoded(picture()), "path": None}, {"bytes": b"no image", "path": None}]
    dataset = datasets.Dataset.from_dict({"image": entries}).cast_column("image", datasets.Image())
    results = pipe(KeyDataset(dataset, "image"))
    with pytest.raises(ValueError, match=r"^cannot read image at index 1 "):
        list(results)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_100, 20_000])
def test_decompression_bombs(pipe, tmp_path, side):
    """102 and 400 megapixels: Pillow itself only warns of the first."""
    path = tmp_path / "bomb.png"
    Image.new("1", (side, side)).save(path)
    with pytest.raises(ValueError, match=r"bomb\.png': it has more pixels than the limit of"):
        pipe(path)


def test_a_thread_thin_image_does_not_fill_the_memory(pipe):
    with pytest.raises(ValueError, match="too unequal"):
        pipe(Image.new("RGB", (1, 200_000)))
    assert len(pipe(Image.new("RGB", (1, 200)))) == len(LABELS)


def test_truncation_is_found_whatever_the_length(pipe):
    from modeling_taidpt.pipelines.image_reading import ImageEntry, read_image

    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    for options in ({}, {"progressive": True}):
        jpeg = encoded(picture(), "JPEG", **options)
        for length in range(1, len(jpeg), 7):
            with pytest.raises(ValueError, match="cannot read image"):
                read_image(ImageEntry(jpeg[:length]))


# ---------------------------------------------------------------- other labels


@pytest.fixture
def warned():
    """The warnings of the pipeline, as a list that fills."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = transformers_logging.get_logger("modeling_taidpt.pipelines.multi_label_image_classification")
    previous = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(previous)


def new_pipe(model, processor, tokenizer=None):
    return pipeline(TASK, model=model, image_processor=processor, tokenizer=tokenizer, device="cpu")


def test_candidate_labels_equal_a_model_for_them(model, processor, tokenizer):
    pipe = new_pipe(model, processor, tokenizer)
    wanted = ["zebra", "dog", "hot air balloon"]
    expected = new_pipe(model.with_labels(wanted, tokenizer=tokenizer), processor)(picture(), return_heatmaps=True)
    for labels in (wanted, tuple(wanted), "zebra, dog,hot air balloon,", ["zebra", "dog", "hot air balloon", "zebra"]):
        assert_same(pipe(picture(), candidate_labels=labels, return_heatmaps=True), expected, tolerance=1e-7)
    assert [entry["label"] for entry in pipe(picture(), candidate_labels=wanted, top_k=1)] == [expected[0]["label"]]
    batched = pipe([picture(), picture(seed=1)], candidate_labels=wanted, batch_size=2)
    assert_same(batched[0], [{k: v for k, v in entry.items() if k != "heatmap"} for entry in expected])
    assert {entry["label"] for entry in pipe(picture())} == set(LABELS)  # the model's own labels are back


def test_models_for_candidate_labels_are_kept(model, processor, tokenizer, monkeypatch):
    asked = []
    original = TaiDptModel.with_labels

    def count(self, labels, **kwargs):
        asked.append(tuple(labels))
        return original(self, labels, **kwargs)

    monkeypatch.setattr(TaiDptModel, "with_labels", count)
    pipe = new_pipe(model, processor, tokenizer)
    for _ in range(3):
        pipe(picture(), candidate_labels="zebra,cow")
        pipe(picture(), candidate_labels="tram")
    assert asked == [("zebra", "cow"), ("tram",)]
    for number in range(4):
        pipe(picture(), candidate_labels=f"tram {number}")
    assert len(pipe._relabelled) <= 4


def test_labels_that_were_not_learned_are_named_once(model, processor, tokenizer, warned):
    pipe = new_pipe(model, processor, tokenizer)
    pipe([picture(), picture()])
    assert warned == []
    pipe(picture(), candidate_labels="zebra, dog")
    pipe(picture(), candidate_labels="zebra, dog")
    pipe([picture(), picture()], candidate_labels="dog, zebra")
    assert len(warned) == 1 and "'zebra' (shared)" in warned[0] and "'dog'" not in warned[0]
    pipe(picture(), candidate_labels=[f"thing {number}" for number in range(14)])
    assert len(warned) == 2
    assert "'thing 9' (shared) and 4 more" in warned[1] and "thing 10" not in warned[1]


def test_own_labels_that_were_not_learned_are_named(processor, tokenizer, warned):
    pipe = new_pipe(TaiDptModel.zero_shot(make_clip(), labels=LABELS, tokenizer=tokenizer), processor)
    pipe(picture())
    pipe(picture())
    assert len(warned) == 1 and "'dog' (template)" in warned[0]


def test_rare_words_are_named_once(model, processor, tokenizer, warned, monkeypatch):
    def rare_words(self, labels):
        return {label: ["okapi"] for label in labels if "okapi" in label}

    monkeypatch.setattr(TaiDptModel, "rare_words", rare_words, raising=False)
    pipe = new_pipe(model, processor, tokenizer)
    for _ in range(2):
        pipe(picture(), candidate_labels="baby okapi, dog")
    rare = [message for message in warned if "fewer than 20 times" in message]
    assert len(rare) == 1 and "'baby okapi' (okapi)" in rare[0] and "'dog'" not in rare[0]


# ---------------------------------------------------------------- building, saving, loading


@pytest.fixture(scope="module")
def checkpoint(model, processor, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in (model, processor, tokenizer):
        part.save_pretrained(folder)
    return folder


def test_from_a_folder_with_and_without_tokenizer(checkpoint, pipe, tmp_path):
    loaded = pipeline(TASK, model=str(checkpoint), device="cpu")
    assert loaded.tokenizer is not None
    assert_same(loaded(picture()), pipe(picture()))
    candidates = "zebra, traffic light"
    assert_same(loaded(picture(), candidate_labels=candidates), pipe(picture(), candidate_labels=candidates))
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        (tmp_path / file).write_bytes((checkpoint / file).read_bytes())
    bare = pipeline(TASK, model=str(tmp_path), device="cpu")
    assert_same(bare(picture()), pipe(picture()))
    assert_same(bare(picture(), candidate_labels=candidates), pipe(picture(), candidate_labels=candidates))


def test_the_task_alone_uses_the_default_checkpoint(checkpoint, pipe, monkeypatch):
    entry = PIPELINE_REGISTRY.supported_tasks[TASK]
    assert entry["default"]["model"][0] == modeling_taidpt.DEFAULT_CHECKPOINT
    monkeypatch.setitem(entry, "default", {"model": (str(checkpoint), "main")})
    assert_same(pipeline(TASK, device="cpu")(picture()), pipe(picture()))


def test_saving_and_loading(pipe, model, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert not hasattr(model.config, "custom_pipelines")  # transformers would ask for trust_remote_code
    stored = json.loads((tmp_path / "config.json").read_text())
    module = "multi_label_image_classification"
    assert stored["custom_pipelines"][TASK] == {
        "impl": f"{module}.MultiLabelImageClassificationPipeline",
        "pt": ["AutoModelForImageClassification"],
        "type": "image",
    }  # and no path of this machine
    for name in (module, "image_reading", "heatmaps"):  # flat siblings travel with it
        assert "modeling_taidpt import" not in (tmp_path / f"{name}.py").read_text()
    loaded = pipeline(TASK, model=str(tmp_path), device="cpu")  # the installed class: no trust_remote_code asked
    assert type(loaded) is MultiLabelImageClassificationPipeline
    assert_same(loaded(picture(), return_heatmaps=True), pipe(picture(), return_heatmaps=True))


def test_a_missing_image_processor_is_one_sentence(model, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="image processor"):
        pipeline(TASK, model=model, device="cpu")
    for file in ("model.safetensors", "config.json"):
        (tmp_path / file).write_bytes((checkpoint / file).read_bytes())
    with pytest.raises(ValueError, match=rf"No image processor was found for '{tmp_path}'"):
        pipeline(TASK, model=str(tmp_path), device="cpu")


def test_a_model_in_training_is_set_to_eval(model, processor):
    model.train()
    new_pipe(model, processor)
    assert not model.training
