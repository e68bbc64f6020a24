"""Custom images: a folder with a CSV, JSON or JSON lines file of labels, or a data set with a label column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, List, Value, concatenate_datasets

from ..captions.label_columns import as_lists, label_indices, used_names
from ..captions.rows import is_missing, require_one_split
from ..captions.table_files import read_rows
from ..configuration_taidpt import check_labels
from .dataset import IMAGE, IMAGE_ID, LABELS, UNKNOWN, build_image_dataset, files_on_disk, load_split

LABEL = "label"  # what `datasets` calls the column where every image has one
LABEL_FILES = ("labels.json", "labels.jsonl", "labels.csv", "metadata.jsonl", "metadata.csv")
_WRITTEN_BITS = {"": "", "1": "1", "1.0": "1", "true": "1", "0": "0", "0.0": "0", "false": "0"}
_WRITTEN_BITS |= {"-1": "-1", "-1.0": "-1"}
_NO_CLASSES = ("file_name", "labels", "image_id", "split", "unknown")


def load_image_folder(
    folder: str | Path,
    label_file: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    id_column: str = "file_name",
    split: str | None = None,
    skip_missing: bool = False,
) -> Dataset:
    """Reads a folder of images and the file that labels them.

    The label file has a row per image with `file_name` (relative to the folder or to its `images/`) and

    - JSON, JSON lines: `labels` (or `label`), a list of names, or of indices where the classes are given. JSON is a
      list of rows, or `{"categories": [names], "images": [rows]}`.
    - CSV: `labels`, names with "|", ";" or "," between, or a list as JSON or Python writes it; or one column per class
      with 0 and 1.

    Classes of which nobody knows whether an image shows them stand in `unknown`, written as `labels`; in a column per
    class they are left blank, or are 0 where the file says -1 for absent. See [`partial_label_matrix`].

    Args:
        folder (`str` or `Path`): holds the images.
        label_file (`str` or `Path`, *optional*): `labels.json`, `labels.jsonl`, `labels.csv`, `metadata.jsonl` or
            `metadata.csv` in the folder by default.
        class_names (`Sequence[str]`, *optional*): the classes in their order; by default those that the file lists,
            else all names that it uses, sorted.
        id_column (`str`, *optional*, defaults to `"file_name"`): what becomes `image_id`.
        split (`str`, *optional*): only rows with this `split`.
        skip_missing (`bool`, *optional*, defaults to `False`): leaves out images that are not on disk.

    Returns:
        `Dataset`: `image`, `labels`, `image_id`, and `unknown` where the file has it, in the order of the file.

    Raises:
        FileNotFoundError: If the label file or an image is missing.
        ValueError: If a row has no file name or labels, or that of another row, a label is not a class, or there is
            no row; the row is named.
    """
    folder = Path(folder)
    path = _find_label_file(folder) if label_file is None else Path(label_file)
    rows, listed = _read_label_file(path)
    names, labels, unknown = _class_lists(rows, path, class_names or listed)
    chosen = [number for number, row in enumerate(rows) if split is None or row.get("split") == split]
    for number in chosen:
        for column in ("file_name", id_column):
            if is_missing(rows[number].get(column)) or rows[number][column] == "":
                raise ValueError(f"Row {number} of {str(path)!r} has no {column!r}: every image needs one.")
    _require_unique(chosen, [str(rows[number]["file_name"]) for number in chosen], path)
    files = _find_images(folder, [str(rows[number]["file_name"]) for number in chosen])
    ids = [rows[number][id_column] for number in chosen]
    if not all(isinstance(entry, int) for entry in ids):
        ids = list(map(str, ids))
    what = f"the split {split!r} of {str(path)!r}" if split else repr(str(path))
    labels = [labels[number] for number in chosen]
    unknown = None if unknown is None else [unknown[number] for number in chosen]
    return build_image_dataset(files, labels, ids, names, what, skip_missing, unknown)


def _require_unique(numbers: Sequence[int], names: Sequence[str], path: Path) -> None:
    """Raises a `ValueError` where two rows are of one image, as in a file with a row for each label."""
    first: dict[str, int] = {}
    for number, name in zip(numbers, names, strict=True):
        if first.setdefault(name, number) != number:
            raise ValueError(
                f"Row {number} of {str(path)!r} is of {name!r}, as row {first[name]} is: write all labels of an image "
                "in one row."
            )


def _find_images(folder: Path, names: Sequence[str]) -> list[Path]:
    """Where the images are: in the folder or in its `images/`, whichever of them are missing."""
    inner = [folder / "images" / name for name in names]
    found = files_on_disk(inner)
    return [path if path in found else folder / name for name, path in zip(names, inner, strict=True)]


def _find_label_file(folder: Path) -> Path:
    found = [folder / name for name in LABEL_FILES if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(f"There is no label file in {str(folder)!r}: write one of {', '.join(LABEL_FILES)}.")
    return found[0]


def _read_label_file(path: Path) -> tuple[list[Mapping[str, Any]], list[str] | None]:
    """Rows, and the classes where the file lists them."""
    rows = list(read_rows(path, "label file"))
    listed = None
    if len(rows) == 1 and isinstance(rows[0], Mapping) and "categories" in rows[0]:
        listed, rows = _categories(rows[0]["categories"], path), list(rows[0].get("images", []))
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(
                f"Row {number} of {str(path)!r} is a {type(row).__name__}: write an object with 'file_name'."
            )
    if rows and all(LABEL in row and LABELS not in row for row in rows):
        rows = [{**row, LABELS: row[LABEL]} for row in rows]
    if path.suffix.lower() in (".csv", ".tsv") and rows and "labels" not in rows[0]:
        listed = [name for name in rows[0] if name not in _NO_CLASSES]
        rows = _named_by_columns(rows, listed, path)
    return rows, listed


def _categories(names: Any, path: Path) -> list[str]:
    """The classes that a file lists.

    Raises:
        ValueError: If they are not a list of texts, or one is duplicated; the file is named.
    """
    try:
        check_labels(names if isinstance(names, (list, str)) else [names])
    except ValueError as error:
        raise ValueError(f"In the 'categories' of {str(path)!r}: {error}") from error
    return list(names)


def _named_by_columns(rows: Sequence[Mapping[str, Any]], names: list[str], path: Path) -> list[Mapping[str, Any]]:
    """Rows of a column per class, with the lists `labels` and, if any is unknown, `unknown`."""
    if not names:
        raise ValueError(f"Row 0 of {str(path)!r} has no labels: give a column 'labels', or 0 and 1 per class.")
    bits = []
    for number, row in enumerate(rows):
        bits.append({name: _WRITTEN_BITS.get(row[name].strip().lower()) for name in names})
        wrong = [name for name in names if bits[-1][name] is None]
        if wrong:
            raise ValueError(
                f"Row {number} of {str(path)!r} holds {row[wrong[0]]!r} for {wrong[0]!r}: give a column 'labels', or "
                "0 and 1 per class, blank where unknown."
            )
    unknown = {"", "0"} if any("-1" in row.values() for row in bits) else {""}
    return [
        {
            **row,
            LABELS: [name for name in names if found[name] == "1"],
            UNKNOWN: [name for name in names if found[name] in unknown],
        }
        for row, found in zip(rows, bits, strict=True)
    ]


def _class_lists(
    rows: Sequence[Mapping[str, Any]], path: Path, names: Sequence[str] | None
) -> tuple[list[str], list[list[int]], list[list[int]] | None]:
    """The classes, and for each row the indices of those present and of those unknown (`None` if none is)."""
    for number, row in enumerate(rows):
        if is_missing(row.get(LABELS)):
            raise ValueError(
                f"Row {number} of {str(path)!r} has no list 'labels': give one, empty where nothing is shown."
            )
    columns = [[row.get(column) for row in rows] for column in (LABELS, UNKNOWN)]
    if names is None:
        used = [entry for column in columns for row in as_lists(column) for entry in row]
        names = sorted({entry for entry in used if isinstance(entry, str)})
    present, unknown = label_indices(columns[0], names, repr(str(path)))
    if unknown is None and any(as_lists(columns[1])):
        unknown = label_indices(columns[1], names, repr(str(path)))[0]
    return list(names), present, unknown


def load_image_dataset(
    data: Dataset | str,
    image_column: str = "image",
    label_column: str = "labels",
    id_column: str | None = None,
    class_names: Sequence[str] | None = None,
    unknown_column: str = UNKNOWN,
    **arguments: Any,
) -> Dataset:
    """Brings any data set with images and lists of labels into the form of the loaders here; no image is decoded.

    Args:
        data (`Dataset` or `str`): a data set, or a Hub repository or folder for [`~datasets.load_dataset`].
        image_column (`str`, *optional*, defaults to `"image"`): column of the images.
        label_column (`str`, *optional*, defaults to `"labels"`): column of lists of `ClassLabel`s, names or indices,
            or of rows of 0 and 1 per class; `"objects.category"` reaches into a column of objects. In rows with -1
            for absent classes, 0 says unknown.
        id_column (`str`, *optional*): what becomes `image_id`; the number of the row by default.
        class_names (`Sequence[str]`, *optional*): the classes where the data set does not say them.
        unknown_column (`str`, *optional*, defaults to `"unknown"`): lists of the classes that are neither present nor
            absent, where there is such a column; see [`partial_label_matrix`].
        **arguments: for [`~datasets.load_dataset`], as `split="test"` (needed where there are several) and `revision`.

    Returns:
        `Dataset`: `image`, `labels`, `image_id`, and `unknown` where some are, in the order of the data set.

    Raises:
        TypeError: If it is a dictionary of splits, or a stream.
        ValueError: If a column is missing, the classes are unknown, a label is not a class, or there is no row.
    """
    source = repr(data) if isinstance(data, str) else "the data set"
    dataset = load_split(data, **arguments) if isinstance(data, str) else data
    require_one_split(dataset, "images")
    if not isinstance(dataset, Dataset):
        raise TypeError(f"The images are a {type(dataset).__name__}: give a `datasets.Dataset`, no stream.")
    outer, *inner = label_column.split(".")
    for column in filter(None, (image_column, outer, id_column)):
        if column not in dataset.column_names:
            present = ", ".join(dataset.column_names)
            raise ValueError(f"There is no column {column!r} in {source}, it has {present}: name the right one.")
    if not len(dataset):
        raise ValueError(f"There is no image in {source}: the split is empty.")
    values = dataset.select_columns([outer])[outer]
    feature: Any = dataset.features[outer]
    for key in inner:
        values = [row[key] if isinstance(row, Mapping) else [entry[key] for entry in row] for row in values]
        feature = getattr(feature, "feature", feature)[key]
    feature = getattr(feature, "feature", feature)
    are_indices = isinstance(feature, ClassLabel)
    names = class_names or (feature.names if are_indices else used_names(as_lists(values), source))
    labels, unknown = label_indices(values, list(names), source, are_indices)
    if unknown is None and unknown_column in dataset.column_names:
        values = dataset.select_columns([unknown_column])[unknown_column]
        unknown = label_indices(values, list(names), source, are_indices=True)[0]
    ids = list(range(len(dataset))) if id_column is None else dataset.select_columns([id_column])[id_column]
    classes = List(ClassLabel(names=list(names)))
    features = {LABELS: classes, IMAGE_ID: Value("string" if isinstance(ids[0], str) else "int64")}
    columns: dict[str, list] = {LABELS: labels, IMAGE_ID: list(ids)}
    if unknown is not None:
        features[UNKNOWN], columns[UNKNOWN] = classes, unknown
    answers = Dataset.from_dict(columns, features=Features(features))
    images = (
        dataset.select_columns([image_column]).rename_column(image_column, IMAGE)
        if image_column != IMAGE
        else (dataset.select_columns([IMAGE]))
    )
    if not isinstance(images.features[IMAGE], Image):
        images = images.cast_column(IMAGE, Image())
    return concatenate_datasets([images, answers], axis=1)


__all__ = ["LABEL_FILES", "load_image_dataset", "load_image_folder"]
