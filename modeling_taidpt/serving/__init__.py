"""Tagging of any number of images, and what becomes of the results; `demo` is a web page, `plots` draws."""

from .formats import TaggedImage, read_results
from .gallery import GalleryReport, write_gallery
from .sidecars import SidecarReport, write_sidecars
from .tagging import TaggingReport, tag_images

__all__ = [
    "GalleryReport",
    "SidecarReport",
    "TaggedImage",
    "TaggingReport",
    "read_results",
    "tag_images",
    "write_gallery",
    "write_sidecars",
]
