"""The graph beside the weights: the numbers of PyTorch, weights stored once, and never taken for other weights."""

from __future__ import annotations

import copy
import json
import pickle
import shutil

import numpy as np
import onnx
import pytest
import torch

from modeling_taidpt import TaiDptModel, image_backends, onnx_graphs
from modeling_taidpt.graph_export import save_graph, tower_fingerprint
from modeling_taidpt.image_encoding import usable_graph
from modeling_taidpt.onnx_graphs import (
    FEATURES,
    GRAPH_FILE,
    SCORES,
    GraphError,
    ImageGraph,
    digest_checkpoint,
    missing_runtime,
    open_checkpoint_graph,
    require_backend,
)

from .conftest import make_clip

LABELS = ["stop sign", "dog", "café"]
OPENVINO = pytest.param("openvino", marks=pytest.mark.skipif(bool(missing_runtime("openvino")), reason="no OpenVINO"))


def make_model(**config) -> TaiDptModel:
    return TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=2, **config)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A model in half precision with its graph."""
    folder = tmp_path_factory.mktemp("graphs") / "model"
    make_model().half().save_pretrained(folder, include_code=False)
    save_graph(TaiDptModel.from_pretrained(folder), folder)
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    """A copy to be changed."""
    return shutil.copytree(stored, tmp_path / "model")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(image_backends.constants, "HF_HOME", str(tmp_path / "cache"))


def weights_of(folder):
    return [folder / "model.safetensors"]


@torch.no_grad()
def expected(folder, pixels):
    model = TaiDptModel.from_pretrained(folder)
    outputs = model(pixel_values=pixels, interpolate_pos_encoding=True)
    return (*model.encode_images(pixels, True), outputs.logits, outputs.similarity_map)


@pytest.mark.parametrize("backend", ["onnx", OPENVINO])
def test_features_and_scores_are_those_of_pytorch(stored, backend):
    graph = open_checkpoint_graph(stored, weights_of(stored), backend)
    for shape in ((1, 3, 32, 32), (11, 3, 32, 32), (2, 3, 40, 56)):
        pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        for threads in (1, 2):
            results = graph.run(FEATURES + SCORES, pixels.numpy(), threads)
            for ours, theirs in zip(results, expected(stored, pixels), strict=True):
                np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    assert graph.classes == len(LABELS)


def test_weights_are_stored_once(stored):
    model = onnx.load(stored / GRAPH_FILE, load_external_data=False)
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer]
    assert {place["location"] for place in places if place} == {"../model.safetensors"}
    own = [tensor for tensor in model.graph.initializer if not tensor.external_data]
    shared = sum(int(place["length"]) for place in places if place)
    tower = sum(p.numel() * 2 for p in TaiDptModel.from_pretrained(stored).clip.vision_model.parameters())
    assert shared >= 0.9 * tower and max(len(tensor.raw_data) for tensor in own) < 4096
    assert not any(node.metadata_props for node in model.graph.node)


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_names_and_probabilities_may_change_and_nothing_else(folder):
    change_config(folder, score_scale=3.0, score_bias=-1.0, score_thresholds=0.3, class_names=["a", "b", "c"])
    assert open_checkpoint_graph(folder, weights_of(folder)) is not None
    change_config(folder, local_weight=0.1)
    with pytest.raises(
        GraphError, match="was not made from the weights and the configuration beside it: make it again"
    ):
        open_checkpoint_graph(folder, weights_of(folder))


def test_a_graph_of_other_weights_is_not_taken(folder, caplog):
    graph = (folder / GRAPH_FILE).read_bytes()
    model = TaiDptModel.from_pretrained(folder)
    with torch.no_grad():
        model.clip.vision_model.embeddings.patch_embedding.weight.mul_(1.5)
    model.half().save_pretrained(folder, include_code=False)
    assert not (folder / GRAPH_FILE).exists()  # saving takes what spoke of other weights away
    (folder / "onnx").mkdir(exist_ok=True)
    (folder / GRAPH_FILE).write_bytes(graph)
    with pytest.raises(GraphError, match="was not made from the weights"):
        open_checkpoint_graph(folder, weights_of(folder))
    changed = TaiDptModel.from_pretrained(folder)
    assert not changed.use_backend("onnx", make=False) and changed.clip.image_graph is None
    assert "is of other weights than the model and is not used" in caplog.text


def test_no_graph_is_no_error(folder):
    (folder / GRAPH_FILE).unlink()
    assert open_checkpoint_graph(folder, weights_of(folder)) is None


@pytest.mark.parametrize("backend", ["onnx", OPENVINO])
@pytest.mark.parametrize("location", ["../../secret.bin", "/etc/passwd", "../config.json"])
def test_no_other_file_is_read(folder, backend, location):
    (folder.parent / "secret.bin").write_bytes(bytes(10**6))
    model = onnx.load(folder / GRAPH_FILE, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    entries = {entry.key: entry for entry in tensor.external_data}
    entries["location"].value, entries["offset"].value = location, "0"
    (folder / GRAPH_FILE).write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=r"cannot be opened \(.*\): make it again"):
        open_checkpoint_graph(folder, weights_of(folder), backend)


@pytest.mark.parametrize("backend", ["onnx", OPENVINO])
@pytest.mark.parametrize("kind", ["empty", "noise", "other graph", "short weights"])
def test_a_broken_graph_is_one_sentence(folder, backend, kind):
    path, content = folder / GRAPH_FILE, (folder / GRAPH_FILE).read_bytes()
    if kind == "short weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:4000])
    elif kind == "other graph":
        path.write_bytes(content.replace(b"image_embeds", b"other_embeds"))
    else:
        path.write_bytes(b"" if kind == "empty" else b"\x08\x0a" + content[:200][::-1])
    with pytest.raises(GraphError) as error:
        open_checkpoint_graph(folder, weights_of(folder), backend)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_backends_are_known_and_installed(monkeypatch):
    with pytest.raises(ValueError, match="`backend` is 'tensorrt': choose one of 'torch', 'onnx', 'openvino'"):
        require_backend("tensorrt")
    monkeypatch.setattr(onnx_graphs, "find_spec", lambda name: None)
    for backend, module in (("onnx", "onnxruntime"), ("openvino", "openvino")):
        with pytest.raises(ImportError, match=rf'needs {module}: pip install "taidpt\[{backend}\]"'):
            make_model().use_backend(backend)
    require_backend("torch")


def test_other_labels_views_and_gradients_on_one_graph(stored):
    model, plain = TaiDptModel.from_pretrained(stored), TaiDptModel.from_pretrained(stored)
    assert model.use_backend("onnx", make=False)
    pixels = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        for labels, options in ((None, {"flip": True}), (["cup", "teapot"], {}), (None, {"multi_crop": "max"})):
            ours, theirs = (m if labels is None else m.with_labels(labels) for m in (model, plain))
            torch.testing.assert_close(
                ours(pixel_values=pixels, **options).logits,
                theirs(pixel_values=pixels, **options).logits,
                atol=1e-4,
                rtol=0,
            )
        assert model(pixel_values=pixels, output_hidden_states=True).hidden_states is not None
    leaf = pixels.clone().requires_grad_()
    model(pixel_values=leaf).logits.sum().backward()
    assert leaf.grad is not None
    with torch.no_grad():
        assert usable_graph(model.clip, pixels, 32, False) is not None
        assert usable_graph(model.clip, pixels.double(), 32, False) is None
        assert usable_graph(model.clip, torch.rand(1, 3, 40, 40), 32, False) is None  # not asked for
    for twin in (copy.deepcopy(model).clip.image_graph, pickle.loads(pickle.dumps(model.clip.image_graph))):
        assert twin.run(FEATURES, pixels.numpy())[0].shape == (3, 24)
    assert model.use_backend("torch") and usable_graph(model.clip, pixels, 32, False) is None


@pytest.mark.slow
def test_a_tower_without_a_graph_is_exported_into_the_cache_once(caplog, monkeypatch):
    model = make_model()
    assert not model.use_backend("onnx", make=False)
    assert model.use_backend("onnx")
    assert "is exported once for the backend 'onnx'" in caplog.text
    with torch.no_grad():
        pixels = torch.rand(2, 3, 32, 32)
        ours, theirs = model.encode_images(pixels), make_model().encode_images(pixels)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    monkeypatch.setattr(image_backends, "save_tower_graph", None)  # from here on the cache serves
    assert make_model().use_backend("onnx", make=False)
    other = make_model(dense_features="clearclip")
    assert tower_fingerprint(other) != tower_fingerprint(model) and not other.use_backend("onnx", make=False)


def test_only_single_precision_on_the_cpu():
    with pytest.raises(ValueError, match=r"runs on the CPU in single precision, and the model is torch\.float16"):
        make_model().half().use_backend("onnx")


def test_only_a_whole_model_is_given_a_graph(tmp_path):
    with pytest.raises(ValueError, match="holds no whole model"):
        save_graph(make_model(), tmp_path)


def test_the_digest_covers_all_weights(folder):
    before = digest_checkpoint(folder / "config.json", weights_of(folder))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert digest_checkpoint(folder / "config.json", weights_of(folder)) != before


def test_the_graph_opens_for_other_threads_once(stored):
    graph = ImageGraph(stored / GRAPH_FILE, weights_of(stored), threads=2)
    graph.run(FEATURES, np.zeros((1, 3, 32, 32), np.float32), 2)
    assert set(graph._runs) == {2}


@OPENVINO.marks[0]
def test_graphs_of_a_process_share_one_core_of_openvino(stored, monkeypatch):
    """Where the last graph of a core went, the next signal ended the process."""
    import openvino

    made, core = [], openvino.Core
    monkeypatch.setattr(openvino, "Core", lambda: made.append(core()) or made[-1])
    onnx_graphs._openvino_core.cache_clear()
    for _ in range(2):
        open_checkpoint_graph(stored, weights_of(stored), "openvino")
    assert len(made) == 1
