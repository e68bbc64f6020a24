"""Frozen features of captions and images: encoded once, cached in Arrow files, memory-mapped."""

from .captions import CaptionFeatures
from .images import ImageFeatures

__all__ = [
    "CaptionFeatures",
    "ImageFeatures",
]
