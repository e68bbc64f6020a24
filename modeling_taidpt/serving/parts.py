"""Parts of a tagging run: the images that go into one output file, tagged whole and written whole.

The local and the Ray engine tag a part with this code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from transformers import pipeline

from ..data.sources import ImageItem
from ..features.fingerprints import model_fingerprint, tokenizer_fingerprint
from ..hub import find_image_processor
from ..onnx_graphs import count_processors, missing_runtime
from ..pipelines import TASK
from ..pipelines.image_batches import read_batch
from .formats import SCHEMA
from .output import TaggingOutput, digest_names, identify

Row = Any  # results of an image: pairs of label and score, and an error or None


class Part(NamedTuple):
    """Images that go into one output file: its number, and the images in their order."""

    number: int
    items: list[ImageItem]


class PartTagger:
    """Tags the images of one part after the other; every worker of an engine has one.

    Args:
        model: as in [`tag_images`].
        options (`dict`): options of the pipeline's call.
        batch_size (`int`): images in a forward pass.
        num_workers (`int`, *optional*): processes that decode; `None` chooses by the device of the model.
        pipeline_kwargs (`dict`): arguments of [`~transformers.pipeline`].
        backend (`str`, *optional*): what runs the image tower; see [`choose_backend`].
        advance (`Callable`, *optional*): is told of every batch how many images it held.
    """

    def __init__(
        self,
        model: Any,
        options: dict[str, Any],
        batch_size: int,
        num_workers: int | None,
        pipeline_kwargs: dict[str, Any],
        backend: str | None = None,
        advance: Callable[[int], Any] | None = None,
    ) -> None:
        if not hasattr(model, "preprocess"):
            make: Any = pipeline  # its overloads know the tasks of transformers alone
            model = make(TASK, model=model, **_with_companions(model, pipeline_kwargs))
        self.pipe = model
        self.backend = choose_backend(self.pipe, backend)
        if num_workers is None:
            num_workers = 0 if self.pipe.device.type == "cpu" else min(8, count_processors() - 1)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.advance = advance or (lambda images: None)
        self.preprocess_options, self.forward_options, self.postprocess_options = self.pipe._sanitize_parameters(
            **options
        )

    def fingerprint(self) -> str:
        """Fingerprint of the model and its image processor."""
        return model_fingerprint(self.pipe.model, self.pipe.image_processor)

    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer, on which the scores of other labels than the model's own depend."""
        model = self.pipe.model
        tokenizer = self.pipe.tokenizer or (model.get_tokenizer() if hasattr(model, "get_tokenizer") else None)
        return "" if tokenizer is None else tokenizer_fingerprint(tokenizer)

    def write(self, part: Part, output: TaggingOutput) -> tuple[int, int]:
        """Tags a part and writes its file, whole or not at all.

        Returns:
            `tuple[int, int]`: rows, and rows with an error among them.

        Raises:
            OSError: a process that decodes images was killed, or the folder was deleted meanwhile.
        """
        images = [identify(item) for item in part.items]
        try:
            rows = output.kept_rows(part.number, images)
            self.advance(len(rows))
            for batch in self._tag_batches(part.items[len(rows) :]):
                if len(rows) + len(batch) < len(images):  # the last ones go into the file at once
                    output.keep_rows(part.number, len(rows), images, batch)
                rows += batch
            table = _make_table(part.items, rows)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = "A process that decodes images was killed, perhaps for want of memory"
            raise OSError(f"{reason}: run the same command again, with fewer `num_workers`.") from error
        output.save(part.number, table, images, digest_names(part.items))
        return table.num_rows, table.num_rows - table.column("error").null_count

    def tag(self, items: Sequence[ImageItem]) -> pa.Table:
        """Rows of the images, in their order, by [`SCHEMA`]."""
        return _make_table(items, [row for batch in self._tag_batches(items) for row in batch])

    def _tag_batches(self, items: Sequence[ImageItem]) -> Iterator[list[Row]]:
        """Results of the images, a batch at a time."""
        if not items:
            return
        loader = torch.utils.data.DataLoader(
            _Decoded(items, self.pipe, self.preprocess_options),
            batch_size=self.batch_size,
            num_workers=min(self.num_workers, -(-len(items) // self.batch_size)),
            collate_fn=list,
        )
        options = self.pipe.begin_run(self.forward_options, self.postprocess_options)
        for batch in loader:
            with torch.inference_mode():
                rows = list(self._score(batch, *options))
            yield [([[result["label"], result["score"]] for result in found], error) for found, error in rows]

    def _score(
        self, batch: list[tuple[Any, str | None]], forward_options: dict[str, Any], postprocess_options: dict[str, Any]
    ) -> Iterator[tuple[list[dict[str, Any]], str | None]]:
        """Results, or an error, of each image of a batch."""
        good = [features for features, error in batch if error is None]
        if good:
            inputs = {name: [features[name] for features in good] for name in good[0]}
            outputs = self.pipe.forward(inputs, **forward_options)
        index = 0
        for _, error in batch:
            if error is not None:
                yield [], error
                continue
            single = {name: values[index : index + 1] for name, values in outputs.items()}
            yield self.pipe.postprocess(single, **postprocess_options), None
            index += 1
        self.advance(len(batch))


def _make_table(items: Sequence[ImageItem], rows: Sequence[Row]) -> pa.Table:
    """Rows of images by [`SCHEMA`]."""
    columns = {
        "path": [item.name for item in items],
        "labels": [[label for label, _ in found] for found, _ in rows],
        "scores": [[score for _, score in found] for found, _ in rows],
        "error": [error for _, error in rows],
    }
    return pa.table(columns, schema=SCHEMA)


def choose_backend(pipe: Any, backend: str | None) -> str:
    """Lets the model of a pipeline run its image tower by a backend.

    Args:
        pipe ([`MultiLabelImageClassificationPipeline`]): the pipeline.
        backend (`str`, *optional*): the backend; `"auto"` is ONNX Runtime on a CPU, where it is installed and there is
            a graph of the tower, else PyTorch; by default as the model is.

    Returns:
        `str`: the backend that is used.

    Raises:
        ImportError: the runtime is not installed.
        ValueError: there is no such backend, or the model has none but PyTorch.
    """
    model = pipe.model
    if not hasattr(model, "use_backend"):
        if backend not in (None, "auto", "torch"):
            raise ValueError(f"`{type(model).__name__}` runs by PyTorch alone: leave the backend out.")
        return "torch"
    if backend not in (None, "auto"):
        model.use_backend(backend)
        return str(backend)
    current = getattr(model.clip, "image_graph", None)
    if current is not None or backend is None:
        return "torch" if current is None else str(current.backend)
    on_cpu = (model.device.type, model.dtype) == ("cpu", torch.float32)
    found = on_cpu and missing_runtime("onnx") is None and model.use_backend("onnx", make=False)
    return "onnx" if found else "torch"


class _Decoded(torch.utils.data.Dataset):
    """Pixels of images, or why there are none."""

    def __init__(self, items: Sequence[ImageItem], pipe: Any, options: dict[str, Any]) -> None:
        self.items, self.pipe, self.options = items, pipe, options

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, str | None]:
        return self._read(self.items[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, str | None]]:
        """A batch at once; `DataLoader` calls this where it is there."""
        items = [self.items[index] for index in indices]
        return read_batch(self._read, items, [item.payload for item in items], self.pipe.image_processor)

    def _read(self, item: ImageItem) -> tuple[Any, str | None]:
        if item.error is not None:
            return None, item.error
        try:
            # Bytes carry their name, so that an error says which image it was.
            payload = {"path": item.name, "bytes": item.payload} if isinstance(item.payload, bytes) else item.payload
            return self.pipe.preprocess(payload, **self.options), None
        except ValueError as error:
            return None, str(error)


def _with_companions(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Adds what `pipeline` cannot find by itself for a model that is not a name."""
    if model is None or isinstance(model, (str, Path)) or "image_processor" in arguments:
        return arguments
    return arguments | {"image_processor": find_image_processor(model.config)}


__all__ = ["Part", "PartTagger", "choose_backend"]
