"""Models for use without this package: ONNX and torch.export, and what 8-bit weights cost."""

from .programs import export_onnx, export_torch
from .quantization import measure_quantization

__all__ = [
    "export_onnx",
    "export_torch",
    "measure_quantization",
]
