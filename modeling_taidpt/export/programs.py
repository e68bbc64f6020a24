"""Models for use without this package: image in, probabilities (and heatmap cells) out, as ONNX or `torch.export`.

The class embeddings are computed once and stored, the text tower is left out. The number of images is free, and for
ViT towers their size too; convolutional ones, and models that see images in windows (`multi_crop`), keep the size that
the image processor makes. The probabilities are those of the pipeline.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..atomic import staged_folder
from ..graph_export import any_size, export_program, name_dimensions, quiet, require_exporter, sample_pixels
from ..hub import find_image_processor
from ..modeling_taidpt import TaiDptModel
from ..onnx_graphs import INPUT
from ..pipelines.heatmaps import cell_shares

ONNX_FILE, QUANTIZED_FILE, TORCH_FILE = "model.onnx", "model_quantized.onnx", "model.pt2"
LABELS_FILE = "labels.json"
LARGEST_ONNX = 1_900_000_000  # bytes of weights in one file; protobuf ends at 2 GiB


class ImageScorer(nn.Module):
    """What is exported: pixels to probabilities, and with `heatmaps` also to the cosines of the cells.

    Args:
        model ([`TaiDptModel`]): the model; its CLIP is shared unless it must be cast or moved.
        heatmaps (`bool` or `"shares"`, *optional*, defaults to `False`): whether the cosines are returned too, or what
            the pipeline's heatmaps show of them.
    """

    def __init__(self, model: TaiDptModel, heatmaps: bool | str = False) -> None:
        super().__init__()
        with torch.no_grad():
            self.model = model.bake()
        if (self.model.dtype, self.model.device.type) != (torch.float32, "cpu"):
            self.model = copy.deepcopy(self.model).to("cpu", torch.float32)
        self.heatmaps = heatmaps

    def forward(self, pixel_values: torch.Tensor) -> Any:
        """Scores images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): normalised pixels.

        Returns:
            `tuple[torch.Tensor, ...]`: probabilities `(batch, classes)` and, with `heatmaps`, the similarity map, or
            the shares, `(batch, classes, rows, columns)`.
        """
        outputs = self.model(pixel_values=pixel_values, interpolate_pos_encoding=True, return_dict=True)
        probabilities = self.model.probabilities(outputs.logits)  # (batch, classes)
        if not self.heatmaps:
            return (probabilities,)
        cells = outputs.similarity_map  # (batch, classes, rows, columns)
        return probabilities, cell_shares(cells) if self.heatmaps == "shares" else cells


class _NamedScorer(ImageScorer):
    """The same with names, which transformers' exporter gives the outputs of a graph."""

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scores images, as `dict[str, torch.Tensor]`."""
        maps = "heatmaps" if self.heatmaps == "shares" else "similarity_map"
        return dict(zip(("probabilities", maps), super().forward(pixel_values), strict=False))


def export_onnx(
    model: TaiDptModel,
    output: str | Path,
    *,
    heatmaps: bool | str = False,
    quantize: bool = False,
    opset: int = 20,
    image_processor: Any = None,
) -> Path:
    """Writes a folder that ONNX Runtime serves: the graph, the labels and the preprocessing.

    The graph takes `pixel_values` `(batch, 3, height, width)`, float32, and gives `probabilities` `(batch, classes)`
    and, with `heatmaps`, `similarity_map` `(batch, classes, rows, columns)`: the cosine of each cell of the image with
    the label; with `heatmaps="shares"` instead `heatmaps`, of the same shape: what those of the pipeline show
    ([`~pipelines.heatmaps.cell_shares`]), at the size that the graph sees.

    `labels.json` holds `{"labels": [...]}` in the order of the classes, with `"thresholds"` where the
    checkpoint has them; `preprocessor_config.json` the settings of the image processor, as transformers writes them.

    Args:
        model ([`TaiDptModel`]): the model.
        output (`str`): folder; files of an earlier export there are replaced, other files stay.
        heatmaps (`bool` or `"shares"`, *optional*, defaults to `False`): adds the output `similarity_map`, or
            `heatmaps`.
        quantize (`bool`, *optional*, defaults to `False`): also writes `model_quantized.onnx`, with int8 weights and
            activations quantised as they come. It costs accuracy: `measure_quantization` says how much on your images.
        opset (`int`, *optional*, defaults to 20): version of the ONNX operators, 18 or later.
        image_processor (`BaseImageProcessor`, *optional*): the one beside the checkpoint by default, else CLIP's.

    Returns:
        `Path`: the graph, `model_quantized.onnx` with `quantize`, else `model.onnx`.

    Raises:
        ImportError: the extra `taidpt[onnx]` is not installed.
        ValueError: `output` is a file, `opset` is too old, or `heatmaps` is another word.
    """
    require_exporter(*(["onnxruntime"] if quantize else []))
    import onnx_ir

    if heatmaps not in (True, False, "shares"):
        raise ValueError(f"`heatmaps` is {heatmaps!r}: give True, False or 'shares'.")
    if opset < 18:
        raise ValueError(f"`opset` is {opset}: give 18 or later.")
    processor = _processor_of_views(image_processor or find_image_processor(model.config), model.config)
    with _staged(output, processor, model.config) as folder:
        scorer = _NamedScorer(model, heatmaps).eval()
        program = export_program(scorer, processor, opset).program
        name_dimensions(program.graph)
        weights = sum(tensor.nbytes for tensor in scorer.state_dict().values())
        onnx_ir.save(
            program, folder / ONNX_FILE, external_data=f"{ONNX_FILE}.data" if weights > LARGEST_ONNX else None
        )
        if quantize:
            _quantize(folder / ONNX_FILE, folder / QUANTIZED_FILE)
    return Path(output) / (QUANTIZED_FILE if quantize else ONNX_FILE)


def export_torch(
    model: TaiDptModel, output: str | Path, *, heatmaps: bool = False, image_processor: Any = None
) -> Path:
    """Writes a folder with a program for `torch.export.load`, the labels and the preprocessing.

    Inputs, outputs and the other files are those of [`export_onnx`]; the program returns a tuple.

    Args:
        model ([`TaiDptModel`]): the model.
        output (`str`): folder; files of an earlier export there are replaced, other files stay.
        heatmaps (`bool`, *optional*, defaults to `False`): adds the output `similarity_map`.
        image_processor (`BaseImageProcessor`, *optional*): the one beside the checkpoint by default, else CLIP's.

    Returns:
        `Path`: the program, `model.pt2`.

    Raises:
        ValueError: `output` is a file.
    """
    processor = _processor_of_views(image_processor or find_image_processor(model.config), model.config)
    with _staged(output, processor, model.config) as folder:
        content = io.BytesIO()  # torch's own writer ends the whole process on a full disk
        torch.export.save(_capture(ImageScorer(model, heatmaps).eval(), processor), content)
        (folder / TORCH_FILE).write_bytes(content.getbuffer())
    return Path(output) / TORCH_FILE


def _processor_of_views(processor: Any, config: Any) -> Any:
    """The image processor with the settings that the views of a model need: itself where they need none."""
    settings = config.view_settings()
    if not settings:
        return processor
    processor = copy.deepcopy(processor)
    for name, value in settings.items():
        setattr(processor, name, value)
    return processor


def _capture(scorer: ImageScorer, processor: Any) -> torch.export.ExportedProgram:
    """Captures the computation, with a free number of images and, for ViTs, a free size."""
    pixels, dimensions = sample_pixels(scorer.model, processor)
    with torch.no_grad(), any_size(), quiet():
        return torch.export.export(scorer, (pixels,), dynamic_shapes={INPUT: dimensions})


def _quantize(graph: Path, output: Path) -> None:
    """Quantises weights to 8 bit, but for depthwise convolutions: they hold little and lose most."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    depthwise = [
        node.name
        for node in onnx.load(graph, load_external_data=False).graph.node
        if node.op_type == "Conv" and any(entry.name == "group" and entry.i > 1 for entry in node.attribute)
    ]
    with quiet():
        quantize_dynamic(graph, output, weight_type=QuantType.QUInt8, per_channel=True, nodes_to_exclude=depthwise)


@contextlib.contextmanager
def _staged(output: str | Path, processor: Any, config: Any) -> Iterator[Path]:
    """A folder for the model; its files replace an earlier export once all of them are written."""
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"`output` {str(output)!r} is a file: give a folder.")
    # those of an earlier export, perhaps for other labels, go
    with staged_folder(output, lambda written: {ONNX_FILE, f"{ONNX_FILE}.data", QUANTIZED_FILE, TORCH_FILE}) as folder:
        yield folder
        processor.save_pretrained(folder)
        table: dict[str, Any] = {"labels": config.labels}
        if getattr(config, "score_thresholds", None) is not None:
            table["thresholds"] = config.score_thresholds  # one for all labels, or one per label
        text = json.dumps(table, indent=2, ensure_ascii=False)
        (folder / LABELS_FILE).write_text(text + "\n", encoding="utf-8")


__all__ = ["ImageScorer", "export_onnx", "export_torch"]
