"""What an image processor may do: plausible sizes and finite numbers, checked before any pixel is made.

Its settings are a file beside a checkpoint, which may come from anywhere. A crop of 100,000 pixels would take 30 GB,
and a standard deviation of zero would give scores that are not numbers, without a word.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

MAX_SIDE = 16_384  # pixels of what a model sees
SIZES = ("size", "crop_size", "pad_size")
NUMBERS = {  # setting: whether zero is one of its values
    "image_mean": True,
    "image_std": False,
    "rescale_factor": False,
}


def check_processor(processor: Any, name: str) -> None:
    """Makes sure that the settings of an image processor are plausible.

    Args:
        processor (`BaseImageProcessor`): settings that it does not have are not looked at.
        name (`str`): whose it is, for the message.

    Raises:
        ValueError: a size is not one, or a number is not finite; one sentence.
    """
    for setting in SIZES:
        size = getattr(processor, setting, None)
        for side, value in dict(size or {}).items():
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (is_whole and 1 <= value <= MAX_SIDE):
                _refuse(name, f"{setting}[{side!r}]", value, f"a whole number from 1 to {MAX_SIDE}")
    for setting, may_be_zero in NUMBERS.items():
        value = getattr(processor, setting, None)
        several = isinstance(value, Iterable) and not isinstance(value, str)
        for entry in list(value) if several else [] if value is None else [value]:  # type: ignore[arg-type]
            is_number = isinstance(entry, numbers.Real) and not isinstance(entry, bool) and math.isfinite(entry)
            if not is_number or (entry == 0 and not may_be_zero):
                _refuse(name, setting, value, "finite numbers" + ("" if may_be_zero else " other than 0"))


def _refuse(name: str, setting: str, value: Any, wanted: str) -> None:
    raise ValueError(
        f"The image processor of {name!r} cannot be used: `{setting}` is {repr(value)[:80]}; give {wanted} in its "
        "preprocessor_config.json."
    )


__all__ = ["check_processor"]
