"""Models for use without this package: ONNX, torch.export, a page for the browser, and what 8-bit weights cost."""

from .programs import export_onnx, export_torch
from .quantization import measure_quantization
from .web import export_web

__all__ = [
    "export_onnx",
    "export_torch",
    "export_web",
    "measure_quantization",
]
