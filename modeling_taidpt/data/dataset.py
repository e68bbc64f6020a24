"""What all loaders of labelled images share: the form of the data set, its checks, and its labels as a matrix."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    List,
    Value,
    concatenate_datasets,
    load_dataset,
)
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from transformers.utils import logging

from ..captions.label_columns import label_indices, multi_hot
from ..captions.labels import match_labels
from ..captions.rows import class_names_of

logger = logging.get_logger(__name__)

IMAGE, LABELS, IMAGE_ID, UNKNOWN = "image", "labels", "image_id", "unknown"


def build_image_dataset(
    files: Sequence[Path],
    labels: Sequence[Sequence[int]],
    image_ids: Sequence[str] | Sequence[int],
    class_names: Sequence[str],
    source: str,
    skip_missing: bool = False,
    unknown: Sequence[Sequence[int]] | None = None,
) -> Dataset:
    """Makes a data set of image files; no image is opened before its row is read.

    Args:
        files (`Sequence[Path]`): the images.
        labels (`Sequence[Sequence[int]]`): indices of the classes present, one sequence per image; an empty one says
            that the image shows none.
        image_ids (`Sequence`): names or numbers of the images, all of one type.
        class_names (`Sequence[str]`): the classes.
        source (`str`): what to call the data in messages; also the name of the data set.
        skip_missing (`bool`, *optional*, defaults to `False`): leaves out images that are not on disk, with a warning.
        unknown (`Sequence[Sequence[int]]`, *optional*): indices of classes neither present nor absent.

    Returns:
        `Dataset`: `image` (decoded when read), `labels` (list of `ClassLabel`), `image_id`, and `unknown` if given.

    Raises:
        FileNotFoundError: If an image is not on disk; the first one is named.
        ValueError: If there is no image, or lengths differ.
    """
    for name, column in (("labels", labels), ("ids", image_ids), ("unknown classes", unknown)):
        if column is not None and len(column) != len(files):
            raise ValueError(f"There are {len(files)} images and {len(column)} {name} in {source}: give one each.")
    if not files:
        raise ValueError(f"There is no image in {source}: the split is empty.")
    present = files_on_disk(files)
    kept = [row for row, file in enumerate(files) if file in present]
    if len(kept) < len(files):
        first = next(file for file in files if file not in present)
        missing = len(files) - len(kept)
        if not skip_missing or not kept:
            raise FileNotFoundError(
                f"The image {str(first)!r} of {source} is not on disk ({missing} of {len(files)} are missing): check "
                "the folder, or leave missing images out with `skip_missing=True`."
            )
        logger.warning(f"{missing} of {len(files)} images of {source} are not on disk and left out.")
    classes = List(ClassLabel(names=list(class_names)))
    id_type = "string" if isinstance(image_ids[0], str) else "int64"
    features: dict[str, Any] = {IMAGE: Image(), LABELS: classes, IMAGE_ID: Value(id_type)}
    columns: dict[str, list] = {
        IMAGE: [str(files[row]) for row in kept],
        LABELS: [sorted(set(labels[row])) for row in kept],
        IMAGE_ID: [image_ids[row] for row in kept],
    }
    if unknown is not None:
        features[UNKNOWN] = classes
        columns[UNKNOWN] = [sorted(set(unknown[row])) for row in kept]
    return Dataset.from_dict(columns, features=Features(features))


def files_on_disk(files: Iterable[Path]) -> set[Path]:
    """Which of the files there are; every folder is listed once."""
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        by_folder.setdefault(file.parent, []).append(file)
    found: set[Path] = set()
    for folder, members in by_folder.items():
        names = set(os.listdir(folder)) if folder.is_dir() else set()
        found.update(file for file in members if file.name in names)
    return found


def load_split(name: str, **arguments: Any) -> Any:
    """One split of a data set on the Hub or in a folder: that which `split=` names, or the only one.

    Args:
        name (`str`): Hub repository, or folder.
        **arguments: for [`~datasets.load_dataset`], as `split="test"` and `revision`.

    Returns:
        `Dataset`.

    Raises:
        FileNotFoundError: If there is no such data set, or it cannot be reached.
        ValueError: If it has several splits and none is named, or it cannot be read.
    """
    try:
        found = load_dataset(name, **arguments)
    except DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"There is no data set {name!r} on the Hub that can be reached, nor a file or folder of that name: check "
            "it, and log in if it is private."
        ) from error
    except (OSError, ValueError, DatasetsError) as error:
        raise ValueError(f"The data set {name!r} cannot be read: {' '.join(str(error).split())}") from error
    if isinstance(found, DatasetDict):
        if len(found) > 1:
            raise ValueError(
                f"The data set {name!r} has the splits {', '.join(map(repr, found))}: name one, as "
                f"split={next(iter(found))}."
            )
        found = next(iter(found.values()))
    return found


def require_file(path: Path, what: str, where_from: str) -> Path:
    """The path, or a `FileNotFoundError` that says which file is missing and where it is had."""
    if not path.is_file():
        raise FileNotFoundError(f"{what} {str(path)!r} does not exist: {where_from}.")
    return path


def read_lines(path: Path) -> list[str]:
    """Lines of a text file without surrounding blanks, empty ones left out.

    Raises:
        ValueError: If the file is not UTF-8 text.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The file {str(path)!r} is not UTF-8 text (byte {error.start}: {error.reason}): convert it first."
        ) from error


def image_label_matrix(dataset: Dataset, labels: Sequence[str] | None = None, column: str = LABELS) -> np.ndarray:
    """The labels of a data set as a matrix, its classes matched with a model's by name.

    Args:
        dataset (`Dataset`): with a column of labels; no image is decoded.
        labels (`Sequence[str]`, *optional*): the labels of a model; the data set's own by default.
        column (`str`, *optional*, defaults to `"labels"`): `"unknown"` gives the classes that are neither present nor
            absent. Set their scores to minus infinity and their labels to 0, and they change no average precision.

    Returns:
        `np.ndarray` of shape `(images, classes)`: uint8.

    Raises:
        ValueError: If the data set does not say its classes and no labels are given, or it lacks one of the labels.
    """
    names = class_names_of(dataset, column)
    if names is None and labels is None:
        raise ValueError(f"The column {column!r} does not say its classes: give `labels`.")
    values = dataset.select_columns([column])[column]
    return multi_hot(values, names if labels is None else labels, "the data set", names)  # (images, classes)


def partial_label_matrix(dataset: Dataset, labels: Sequence[str] | None = None, column: str = LABELS) -> np.ndarray:
    """The labels of a data set with a column `unknown` as partial labels.

    Args:
        dataset (`Dataset`): with a column of labels and maybe one `unknown`; no image is decoded.
        labels (`Sequence[str]`, *optional*): the labels of a model; the data set's own by default.
        column (`str`, *optional*, defaults to `"labels"`): column of the classes that are present.

    Returns:
        `np.ndarray` of shape `(images, classes)`: int8; 1 present, -1 absent, 0 unknown.

    Raises:
        ValueError: If the data set does not say its classes and no labels are given, or it lacks one of the labels.
    """
    present = image_label_matrix(dataset, labels, column) == 1  # (images, classes)
    partial = np.where(present, 1, -1).astype(np.int8)  # (images, classes)
    if UNKNOWN in dataset.column_names:
        partial[(image_label_matrix(dataset, labels, UNKNOWN) == 1) & ~present] = 0
    return partial


def align_classes(dataset: Dataset, class_names: Sequence[str]) -> Dataset:
    """Brings a data set to another list of classes; those that it does not annotate are unknown, not absent.

    So data sets of different classes can be learned from together: VOC2012 annotates 20 of COCO's 80 classes.

        datasets.concatenate_datasets([align_classes(load_images(folder), labels) for folder in folders])

    Args:
        dataset (`Dataset`): labels are `ClassLabel`s, as from [`load_images`]; classes are matched by name or by the
            synonyms of a published class table, and those that are not in the list are left out.
        class_names (`Sequence[str]`): the classes in their order, as the labels of a model.

    Returns:
        `Dataset`: `image`, `labels` and `unknown`, indices into `class_names`, of the same rows; no image is decoded.

    Raises:
        ValueError: If the data set does not say its classes, or has none of the list.
    """
    names = class_names_of(dataset)
    if names is None:
        raise ValueError(f"The column {LABELS!r} does not say its classes: read the data with `load_images`.")
    matched = match_labels(names, class_names)
    places = {name: place for place, name in enumerate(class_names)}
    columns = {index: places[label] for index, label in enumerate(matched) if label is not None}
    if not columns:
        raise ValueError(
            f"The data set annotates none of the {len(class_names)} classes ({', '.join(class_names[:3])} ...), but "
            f"{', '.join(names[:3])} ...: give the names that it uses."
        )
    missing = sorted(set(places.values()) - set(columns.values()))
    present = label_indices(dataset.select_columns([LABELS])[LABELS], names, are_indices=True)[0]
    unknown: list[list[int]] = [[] for _ in present]
    if UNKNOWN in dataset.column_names:
        unknown = label_indices(dataset.select_columns([UNKNOWN])[UNKNOWN], names, are_indices=True)[0]
    answers = {
        LABELS: [sorted(columns[index] for index in row if index in columns) for row in present],
        UNKNOWN: [sorted(missing + [columns[index] for index in row if index in columns]) for row in unknown],
    }
    classes = List(ClassLabel(names=list(class_names)))
    aligned = Dataset.from_dict(answers, features=Features({LABELS: classes, UNKNOWN: classes}))
    return concatenate_datasets([dataset.select_columns([IMAGE]), aligned], axis=1)


__all__ = [
    "IMAGE",
    "IMAGE_ID",
    "LABELS",
    "UNKNOWN",
    "align_classes",
    "build_image_dataset",
    "class_names_of",
    "files_on_disk",
    "image_label_matrix",
    "load_split",
    "partial_label_matrix",
    "read_lines",
    "require_file",
]
