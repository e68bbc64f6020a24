"""Makes the ONNX graph of an image tower with transformers' exporter, and lets it share the weights of a checkpoint.

The exporter writes the weights a second time, in single precision. Here each initializer that is a tensor of the
checkpoint points into its safetensors file instead, with a cast where that is stored in half precision, which runtimes
compute once when they open the graph. So that names and values stay those of the checkpoint, nothing large is folded:
runtimes fold batch norms into convolutions themselves.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import logging
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn

from .atomic import staged_file
from .hub import find_image_processor
from .image_encoding import encode_images
from .onnx_graphs import CHECKPOINT_KEY, GRAPH_FILE, INPUT, TOWER_KEY, digest_checkpoint

OPSET = 20
FOLDED = 256  # numbers at most of a constant that is folded; parameters of batch norms are larger or used as they are
IMAGE_FIELDS = ("dense_features", "pool_with_positions")  # of the configuration, on which image features depend
STORED = {"F32": np.float32, "F16": np.float16}


class GraphScorer(nn.Module):
    """What a graph computes: pixels to features of images and to their logits, without flips and windows.

    Args:
        model ([`TaiDptModel`]): its class embeddings are stored, its text tower is left out.
        scores (`bool`, *optional*, defaults to `True`): whether there are logits.
    """

    def __init__(self, model: Any, scores: bool = True) -> None:
        super().__init__()
        self.scores = scores
        if (model.dtype, model.device.type) != (torch.float32, "cpu"):  # as a CPU loads it
            model = copy.deepcopy(model).to("cpu", torch.float32)
        with torch.no_grad():
            self.model = model.bake() if scores else model

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scores images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): normalised pixels.

        Returns:
            `dict[str, torch.Tensor]`: `image_embeds` `(batch, dim)` and `dense_embeds` `(batch, rows, columns, dim)`,
            and with scores `logits` `(batch, classes)` and `similarity_map` `(batch, classes, rows, columns)`.
        """
        pooled, dense = encode_images(self.model.clip, self.model.config, pixel_values, True, False, False)
        features = {"image_embeds": pooled, "dense_embeds": dense}
        if not self.scores:
            return features
        outputs = self.model(image_embeds=pooled, dense_embeds=dense, return_dict=True)
        return features | {"logits": outputs.logits, "similarity_map": outputs.similarity_map}


def tower_fingerprint(model: Any) -> str:
    """Fingerprint of what the features of images depend on, whatever precision the weights are stored in.

    Args:
        model ([`TaiDptModel`]): the image side of its CLIP counts, and how dense features are taken.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    config, clip = model.config, model.clip
    fields = {name: getattr(config, name) for name in IMAGE_FIELDS}
    side = {key: value for key, value in config.clip_config.vision_config.to_dict().items() if _says_what(key)}
    digest = hashlib.sha256(json.dumps([fields, side], sort_keys=True, default=str).encode())
    for name, tensor in sorted(clip.state_dict().items()):
        if not name.startswith(("text_model.", "text_projection.", "logit_")):  # not of the image side
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            values = tensor.detach().to("cpu")
            values = values.float() if values.is_floating_point() else values
            digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy() if values.numel() else b"")
    return digest.hexdigest()[:32]


def _says_what(key: str) -> bool:
    """Whether an entry of a tower's configuration says what it computes, not how it is stored or run."""
    return not key.startswith("_") and key not in ("dtype", "torch_dtype", "transformers_version", "architectures")


def save_graph(model: Any, folder: str | Path) -> Path:
    """Writes `onnx/model.onnx` beside the weights of a stored model.

    Args:
        model ([`TaiDptModel`]): the model that is stored there.
        folder (`str` or `Path`): where it was saved, with its weights in safetensors files.

    Returns:
        `Path`: the graph.

    Raises:
        ImportError: `onnx` or `onnxscript` is not installed.
        ValueError: the folder holds no weights of the CLIP.
    """
    folder = Path(folder)
    weights = sorted(folder.glob("model*.safetensors"))
    config = folder / "config.json"
    if not weights or not config.is_file() or json.loads(config.read_text(encoding="utf-8")).get("prompts_only"):
        raise ValueError(f"The folder {str(folder)!r} holds no whole model: save it there without `prompts_only`.")
    notes = {CHECKPOINT_KEY: digest_checkpoint(config, weights), TOWER_KEY: tower_fingerprint(model)}
    return _write_graph(make_graph(model), folder, weights, notes)


def save_tower_graph(model: Any, folder: str | Path, fingerprint: str) -> Path:
    """Writes `onnx/model.onnx` without scores beside the weights of a tower, `model.safetensors`."""
    weights = [Path(folder) / "model.safetensors"]
    return _write_graph(make_graph(model, scores=False), Path(folder), weights, {TOWER_KEY: fingerprint})


def _write_graph(graph: Any, folder: Path, weights: Sequence[Path], notes: dict[str, str]) -> Path:
    share_weights(graph, weights, notes)
    path = folder / GRAPH_FILE
    with staged_file(path) as staged:
        staged.write_bytes(graph.SerializeToString())
    return path


def make_graph(model: Any, scores: bool = True) -> Any:
    """The graph of a model with weights of its own, as `onnx.ModelProto`, by transformers' exporter."""
    require_exporter()
    import onnx_ir
    from onnxscript import optimizer

    scorer = GraphScorer(model, scores).eval()
    program = export_program(scorer, find_image_processor(model.config), OPSET, optimize=False).program
    with quiet():
        optimizer.inline(program)
        # its limits of size do not hold for transpositions
        optimizer.fold_constants(program, should_fold=lambda node: None if _is_small(node) else False)
        optimizer.remove_unused_nodes(program)
    name_dimensions(program.graph)
    return onnx_ir.to_proto(program)


def _is_small(node: Any) -> bool:
    """Whether folding a node of the graph keeps the weights as they are stored."""
    constants = [value.const_value for value in node.inputs if value is not None]
    return all(constant is None or constant.size <= FOLDED for constant in constants)


def export_program(module: nn.Module, processor: Any, opset: int, **options: Any) -> Any:
    """What transformers' exporter makes of a module that holds a `model` and takes `pixel_values`.

    Args:
        module (`nn.Module`): [`GraphScorer`], or another one.
        processor: the image processor, which says the size of towers that have but one.
        opset (`int`): version of the ONNX operators.
        **options: as of `transformers.exporters.OnnxConfig`.

    Returns:
        `ExportedModel`: of transformers.
    """
    from transformers.exporters import OnnxConfig, OnnxExporter

    pixels, dimensions = sample_pixels(module.model, processor)
    settings = OnnxConfig(dynamic_shapes={INPUT: dimensions}, opset_version=opset, **options)
    with torch.no_grad(), any_size(), quiet():
        return OnnxExporter().export(module, {INPUT: pixels}, config=settings)


def share_weights(graph: Any, weights: Sequence[Path], notes: dict[str, str]) -> None:
    """Lets a graph point into the safetensors files of a checkpoint wherever they hold its weights.

    Args:
        graph (`onnx.ModelProto`): changed in place.
        weights (`Sequence[Path]`): the files, one folder above the graph's.
        notes (`dict[str, str]`): go into its metadata.
    """
    from onnx import TensorProto, helper, numpy_helper

    places = {name: place for path in weights for name, place in _places(path).items()}
    casts = []
    for tensor in graph.graph.initializer:
        name = tensor.name
        place = places.get(name.removeprefix("model."))
        if tensor.data_type != TensorProto.FLOAT or place is None or place.values.shape != tuple(tensor.dims):
            continue
        if not np.array_equal(place.values.astype(np.float32), numpy_helper.to_array(tensor)):
            continue  # folded, or changed since it was saved
        for part in ("raw_data", "float_data", "external_data"):
            tensor.ClearField(part)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", f"../{place.file}"),
            ("offset", place.offset),
            ("length", place.values.nbytes),
        ):
            tensor.external_data.add(key=key, value=str(value))
        if place.values.dtype != np.float32:
            tensor.name, tensor.data_type = f"{name}.stored", TensorProto.FLOAT16
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    for node in graph.graph.node:  # where in the code each node comes from: four fifths of the file
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    graph.graph.ClearField("value_info")
    graph.ClearField("metadata_props")
    helper.set_model_props(graph, notes)


class _Place:
    """A tensor in a safetensors file: the file's name, the offset of its first byte, and its values."""

    def __init__(self, file: str, offset: int, values: np.ndarray) -> None:
        self.file, self.offset, self.values = file, offset, values


def _places(path: Path) -> dict[str, _Place]:
    """The tensors of a safetensors file in precisions that a graph can take, by name."""
    content = np.memmap(path, dtype=np.uint8, mode="r")  # (bytes,)
    (length,) = struct.unpack("<Q", content[:8].tobytes())
    header = json.loads(content[8 : 8 + length].tobytes())
    places = {}
    for name, entry in header.items():
        kind = STORED.get(entry.get("dtype")) if name != "__metadata__" else None
        if kind is not None:
            start, end = (8 + length + edge for edge in entry["data_offsets"])
            places[name] = _Place(path.name, start, content[start:end].view(kind).reshape(entry["shape"]))
    return places


def sample_pixels(model: Any, processor: Any) -> tuple[torch.Tensor, dict[int, Any]]:
    """Pixels to trace a model with, `(2, 3, height, width)`, and free dimensions: the batch, of ViTs the size."""
    config: Any = model.config
    dimensions: dict[int, Any] = {0: torch.export.Dim("batch")}
    if config.clip_config.model_type != "clip_resnet" and not config.multi_crop:
        # a size that no position embedding was made for, so that nothing is fixed to one
        height, width = 2 * config.image_size, 3 * config.image_size
        dimensions |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    else:
        blank = Image.new("RGB", (config.image_size, config.image_size))
        height, width = processor(images=blank, return_tensors="pt")["pixel_values"].shape[-2:]
    return torch.zeros(2, 3, height, width), dimensions


@contextlib.contextmanager
def any_size() -> Iterator[None]:
    """The three functions of others that are replaced, for as long as a program is captured.

    transformers leaves position embeddings as they are where the image has their own size, unless
    `torch.jit.is_tracing()`: an exported program would hold a branch for that size and refuse all others, or refuse
    that one. SigLIP 2 checks its sizes with an operator that ONNX has not; `pixel_values` cannot fail that check.
    TIPS v2 makes a plain number of the grid's sides, which would fix them.
    """
    tracing = mock.patch("torch.jit.is_tracing", return_value=True)
    checks = mock.patch("transformers.models.siglip2.modeling_siglip2.torch_compilable_check", create=True)
    sides = mock.patch("transformers.models.tipsv2.modeling_tipsv2.torch_int", _whole_number, create=True)
    with tracing, checks, sides:
        yield


def _whole_number(value: Any) -> Any:
    """A free dimension as it is, any other number as a whole one."""
    return value if isinstance(value, torch.SymInt) else int(value)


def name_dimensions(graph: Any) -> None:
    """Names the free dimensions of a graph, which the exporter calls s99 and the like."""
    import onnx_ir

    names = {
        INPUT: ("batch", "3", "height", "width"),
        "probabilities": ("batch", "classes"),
        "logits": ("batch", "classes"),
        "similarity_map": ("batch", "classes", "rows", "columns"),
        "heatmaps": ("batch", "classes", "rows", "columns"),
        "image_embeds": ("batch", "dim"),
        "dense_embeds": ("batch", "rows", "columns", "dim"),
    }
    for value in (*graph.inputs, *graph.outputs):
        sizes = zip(value.shape, names[value.name], strict=True)
        value.shape = onnx_ir.Shape([size if isinstance(size, int) else name for size, name in sizes])


def require_exporter(*others: str) -> None:
    """Raises an `ImportError` where what the exporter needs is not installed; one sentence with what to install."""
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript", *others) if find_spec(name) is None]
    if missing:
        raise ImportError(f'Export to ONNX needs {" and ".join(missing)}: run `pip install "taidpt[onnx]"`.')


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what the exporters say about themselves, also on standard output."""
    previous = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous)


__all__ = [
    "GraphScorer",
    "any_size",
    "export_program",
    "make_graph",
    "name_dimensions",
    "quiet",
    "require_exporter",
    "sample_pixels",
    "save_graph",
    "save_tower_graph",
    "share_weights",
    "tower_fingerprint",
]
