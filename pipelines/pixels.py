"""Pixels of an image as CLIP's and SigLIP's image processors make them, in fewer passes and without PyTorch.

Resizing is Pillow's, as in the processors of transformers that do not need torchvision: with torchvision installed
transformers resizes by it, and its rounding would change scores. Scaling and normalising are one product and one sum.
Other processors, and settings that are not known here, are left to transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

BACKENDS_MODULE = "transformers.image_processing_backends"  # whose classes do what is done here
STEPS = ("_preprocess", "process_image", "resize", "center_crop", "rescale", "normalize")
PROCESSORS = ("CLIPImageProcessor", "CLIPFeatureExtractor", "SiglipImageProcessor")  # by the name in their file
IGNORED = {  # what such a file says besides, and the values with which it changes nothing
    "do_convert_rgb": (True, False, None),
    "do_pad": (False, None),
    "pad_size": (None,),
}
SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std"),
)


@dataclass(frozen=True)
class PixelSteps:
    """What is done to an RGB image.

    Args:
        size (`int` or `tuple[int, int]`): shorter side, or height and width, after resizing.
        resample (`int`): Pillow's filter.
        crop (`tuple[int, int]`, *optional*): height and width of the middle that is kept.
        factor (`np.ndarray` of shape `(3, 1, 1)`): float32, of each channel.
        shift (`np.ndarray` of shape `(3, 1, 1)`): float32, added then.
    """

    size: int | tuple[int, int]
    resample: int
    crop: tuple[int, int] | None
    factor: np.ndarray
    shift: np.ndarray

    @property
    def seen(self) -> tuple[int, int] | None:
        """Height and width of the pixels of any image; `None` where they depend on the image, or may be padded."""
        if self.crop is None:
            return None if isinstance(self.size, int) else self.size
        least = (self.size, self.size) if isinstance(self.size, int) else self.size
        return self.crop if self.crop[0] <= least[0] and self.crop[1] <= least[1] else None

    def __call__(self, image: Image.Image) -> np.ndarray | None:
        """Pixels `(3, height, width)`, float32, of an RGB image; `None` where the middle would have to be padded."""
        height, width = resized = resized_sides(self.size, image.height, image.width)
        crop = self.crop or resized
        if crop[0] > height or crop[1] > width:
            return None
        top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling(self.resample))
        seen = np.asarray(image)[top : top + crop[0], left : left + crop[1]]  # (height, width, 3), uint8
        pixels = np.empty((3, *crop), dtype=np.float32)  # (3, height, width)
        np.multiply(seen.transpose(2, 0, 1), self.factor, out=pixels)
        pixels += self.shift
        return pixels


def resized_sides(size: int | tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Height and width after resizing, rounded as transformers rounds them."""
    if not isinstance(size, int):
        return size
    short, long = sorted((height, width))
    longer = int(size * long / short)
    return (size, longer) if height <= width else (longer, size)


def steps_of(setting: Callable[[str], Any]) -> PixelSteps | None:
    """The steps that the settings of an image processor name.

    Args:
        setting (`Callable`): the value of a setting by its name, `None` where there is none.

    Returns:
        [`PixelSteps`]: `None` where the settings ask for something else.
    """
    values = {name: setting(name) for name in (*SETTINGS, *IGNORED)}
    if not (values["do_resize"] and values["do_rescale"] and values["do_normalize"]):
        return None
    if any(values[name] not in accepted for name, accepted in IGNORED.items()):
        return None
    size, crop = _sides(values["size"]), None
    if values["do_center_crop"]:
        crop = _sides(values["crop_size"])
        if not isinstance(crop, tuple):
            return None
    mean, std = (np.asarray(values[name], dtype=np.float64) for name in ("image_mean", "image_std"))
    if size is None or values["resample"] not in tuple(Image.Resampling) or mean.shape != (3,) or std.shape != (3,):
        return None
    factor, shift = values["rescale_factor"] / std, -mean / std  # (3,) each
    factor, shift = (array.astype(np.float32)[:, None, None] for array in (factor, shift))  # (3, 1, 1) each
    return PixelSteps(size, int(values["resample"]), crop, factor, shift)


def _sides(size: Any) -> int | tuple[int, int] | None:
    """The shorter side, or height and width, that a setting names; `None` for other settings."""
    given = {} if size is None else {name: value for name, value in dict(size).items() if value is not None}
    if set(given) == {"shortest_edge"}:
        return int(given["shortest_edge"])
    return (int(given["height"]), int(given["width"])) if set(given) == {"height", "width"} else None


def steps_of_processor(processor: Any, replaced: Mapping[str, Any] | None = None) -> PixelSteps | None:
    """The steps of an image processor of transformers that does nothing else.

    Args:
        processor (`BaseImageProcessor`): of any class.
        replaced (`Mapping[str, Any]`, *optional*): settings to take instead of its own.

    Returns:
        [`PixelSteps`]: `None` for a processor whose class does something else, or with settings that ask for it.
    """
    kind, replaced = type(processor), replaced or {}
    if not kind.__module__.startswith("transformers.models."):
        return None
    if any(getattr(getattr(kind, step, None), "__module__", None) != BACKENDS_MODULE for step in STEPS):
        return None
    return steps_of(lambda name: replaced[name] if name in replaced else getattr(processor, name, None))


def steps_of_file(settings: Mapping[str, Any]) -> PixelSteps | None:
    """The steps that a preprocessor_config.json names, `None` where only transformers knows what it means."""
    kind = str(settings.get("image_processor_type", settings.get("feature_extractor_type", "")))
    if kind.removesuffix("Fast") not in PROCESSORS or not set(SETTINGS) <= set(settings):
        return None
    return steps_of(settings.get)


def image_pixels(processor: Any, image: Image.Image, replaced: Mapping[str, Any] | None = None) -> Any:
    """Pixels `(1, 3, height, width)` of an RGB image as an image processor makes them.

    Args:
        processor (`BaseImageProcessor`): of any class.
        image (`PIL.Image.Image`): RGB.
        replaced (`Mapping[str, Any]`, *optional*): settings to take instead of its own.

    Returns:
        `np.ndarray`, or what the processor returns as `"pixel_values"` for `return_tensors="pt"`.
    """
    is_rgb = isinstance(image, Image.Image) and image.mode == "RGB"
    steps = steps_of_processor(processor, replaced) if is_rgb else None
    pixels = None if steps is None else steps(image)  # (3, height, width)
    if pixels is None:
        return processor(images=image, **{"return_tensors": "pt"} | dict(replaced or {}))["pixel_values"]
    return pixels[None]


__all__ = ["PixelSteps", "image_pixels", "resized_sides", "steps_of", "steps_of_file", "steps_of_processor"]
