"""Which runtime runs the image tower of a model: PyTorch, or a graph of it in ONNX Runtime or OpenVINO.

Only the tower is exchanged: labels, views, standardisation and probabilities are computed as before. So a graph serves
all models on one CLIP, whatever their labels, and is known by a fingerprint of the tower.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from transformers.utils import logging

from .atomic import staged_folder
from .graph_export import require_exporter, save_tower_graph, tower_fingerprint
from .onnx_graphs import GRAPH_FILE, TOWER_KEY, GraphError, ImageGraph, require_backend
from .origins import origins
from .stored_weights import find_weight_files

logger = logging.get_logger(__name__)

WEIGHTS = "model.safetensors"


class ImageBackendMixin:
    """Adds the choice of the image tower's runtime to a [`TaiDptModel`]."""

    def use_backend(self: Any, backend: str = "onnx", make: bool = True) -> bool:
        """Runs the image tower by another runtime, for all models on this CLIP.

        A tower that changes afterwards (adapters, further training) is not noticed: call it again.

        Args:
            backend (`str`, *optional*, defaults to `"onnx"`): `"onnx"` (ONNX Runtime), `"openvino"` or `"torch"`.
            make (`bool`, *optional*, defaults to `True`): exports the tower into the cache where there is no graph.

        Returns:
            `bool`: whether the backend is used now; only without `make` it may not be.

        Raises:
            ImportError: the runtime is not installed, or what exports the tower is not.
            ValueError: there is no such backend, or the model is not on a CPU in single precision.
        """
        require_backend(backend)
        self.clip.image_graph = None
        if backend == "torch":
            return True
        if (self.device.type, self.dtype) != ("cpu", torch.float32):
            raise ValueError(
                f"The backend {backend!r} runs on the CPU in single precision, and the model is {self.dtype} on "
                f"{self.device}: load it without `device` and `dtype`, or leave the backend to PyTorch."
            )
        fingerprint = tower_fingerprint(self)
        graph = next(_found_graphs(self, fingerprint, backend), None)
        if graph is None and make:
            graph = _export_into_cache(self, fingerprint, backend)
        self.clip.image_graph = graph
        return graph is not None


def cache_folder(fingerprint: str) -> Path:
    """Where the graph of a tower is kept that no checkpoint ships."""
    return Path(constants.HF_HOME) / "taidpt" / "graphs" / fingerprint


def _found_graphs(model: Any, fingerprint: str, backend: str) -> Iterator[ImageGraph]:
    """The graphs of a tower beside the checkpoint, beside its base and in the cache; others are named and left."""
    places = []
    for origin in origins(model.config):
        path = origin.find(GRAPH_FILE)
        if path is not None:
            places.append((Path(path), find_weight_files(origin)))
    cached = cache_folder(fingerprint)
    if (cached / GRAPH_FILE).is_file():
        places.append((cached / GRAPH_FILE, [str(cached / WEIGHTS)]))
    for path, weights in places:
        try:
            graph = ImageGraph(path, weights, backend)
        except GraphError as error:
            logger.warning(str(error))
            continue
        if graph.metadata.get(TOWER_KEY) == fingerprint:
            yield graph
        else:
            logger.warning(
                f"The graph {str(path)!r} is of other weights than the model and is not used: make it again with "
                "`taidpt export MODEL --in-place`."
            )


def _export_into_cache(model: Any, fingerprint: str, backend: str) -> ImageGraph:
    require_exporter()
    folder = cache_folder(fingerprint)
    logger.warning(f"The image tower is exported once for the backend {backend!r}, into {str(folder)!r}.")
    with staged_folder(folder) as staging:
        weights = {
            f"clip.{name}": tensor.detach().contiguous().clone()
            for name, tensor in model.clip.state_dict().items()
            if not name.startswith("text_model.")
        }
        save_file(weights, staging / WEIGHTS)
        save_tower_graph(model, staging, fingerprint)
    return ImageGraph(folder / GRAPH_FILE, [folder / WEIGHTS], backend)


__all__ = ["ImageBackendMixin", "cache_folder"]
