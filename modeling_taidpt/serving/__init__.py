"""Tagging of any number of images; the web page and drawings of results are in `demo` and `plots`."""

from .tagging import TaggingReport, tag_images

__all__ = [
    "TaggingReport",
    "tag_images",
]
