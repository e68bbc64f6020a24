"""Models for use without this package: ONNX and torch.export, and what 8-bit weights cost."""
