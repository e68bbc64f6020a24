"""What an image processor does last, as a table of the 256 values of a pixel.

CLIP's processor and its like resize and crop 8-bit pixels, then rescale and normalise each pixel by itself. The table
holds what the processor itself makes of every value, so looking pixels up gives the very numbers that it would give;
images stay a quarter as large until they reach the device of the model, and a batch is looked up in one pass.
"""

from __future__ import annotations

from typing import Any

import torch

# Settings of a call that leaves pixels as bytes. They stay with NumPy: to copy them, PyTorch starts threads of its own
# in every thread that reads images, and with more threads than processors the model runs slower.
BYTES_ONLY = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
STEPS = ("__call__", "preprocess", "_preprocess", "rescale", "normalize", "rescale_and_normalize")
MODULES = ("transformers.image_processing_backends", "transformers.image_processing_utils")


def scales_last(processor: Any) -> bool:
    """Whether a processor works as those of CLIP, SigLIP and Chinese-CLIP do: rescales and normalises last."""
    steps = [step for step in (getattr(type(processor), name, None) for name in STEPS) if step is not None]
    plain = all(getattr(step, "__module__", None) in MODULES for step in steps)
    return plain and hasattr(type(processor), "_preprocess") and not getattr(processor, "do_pad", False)


def scale_pixels(pixels: torch.Tensor, processor: Any) -> torch.Tensor:
    """Rescales and normalises bytes exactly as the processor does.

    Args:
        pixels (`torch.Tensor` of shape `(batch, 3, height, width)`, uint8): resized and cropped.
        processor (`BaseImageProcessor`): one that [`scales_last`].

    Returns:
        `torch.Tensor` of shape `(batch, 3, height, width)`, fp32.
    """
    channels = pixels.shape[1]
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(channels, 16, 16)  # (channels, 16, 16)
    settings = {"do_resize": False, "do_center_crop": False, "do_convert_rgb": False, "return_tensors": "pt"}
    scaled = processor(images=values, input_data_format="channels_first", **settings)["pixel_values"]
    table = scaled.to(pixels.device, torch.float32).flatten()  # (channels * 256,)
    first = 256 * torch.arange(channels, dtype=torch.int32, device=pixels.device).view(-1, 1, 1)  # (channels, 1, 1)
    return table.index_select(0, (pixels + first).flatten()).view(pixels.shape)  # (batch, channels, height, width)


__all__ = ["BYTES_ONLY", "scale_pixels", "scales_last"]
