"""The ONNX graph of an image tower, beside the weights of a checkpoint: found, checked and run without PyTorch.

`onnx/model.onnx` holds no weights but points into the safetensors files of its folder, so that they are stored once.
Runtimes refuse paths that leave the folder of a graph; the weight files are therefore handed over under the names that
the graph gives them, and any other file that it may point to is left to that refusal. What the graph was made from is
noted in it, so that one of other weights is not taken.

Nothing here imports torch or transformers: `taidpt predict` answers before they would be imported.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

GRAPH_FILE = "onnx/model.onnx"
BACKENDS = ("torch", "onnx", "openvino")
INPUT, FEATURES, SCORES = "pixel_values", ("image_embeds", "dense_embeds"), ("logits", "similarity_map")
CHECKPOINT_KEY, TOWER_KEY = "taidpt.checkpoint", "taidpt.tower"  # in the metadata of a graph
CHUNK = 4  # images at most that one thread takes at a time
RUNTIMES = {  # what a backend imports, and the extra that installs it
    "onnx": (("onnxruntime",), "onnx"),
    "openvino": (("openvino", "onnx"), "openvino"),
}
# Entries of a configuration that the logits do not depend on: names, origins, and what is done with the logits.
NOT_COMPUTED = frozenset(
    (
        *("score_scale", "score_bias", "score_thresholds", "score_calibration", "problem_type", "weights_digest"),
        *("class_names", "id2label", "label2id", "label_origin", "recommended_recipe", "word_counts"),
        *("base_model_name_or_path", "base_model_revision", "base_model_sample", "transformers_version"),
        *("auto_map", "custom_pipelines", "processor_class", "architectures", "dtype", "torch_dtype"),
    )
)


class GraphError(ValueError):
    """A graph cannot be used; one sentence that says why and what to do."""


def missing_runtime(backend: str) -> str | None:
    """What to install before a backend runs; `None` where nothing is missing."""
    modules, extra = RUNTIMES.get(backend, ((), ""))
    missing = [name for name in modules if find_spec(name) is None]
    return f'The backend {backend!r} needs {missing[0]}: pip install "taidpt[{extra}]".' if missing else None


def require_backend(backend: str) -> None:
    """Makes sure that a backend is known and its runtime installed.

    Args:
        backend (`str`): `"torch"`, `"onnx"` or `"openvino"`.

    Raises:
        ValueError: there is no such backend.
        ImportError: its runtime is not installed; one sentence with what to install.
    """
    if backend not in BACKENDS:
        raise ValueError(f"`backend` is {backend!r}: choose one of {', '.join(map(repr, BACKENDS))}.")
    missing = missing_runtime(backend)
    if missing is not None:
        raise ImportError(missing)


def digest_checkpoint(config: str | Path, weights: Sequence[str | Path]) -> str:
    """A digest of what the logits of a stored checkpoint depend on.

    Args:
        config (`str` or `Path`): its config.json.
        weights (`Sequence[str | Path]`): its safetensors files, in the order of their names.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    entries = json.loads(Path(config).read_text(encoding="utf-8"))
    entries = {name: value for name, value in entries.items() if name not in NOT_COMPUTED and not name.startswith("_")}
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode())
    for path in weights:
        digest.update(hashlib.sha256(_mapped(Path(path))).digest())
    return digest.hexdigest()[:32]


class ImageGraph:
    """A graph that takes pixels and gives the features of images, and their logits for the labels of its checkpoint.

    A batch is cut into pieces that run side by side, each in a thread of its own: threads that share each layer wait
    for one another, these do not. Fewer images than there are threads share them layer by layer.

    Args:
        path (`str` or `Path`): `onnx/model.onnx`.
        weights (`Sequence[str | Path]`): the safetensors files that it points to, one folder above it.
        backend (`str`, *optional*, defaults to `"onnx"`): `"onnx"` or `"openvino"`.
        threads (`int`, *optional*, defaults to 1): threads of the runs that will come first; the graph is opened for
            them, and once more for another number when that comes.

    Raises:
        ImportError: the runtime is not installed.
        GraphError: the graph cannot be opened.
    """

    def __init__(
        self, path: str | Path, weights: Sequence[str | Path], backend: str = "onnx", threads: int = 1
    ) -> None:
        require_backend(backend)
        self.path, self.weights, self.backend = Path(path), [Path(file) for file in weights], backend
        self._runs: dict[int, Any] = {}  # by threads of one run
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self.metadata, self.shape, self.classes = self._open(threads)[1:]

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.weights, self.backend)

    def __deepcopy__(self, memo: dict[int, Any]) -> ImageGraph:
        return self  # sessions keep nothing between runs

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the graph takes pixels `(batch, 3, height, width)` of a shape."""
        return all(
            not isinstance(own, int) or own == side for own, side in zip(self.shape[1:], shape[1:], strict=True)
        )

    def run(self, outputs: Sequence[str], pixels: np.ndarray, threads: int | None = None) -> list[np.ndarray]:
        """Runs the graph.

        Args:
            outputs (`Sequence[str]`): names of [`FEATURES`] or [`SCORES`].
            pixels (`np.ndarray` of shape `(batch, 3, height, width)`): float32, normalised.
            threads (`int`, *optional*): at most; as many as there are processors by default.

        Returns:
            `list[np.ndarray]`: the outputs, `(batch, ...)` each.
        """
        threads = threads or count_processors()
        if len(pixels) < threads or threads == 1:
            return self._open(threads)[0](outputs, pixels)
        run = self._open(1)[0]
        size = min(CHUNK, -(-len(pixels) // threads))
        chunks = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        parts = list(self._threads(threads).map(lambda chunk: run(outputs, chunk), chunks))
        return [np.concatenate(values) for values in zip(*parts, strict=True)]  # (batch, ...) each

    def _threads(self, count: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._pool._max_workers < count:
                self._pool = ThreadPoolExecutor(count, thread_name_prefix="taidpt-graph")
            return self._pool

    def _open(self, threads: int) -> Any:
        """The function that runs it with some threads, its metadata and the shape of its input; opened once."""
        with self._lock:
            if threads not in self._runs:
                opener = _open_openvino if self.backend == "openvino" else _open_onnxruntime
                try:
                    self._runs[threads] = opener(self.path, self.weights, threads)
                except Exception as error:  # what the runtimes raise has no common class
                    reason = " ".join(str(error).split())[:300].rstrip(".")
                    raise GraphError(
                        f"The graph {str(self.path)!r} cannot be opened ({reason}): make it again."
                    ) from error
            return self._runs[threads]


def open_checkpoint_graph(
    folder: str | Path, weights: Sequence[str | Path], backend: str = "onnx", threads: int = 1
) -> ImageGraph | None:
    """The graph beside a stored checkpoint, if it is of these weights and this configuration.

    Args:
        folder (`str` or `Path`): the checkpoint.
        weights (`Sequence[str | Path]`): its safetensors files.
        backend (`str`, *optional*, defaults to `"onnx"`): `"onnx"` or `"openvino"`.
        threads (`int`, *optional*, defaults to 1): as of [`ImageGraph`].

    Returns:
        [`ImageGraph`]: `None` where there is none.

    Raises:
        GraphError: it is of another checkpoint, or cannot be opened.
    """
    path = Path(folder) / GRAPH_FILE
    if not path.is_file():
        return None
    graph = ImageGraph(path, weights, backend, threads)
    if graph.metadata.get(CHECKPOINT_KEY) != digest_checkpoint(Path(folder) / "config.json", weights):
        raise GraphError(
            f"The graph {str(path)!r} was not made from the weights and the configuration beside it: make it again "
            f"with `taidpt export {str(folder)!r} --in-place`."
        )
    return graph


def count_processors() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _location(weights: Path) -> str:
    """What a graph calls a weight file."""
    return f"../{weights.name}"


def _open_onnxruntime(path: Path, weights: Sequence[Path], threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    contents = [_mapped(file) for file in weights]
    if contents:
        names = [_location(file) for file in weights]
        options.add_external_initializers_from_files_in_memory(names, contents, [len(content) for content in contents])
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(outputs: Sequence[str], pixels: np.ndarray, held: Any = contents) -> list[np.ndarray]:
        return session.run(list(outputs), {INPUT: np.ascontiguousarray(pixels, dtype=np.float32)})

    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    return run, session.get_modelmeta().custom_metadata_map, *_check_shapes(shapes)


def _open_openvino(path: Path, weights: Sequence[Path], threads: int) -> Any:
    """As ONNX Runtime; OpenVINO takes no files by name, so the weights are put into the graph first."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    contents = {_location(file): _mapped(file) for file in weights}
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not entries:
            continue
        if entries["location"] not in contents:
            raise ValueError(f"it points to {entries['location'][:80]!r}, which is not a weight file beside it")
        start = int(entries["offset"])
        tensor.raw_data = contents[entries["location"]][start : start + int(entries["length"])]
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}  # else bf16 where there are units
    if threads == 1:
        settings = settings | {"INFERENCE_NUM_THREADS": count_processors(), "NUM_STREAMS": count_processors()}
    core = _openvino_core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    requests = threading.local()

    def run(outputs: Sequence[str], pixels: np.ndarray) -> list[np.ndarray]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        results = requests.own.infer({INPUT: np.ascontiguousarray(pixels, dtype=np.float32)})
        return [np.array(results[name]) for name in outputs]  # copied: a request keeps its memory

    metadata = {entry.key: entry.value for entry in model.metadata_props}
    shapes = {
        value.name: [side.dim_value or side.dim_param for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    return run, metadata, *_check_shapes(shapes)


@cache
def _openvino_core() -> Any:
    """The one core of a process, kept for its life.

    OpenVINO's CPU plugin lends the thread that makes it a stack for signals, and frees it with the last graph of the
    core while the thread still points to it: the next signal (Ctrl-C, the end of a child process) then ends the
    process.
    """
    import openvino

    return openvino.Core()


def _check_shapes(shapes: dict[str, Any]) -> tuple[list[Any], int | None]:
    """The shape of the pixels that a graph takes, and the number of its classes where it gives logits."""
    if not {INPUT, *FEATURES} <= set(shapes) or len(shapes[INPUT]) != 4:
        raise ValueError(f"it does not take {INPUT} or does not give {' and '.join(FEATURES)}")
    classes = shapes[SCORES[0]][-1] if shapes.get(SCORES[0]) else None
    return list(shapes[INPUT]), classes if isinstance(classes, int) else None


def _mapped(path: Path) -> Any:
    """The content of a file, read as it is needed."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


__all__ = [
    "BACKENDS",
    "CHECKPOINT_KEY",
    "FEATURES",
    "GRAPH_FILE",
    "INPUT",
    "SCORES",
    "TOWER_KEY",
    "GraphError",
    "ImageGraph",
    "count_processors",
    "digest_checkpoint",
    "missing_runtime",
    "open_checkpoint_graph",
    "require_backend",
]
