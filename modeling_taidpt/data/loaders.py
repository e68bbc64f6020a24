"""Labelled images and captions by what they are: each loader has a file of its own, this one finds the right one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from .captions import (
    load_caption_dataset,
    load_caption_file,
    load_coco_captions,
    load_localized_narratives,
    load_template_captions,
)
from .coco import load_coco
from .folder import LABEL_FILES, load_image_dataset, load_image_folder
from .nuswide import load_nuswide
from .sources import IMAGE_SUFFIXES
from .voc import load_voc

IMAGE_LOADERS: dict[str, Callable[..., Dataset]] = {
    "voc": load_voc,
    "coco": load_coco,
    "nuswide": load_nuswide,
    "folder": load_image_folder,
    "hub": load_image_dataset,
}
CAPTION_LOADERS: dict[str, Callable[..., Dataset]] = {
    "coco": load_coco_captions,
    "localized_narratives": load_localized_narratives,
    "file": load_caption_file,
    "hub": load_caption_dataset,
    "templates": load_template_captions,
}


def load_images(data: Any, loader: str | None = None, **options: Any) -> Dataset:
    """Reads labelled images.

    Args:
        data (`str`, `Path` or `Dataset`): a folder of VOC, COCO, NUS-WIDE or custom images, told by what it
            holds; a data set; or else a Hub repository.
        loader (`str`, *optional*): `"voc"`, `"coco"`, `"nuswide"`, `"folder"` or `"hub"`, where it is known.
        **options: of that loader, as `split="test"`.

    Returns:
        `Dataset`: `image` (decoded when read), `labels` (list of `ClassLabel`), `image_id`.

    Raises:
        FileNotFoundError: If a file is missing; it says which one and where it is had.
        ValueError: If there is no such loader or option, or the data is wrong; see the loader.
    """
    return _call(IMAGE_LOADERS, loader or _kind(data), data, options)


def load_captions(data: Any, loader: str | None = None, **options: Any) -> Dataset:
    """Reads a corpus of captions.

    Args:
        data (`str`, `Path` or several): file or files, or a Hub repository; for `"templates"` the class names.
        loader (`str`, *optional*): `"coco"`, `"localized_narratives"`, `"file"`, `"hub"` or `"templates"`; by default
            `"hub"` for what can only be a repository, else `"file"`.
        **options: of that loader, as `captions_per_image=1` or `exclude_image_ids=`.

    Returns:
        `Dataset`: `caption` and, where it is known, `image_id`.

    Raises:
        FileNotFoundError: If a file is missing; it says which one and where it is had.
        ValueError: If there is no such loader or option, or the data is wrong; see the loader.
    """
    return _call(CAPTION_LOADERS, loader or ("hub" if is_repository(data) else "file"), data, options)


def is_repository(data: Any) -> bool:
    """Whether a text can only name a repository: nothing here is called so, and a file would end in .csv or so."""
    is_name = (
        isinstance(data, str) and bool(data.strip()) and data.count("/") <= 1 and not data.startswith((".", "/", "~"))
    )
    return is_name and not Path(data).suffix and not Path(data).exists()


def is_labelled(data: str | Path) -> bool:
    """Whether a folder holds labelled images that [`load_images`] reads.

    Args:
        data (`str` or `Path`): the folder; of anything else the answer is no.

    Returns:
        `bool`: by the files that are there, which are not read.
    """
    try:
        return Path(data).is_dir() and bool(_kind(data))
    except ValueError:
        return False


def _call(loaders: Mapping[str, Callable[..., Dataset]], name: str, data: Any, options: dict[str, Any]) -> Dataset:
    if name not in loaders:
        raise ValueError(f"There is no loader {name!r}: choose one of {', '.join(loaders)}.")
    parameters = inspect.signature(loaders[name]).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [option for option in options if option not in parameters]
    if unknown and not takes_any:
        known = ", ".join(list(parameters)[1:])
        raise ValueError(f"The loader {name!r} has no option {unknown[0]!r}: it has {known}.")
    return loaders[name](data, **options)


def _kind(data: Any) -> str:
    """Which loader suits, told by the files that are there."""
    if not isinstance(data, (str, Path)):
        return "hub"
    folder = Path(data)
    if not folder.is_dir():
        if isinstance(data, Path) or data.count("/") > 1 or data.startswith((".", "/", "~")):
            raise FileNotFoundError(f"The folder of images {str(data)!r} does not exist: check the path.")
        return "hub"
    if (folder / "ImageSets" / "Main").is_dir():
        return "voc"
    if next(folder.glob("annotations/instances_*.json"), None) is not None:
        return "coco"
    if (folder / "ImageList").is_dir():
        return "nuswide"
    if any((folder / name).is_file() for name in LABEL_FILES):
        return "folder"
    by_label = ""
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.glob("*/*")):
        by_label = " Folders that are named by a label are read with `loader='hub'` and `label_column='label'`."
    raise ValueError(
        f"The folder {str(folder)!r} is none of VOC (ImageSets/Main), COCO (annotations/instances_*.json) or NUS-WIDE "
        f"(ImageList), and holds no label file: write one of {', '.join(LABEL_FILES)}.{by_label}"
    )


__all__ = ["CAPTION_LOADERS", "IMAGE_LOADERS", "is_labelled", "is_repository", "load_captions", "load_images"]
