"""Exported models: same numbers as PyTorch at every size, and all that is needed to serve them beside them."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    CLIPResNetConfig,
    CLIPResNetModel,
    CLIPResNetVisionConfig,
    TaiDptModel,
)
from modeling_taidpt.export import programs as export_module
from modeling_taidpt.export.programs import export_onnx, export_torch
from modeling_taidpt.hub import find_image_processor
from modeling_taidpt.pipelines.heatmaps import cell_shares
from modeling_taidpt.visual_classifier import VisualClassifier, attach_classifier

from ..conftest import ROOT, make_clip

LABELS = ["stop sign", "dog", "café"]
SIZES = [(1, 3, 32, 32), (3, 3, 64, 96), (2, 3, 40, 32)]  # (batch, 3, height, width), the first is the CLIP's own


def make_model() -> TaiDptModel:
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, score_scale=[1.0, 2.0, 3.0], score_bias=-0.5)
    with torch.no_grad():
        model.prompt_learner.local_context.mul_(50)  # the two branches differ
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "vit"
    assert export_onnx(model, folder, heatmaps=True, quantize=True) == folder / "model_quantized.onnx"
    return folder


@torch.no_grad()
def expected(model, pixels):
    outputs = model(pixel_values=pixels, interpolate_pos_encoding=True)
    scale, bias = torch.tensor(model.config.score_scale), torch.tensor(model.config.score_bias)
    return torch.sigmoid(scale * outputs.logits + bias).numpy(), outputs.similarity_map.numpy()


def run_onnx(file, pixels):
    return onnxruntime.InferenceSession(file).run(None, {"pixel_values": pixels.numpy()})


@pytest.mark.parametrize("shape", SIZES)
def test_onnx_gives_the_numbers_of_pytorch_at_every_size(model, exported, shape):
    pixels = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(expected(model, pixels), run_onnx(exported / "model.onnx", pixels), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_onnx_names_its_inputs_outputs_and_free_dimensions(exported):
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    assert {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())} == {
        "pixel_values": ["batch", 3, "height", "width"],
        "probabilities": ["batch", len(LABELS)],
        "similarity_map": ["batch", len(LABELS), "rows", "columns"],
    }


@pytest.mark.slow
def test_heatmaps_of_the_graph_are_drawn_as_in_the_pipeline(model, tmp_path):
    session = onnxruntime.InferenceSession(export_onnx(model, tmp_path, heatmaps="shares"))
    names = {value.name: value.shape for value in session.get_outputs()}
    assert names["heatmaps"] == ["batch", len(LABELS), "rows", "columns"] and "similarity_map" not in names
    for shape in SIZES:
        pixels = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
        probabilities, heatmaps = session.run(None, {"pixel_values": pixels.numpy()})
        ours, cosines = expected(model, pixels)
        np.testing.assert_allclose(probabilities, ours, atol=1e-5)
        np.testing.assert_allclose(heatmaps, cell_shares(torch.from_numpy(cosines)), atol=1e-4)
    with pytest.raises(ValueError, match="`heatmaps` is 'cosines': give True, False or 'shares'"):
        export_onnx(model, tmp_path, heatmaps="cosines")


def test_folder_serves_without_this_package(exported):
    names = {path.name for path in exported.iterdir()}
    assert names == {"model.onnx", "model_quantized.onnx", "labels.json", "preprocessor_config.json"}
    assert json.loads((exported / "labels.json").read_text(encoding="utf-8")) == {"labels": LABELS}
    assert AutoImageProcessor.from_pretrained(exported).crop_size["height"] == 32
    # neither the text tower nor its vocabulary went along
    assert (exported / "model.onnx").stat().st_size < 49408 * 32 * 4 / 2


def test_quantised_weights_are_smaller_and_close(model, exported):
    pixels = torch.randn(*SIZES[0], generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(expected(model, pixels), run_onnx(exported / "model_quantized.onnx", pixels), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=0.05)
        assert not np.array_equal(theirs, ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "statistics"), [("center", False), ("zscore", True), ("captions", True), ("visual", False)]
)
def test_standardised_scores_are_those_of_the_pipeline(step, statistics, tmp_path):
    model, generator = make_model(), torch.Generator().manual_seed(2)
    model.config.score_thresholds = [0.2, 0.5, 0.4]
    if step == "captions":
        model.set_caption_bank(torch.nn.functional.normalize(torch.randn(5, 24, generator=generator), dim=1))
    if step == "visual":
        classifier = VisualClassifier(len(LABELS), 24)
        for buffer in classifier.buffers():
            buffer.copy_(torch.rand(buffer.shape, generator=generator))
        attach_classifier(model, classifier, 100)
    else:
        model.config.image_standardization = step
    if statistics:
        model.set_score_statistics(*torch.randn(2, 6, len(LABELS), generator=generator), source="6 images")
    processor = find_image_processor(model.config)
    tagger = pipeline("multi-label-image-classification", model=model, image_processor=processor)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    scores = {result["label"]: result["score"] for result in tagger(picture, threshold=0)}
    plain = {result["label"]: result["score"] for result in tagger(picture, standardize=False, threshold=0)}
    assert all(abs(scores[label] - plain[label]) > 1e-3 for label in LABELS)
    pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
    if step == "captions":
        found = run_onnx(export_onnx(model, tmp_path), pixels)[0]
    else:
        found = torch.export.load(export_torch(model, tmp_path)).module()(pixels)[0].detach().numpy()
    np.testing.assert_allclose(found[0], [scores[label] for label in LABELS], atol=1e-5)
    # the thresholds beside it choose what `threshold="auto"` does
    table = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    chosen = {
        label for label, score, least in zip(LABELS, found[0], table["thresholds"], strict=True) if score >= least
    }
    assert chosen == {result["label"] for result in tagger(picture, threshold="auto")}


def test_torch_program_of_a_pool_with_positions(tmp_path):
    torch.manual_seed(0)
    vision = CLIPResNetVisionConfig(layers=[1, 1, 1, 1], width=8, image_size=64, projection_dim=16)
    text = make_clip().config.text_config.to_dict() | {"projection_dim": 16}
    clip = CLIPResNetModel(CLIPResNetConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    model = TaiDptModel.zero_shot(clip, labels=LABELS, score_scale=[1.0] * 3)
    assert model.config.pool_with_positions
    processor = CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96})
    file = export_torch(model, tmp_path, heatmaps=True, image_processor=processor)
    program = torch.export.load(file).module()
    for batch in (1, 3):
        pixels = torch.randn(batch, 3, 96, 96)
        with torch.no_grad():
            for ours, theirs in zip(expected(model, pixels), program(pixels), strict=True):
                np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-5)


@pytest.mark.slow
def test_windows_and_mirror_images_are_exported_at_the_size_of_the_processor(tmp_path):
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=2, multi_crop=True, flip=True)
    processor = CLIPImageProcessorPil(size={"height": 48, "width": 64}, do_center_crop=False)
    program = torch.export.load(export_torch(model, tmp_path, heatmaps=True, image_processor=processor)).module()
    for batch in (1, 3):
        pixels = torch.randn(batch, 3, 48, 64)
        with torch.no_grad():
            for ours, theirs in zip(expected(model, pixels), program(pixels), strict=True):
                np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-5)


@pytest.mark.slow
def test_tiles_are_exported_at_twice_the_size_and_the_processor_says_so(tmp_path):
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=2, multi_crop="max")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    graph = export_onnx(model, tmp_path, image_processor=processor)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["size"] == {"height": 64, "width": 64} and not stored["do_center_crop"]
    pixels = torch.randn(2, 3, 64, 64)
    (found,) = onnxruntime.InferenceSession(str(graph)).run(None, {"pixel_values": pixels.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, expected(model, pixels)[0], atol=1e-5)


def test_a_failed_export_keeps_the_earlier_one(model, exported, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of luck")

    (tmp_path / "model.onnx").write_bytes(b"earlier")
    monkeypatch.setattr(torch.export, "export", fail)
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(RuntimeError, match="out of luck"):
            export_onnx(model, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"earlier"


def test_an_export_replaces_the_files_of_an_earlier_one(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_capture", lambda scorer, processor: None)
    monkeypatch.setattr(torch.export, "save", lambda program, file: file.write(b"new"))
    for name in ("model.onnx", "model_quantized.onnx", "model.pt2", "notes.txt"):
        (tmp_path / name).write_bytes(b"old")
    export_torch(model, tmp_path)
    assert (tmp_path / "model.pt2").read_bytes() == b"new"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.pt2", "notes.txt", "labels.json", "preprocessor_config.json"}


def test_thresholds_go_along(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_capture", lambda scorer, processor: None)
    monkeypatch.setattr(torch.export, "save", lambda program, file: file.write(b"new"))
    monkeypatch.setattr(model.config, "score_thresholds", [0.1, 0.2, 0.3], raising=False)
    export_torch(model, tmp_path)
    table = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    assert table == {"labels": LABELS, "thresholds": [0.1, 0.2, 0.3]}


def test_bad_requests_are_refused_in_one_sentence(model, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match=r"`output` .*file' is a file: give a folder\."):
        export_torch(model, file)
    with pytest.raises(ValueError, match="`opset` is 11: give 18 or later"):
        export_onnx(model, tmp_path / "new", opset=11)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'needs onnx and onnxscript: run `pip install "taidpt\[onnx\]"`'):
        export_onnx(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_embedded_checkpoint_on_the_photographs_that_ship(tmp_path):
    tagger = pipeline("multi-label-image-classification")
    script = ROOT / "examples" / "export.py"
    command = [sys.executable, str(script), "--output", str(tmp_path), "--heatmaps"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    differences = dict(re.findall(r"^(\S+) .*largest difference (\S+)", output, flags=re.MULTILINE))
    assert float(differences["model.onnx"]) < 1e-4 < float(differences["model_quantized.onnx"]) < 0.2
    assert (tmp_path / "model_quantized.onnx").stat().st_size < 0.5 * (tmp_path / "model.onnx").stat().st_size
    file = tmp_path / "model.onnx"
    labels = json.loads((tmp_path / "labels.json").read_text())["labels"]
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    photographs = sorted((ROOT / "examples" / "images").glob("*.jpg"))
    images = [Image.open(photograph).convert("RGB") for photograph in photographs]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    probabilities, similarity = run_onnx(file, pixels)
    with torch.no_grad():
        np.testing.assert_allclose(similarity, tagger.model(pixel_values=pixels).similarity_map, atol=1e-4)
    for photograph, row in zip(photographs, probabilities, strict=True):
        scores = {result["label"]: result["score"] for result in tagger(str(photograph), threshold=0)}
        np.testing.assert_allclose(row, [scores[label] for label in labels], atol=1e-4)
    script = ROOT / "examples" / "onnx_inference.py"
    assert "taidpt" not in script.read_text() and "torch" not in script.read_text().split('"""')[2]
    command = [sys.executable, str(script), str(tmp_path), str(photographs[1])]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert Path(photographs[1]).stem == "cat" and lines[0].split()[0] == "cat"
    assert float(lines[0].split()[-1]) == pytest.approx(tagger(str(photographs[1]), top_k=1)[0]["score"], abs=2e-4)
    assert DEFAULT_CHECKPOINT not in (tmp_path / "preprocessor_config.json").read_text()
