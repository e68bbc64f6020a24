"""Frozen features of captions and images: encoded once, cached in Arrow files, memory-mapped."""

from .captions import CaptionFeatures
from .clusters import cluster_captions
from .images import ImageFeatures

__all__ = [
    "CaptionFeatures",
    "ImageFeatures",
    "cluster_captions",
]
