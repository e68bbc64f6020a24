"""The quick road of `taidpt predict`: a stored graph, Pillow and NumPy, without importing torch and transformers.

Those two take most of the time to an answer. [`open_quick_tagger`] is the one place that says which road is taken:
the quick one serves a whole checkpoint on this machine with the graph of its own weights beside it, its own labels,
and its own views. Whatever else is asked for goes by the pipeline.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from .common import DEFAULT_MODEL, say

PACKAGES = ("modeling_taidpt", "modeling_taidpt.pipelines")
MODULES = (
    "onnx_graphs",
    "pipelines.image_reading",
    "pipelines.pixels",
    "pipelines.processor_checks",
    "pipelines.results",
)
VIEWS = ("image_size", "center_crop", "flip", "multi_crop", "second_look")
CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"


class QuickTagger:
    """A checkpoint that tags images by its stored graph.

    Args:
        config (`Mapping[str, Any]`): its config.json.
        steps (`PixelSteps`): what is done to an image.
        graph (`ImageGraph`): what is done to pixels.
        modules (`SimpleNamespace`): the modules of the package that need no PyTorch, by their last name.
    """

    def __init__(self, config: Mapping[str, Any], steps: Any, graph: Any, modules: SimpleNamespace) -> None:
        self.config, self.steps, self.graph, self.modules = config, steps, graph, modules
        self.has_probabilities = config.get("score_calibration") is not None

    def __call__(
        self, image: str, top_k: int | None = None, threshold: Any = None, **unset: None
    ) -> list[dict[str, Any]]:
        """Labels and scores of an image, as of the pipeline, whose other options are `None`.

        Raises:
            ValueError: the image cannot be read, or an option is out of range; one sentence.
        """
        import numpy as np

        reading, results, thresholds = (
            self.modules.image_reading,
            self.modules.results,
            self.config["score_thresholds"],
        )
        if top_k is None and threshold is None:
            selection = results.default_selection(SimpleNamespace(score_thresholds=thresholds))
            top_k, threshold = selection["top_k"], selection["threshold"]
        top_k, threshold = results.check_top_k(top_k), results.check_threshold(threshold, thresholds is not None)
        entry = reading.ImageEntry(image)
        opened = reading.read_image(entry)
        resized = self.modules.pixels.resized_sides(self.steps.size, opened.height, opened.width)
        reading.require_resizable(entry, opened, resized)
        pixels = self.steps(opened)[None]  # (1, 3, height, width)
        (logits,) = self.graph.run(["logits"], pixels)  # (1, classes)
        values = np.asarray(self.config["score_scale"]) * logits[0].astype(np.float64)  # (classes,)
        with np.errstate(over="ignore"):
            scores = 1 / (1 + np.exp(-(values + np.asarray(self.config["score_bias"]))))  # (classes,)
        labels = _labels(self.config)
        order = results.best_labels(scores, threshold, thresholds, top_k)
        return [{"label": labels[index], "score": float(scores[index])} for index in order]


def open_quick_tagger(
    model: str, options: Mapping[str, Any], backend: str | None = None, device: str | None = None
) -> QuickTagger | None:
    """The quick road for a command, where it serves what is asked for.

    Args:
        model (`str`): checkpoint, as the user wrote it.
        options (`Mapping[str, Any]`): of the pipeline; `top_k` and `threshold` are served, others only where they are
            `None`.
        backend (`str`, *optional*): as the user chose; ONNX Runtime by default, where it is installed.
        device (`str`, *optional*): as the user chose.

    Returns:
        [`QuickTagger`]: `None` where the pipeline is to serve it.

    Raises:
        ImportError: the runtime of the backend that was chosen is not installed.
        ValueError: there is no such backend.
    """
    asks_more = any(value is not None for name, value in options.items() if name not in ("top_k", "threshold"))
    folder = _find_folder(model)
    if backend == "torch" or device not in (None, "cpu") or asks_more or folder is None:
        return None
    modules = light_modules()
    if backend is not None:
        modules.onnx_graphs.require_backend(backend)
    elif modules.onnx_graphs.missing_runtime("onnx") is not None:
        return None
    try:
        config = _read(folder / CONFIG)
        settings = _read(folder / PROCESSOR)
        modules.processor_checks.check_processor(SimpleNamespace(**settings), model)
        steps = modules.pixels.steps_of_file(settings)
    except (OSError, ValueError, TypeError, RecursionError):
        return None  # the pipeline says what is wrong
    seen = None if steps is None else steps.seen
    if seen is None or not _is_plain(config):
        return None
    threads = modules.onnx_graphs.count_processors()
    try:
        graph = modules.onnx_graphs.open_checkpoint_graph(folder, [folder / WEIGHTS], backend or "onnx", threads)
    except modules.onnx_graphs.GraphError as error:
        say(f"taidpt: {error}")
        return None
    serves = graph is not None and graph.classes == len(_labels(config)) and graph.fits((1, 3, *seen))
    return QuickTagger(config, steps, graph, modules) if serves else None


def light_modules() -> SimpleNamespace:
    """The modules of the package that need neither torch nor transformers, by their last name."""
    with _stand_ins():
        return SimpleNamespace(
            **{name.rpartition(".")[2]: importlib.import_module(f"{PACKAGES[0]}.{name}") for name in MODULES}
        )


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Empty modules in place of the packages, for as long as modules below them are imported.

    Importing a module first imports the packages around it, and theirs register the models with transformers. Nothing
    of it is left afterwards: whoever imports the package then gets it whole.
    """
    if PACKAGES[0] in sys.modules:  # imported whole: its modules are as good
        yield
        return
    try:
        for name in PACKAGES:
            spec = find_spec(name)  # of the second one below the first one's stand-in
            if spec is None or spec.submodule_search_locations is None:
                raise ImportError(f"The package {name} is not installed as it should be: reinstall taidpt.")
            package = ModuleType(name)
            package.__path__ = list(spec.submodule_search_locations)
            sys.modules[name] = package
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGES[0]]:
            del sys.modules[name]


def _find_folder(model: str) -> Path | None:
    """The folder of a whole checkpoint in one file on this machine; `None` for another one."""
    folder = Path(model)
    if model == DEFAULT_MODEL and not folder.is_dir():
        spec = find_spec(PACKAGES[0])
        folder = Path(next(iter(spec.submodule_search_locations or []), "")) / "assets" / model if spec else folder
    return folder if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() else None


def _read(path: Path) -> dict[str, Any]:
    entries = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(entries, dict):
        raise ValueError(f"{str(path)!r} holds no settings.")
    return entries


def _is_plain(config: dict[str, Any]) -> bool:
    """Whether a configuration is one of this package with labels, plausible scores and no views; sets defaults."""
    defaults = {"flip": False, "multi_crop": False, "prompts_only": False, "score_scale": 1.0, "score_bias": 0.0}
    for name, value in (defaults | {"score_thresholds": None}).items():
        config.setdefault(name, value)
    labels = _labels(config)
    if config.get("model_type") != "taidpt" or config["flip"] or config["multi_crop"] or config["prompts_only"]:
        return False
    if not labels or not all(isinstance(label, str) for label in labels):
        return False
    values = [config["score_scale"], config["score_bias"]]
    values += [] if config["score_thresholds"] is None else [config["score_thresholds"]]
    return all(_is_score_setting(value, len(labels)) for value in values)


def _labels(config: Mapping[str, Any]) -> list[Any]:
    """The labels in the order of the scores; none where they are not numbered from 0 on.

    `class_names` is what prompts say, which labels that were renamed differ from.
    """
    stored = config.get("id2label")
    numbers = [str(number) for number in range(len(stored))] if isinstance(stored, dict) else []
    return [stored[number] for number in numbers] if numbers and set(numbers) == set(stored) else []


def _is_score_setting(value: Any, classes: int) -> bool:
    """Whether a value is a finite number, or a list of one for each label."""
    several: Sequence[Any] = value if isinstance(value, list) else [value] * classes
    numbers = [entry for entry in several if isinstance(entry, (int, float)) and not isinstance(entry, bool)]
    return len(several) == len(numbers) == classes and all(math.isfinite(entry) for entry in numbers)


__all__ = ["QuickTagger", "light_modules", "open_quick_tagger"]
