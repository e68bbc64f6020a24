"""Published weight files to models of this package."""

from .openai import convert_openai_checkpoint, convert_openai_clip
from .taidpt import convert_taidpt_checkpoint

__all__ = [
    "convert_openai_checkpoint",
    "convert_openai_clip",
    "convert_taidpt_checkpoint",
]
