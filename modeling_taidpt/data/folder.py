"""Images of one's own: a folder with a CSV, JSON or JSON lines file of labels, or a data set with a label column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, List, Value, concatenate_datasets, load_dataset

from ..captions.corpus import read_rows
from .dataset import IMAGE, IMAGE_ID, LABELS, UNKNOWN, build_image_dataset, require_one_split

LABEL_FILES = ("labels.json", "labels.jsonl", "labels.csv", "metadata.jsonl", "metadata.csv")
LABEL_SEPARATOR = ";"
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

    - JSON, JSON lines: `labels`, a list of names, or of indices where the classes are given. JSON is a list of rows,
      or `{"categories": [names], "images": [rows]}`.
    - CSV: `labels`, names with ";" between; or one column per class with 0 and 1.

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
        ValueError: If a row has no file name or labels, a label is no class, or there is no row; the row is named.
    """
    folder = Path(folder)
    path = _find_label_file(folder) if label_file is None else Path(label_file)
    rows, listed = _read_label_file(path)
    if split is not None:
        rows = [row for row in rows if row.get("split") == split]
    names, labels, unknown = _class_lists(rows, path, class_names or listed)
    for number, row in enumerate(rows):
        for column in ("file_name", id_column):
            if row.get(column) in (None, ""):
                raise ValueError(f"Row {number} of {str(path)!r} has no {column!r}: every image needs one.")
    inner = folder / "images"
    root = inner if inner.is_dir() and rows and (inner / rows[0]["file_name"]).is_file() else folder
    files = [root / row["file_name"] for row in rows]
    what = f"the split {split!r} of {str(path)!r}" if split else repr(str(path))
    return build_image_dataset(files, labels, [row[id_column] for row in rows], names, what, skip_missing, unknown)


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
        listed, rows = list(rows[0]["categories"]), list(rows[0].get("images", []))
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(
                f"Row {number} of {str(path)!r} is a {type(row).__name__}: write an object with 'file_name'."
            )
    if path.suffix.lower() in (".csv", ".tsv") and rows and "labels" not in rows[0]:
        listed = [name for name in rows[0] if name not in _NO_CLASSES]
        rows = _named_by_columns(rows, listed, path)
    return rows, listed


def _named_by_columns(rows: Sequence[Mapping[str, Any]], names: list[str], path: Path) -> list[Mapping[str, Any]]:
    """Rows of a column per class, with the lists `labels` and, if any is unknown, `unknown`."""
    unknown = {"", "0"} if any(row[name] == "-1" for row in rows for name in names) else {""}
    for number, row in enumerate(rows):
        wrong = [name for name in names if row[name] not in ("", "-1", "0", "1")]
        if wrong or not names:
            what = f"holds {row[wrong[0]]!r} for {wrong[0]!r}" if wrong else "has no labels"
            raise ValueError(
                f"Row {number} of {str(path)!r} {what}: give a column 'labels', or 0 and 1 per class, blank where "
                "unknown."
            )
    return [
        {
            **row,
            LABELS: [name for name in names if row[name] == "1"],
            UNKNOWN: [name for name in names if row[name] in unknown],
        }
        for row in rows
    ]


def _class_lists(
    rows: Sequence[Mapping[str, Any]], path: Path, names: Sequence[str] | None
) -> tuple[list[str], list[list[int]], list[list[int]] | None]:
    """The classes, and for each row the indices of those present and of those unknown (`None` if none is)."""
    columns = [[_as_list(row.get(LABELS), number, path) for number, row in enumerate(rows)]]
    if any(row.get(UNKNOWN) for row in rows):
        columns.append([_as_list(row.get(UNKNOWN) or [], number, path) for number, row in enumerate(rows)])
    if names is None:
        names = sorted({name for values in columns for value in values for name in value if isinstance(name, str)})
    indices = [
        [class_indices(value, names, f"row {number} of {str(path)!r}") for number, value in enumerate(values)]
        for values in columns
    ]
    return list(names), indices[0], indices[1] if len(indices) > 1 else None


def _as_list(value: Any, number: int, path: Path) -> Sequence[Any]:
    if isinstance(value, str):
        value = [name.strip() for name in value.split(LABEL_SEPARATOR) if name.strip()]
    if not isinstance(value, (list, tuple)):
        raise ValueError(
            f"Row {number} of {str(path)!r} has no list 'labels': give one, empty where nothing is shown."
        )
    return value


def class_indices(value: Sequence[Any], names: Sequence[str], where: str) -> list[int]:
    """Names or indices as indices.

    Args:
        value (`Sequence`): names, or indices from 0.
        names (`Sequence[str]`): the classes.
        where (`str`): where the value stands, for the error.

    Returns:
        `list[int]`.

    Raises:
        ValueError: If an entry is none of the classes.
    """
    places = {name: index for index, name in enumerate(names)}
    indices: list[Any] = [places.get(entry, entry) if isinstance(entry, str) else entry for entry in value]
    for entry, index in zip(value, indices, strict=True):
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(names):
            raise ValueError(
                f"The label {entry!r} in {where} is none of the {len(names)} classes: correct it, or add the class."
            )
    return indices


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
        ValueError: If a column is missing, the classes are unknown, a label is no class, or there is no row.
    """
    source = repr(data) if isinstance(data, str) else "the data set"
    dataset = load_dataset(data, **arguments) if isinstance(data, str) else data
    require_one_split(dataset)
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
    names = class_names or (feature.names if isinstance(feature, ClassLabel) else None) or _used_names(values, source)
    labels, unknown = _indices(values, list(names), isinstance(feature, ClassLabel), source)
    if unknown is None and unknown_column in dataset.column_names:
        values = dataset.select_columns([unknown_column])[unknown_column]
        unknown = _indices(values, list(names), are_indices=True, source=source)[0]
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


def _used_names(values: Sequence[Any], source: str) -> list[str]:
    names = sorted({entry for row in values for entry in row or () if isinstance(entry, str)})
    if not names:
        raise ValueError(f"The labels of {source} are numbers without names: give `class_names`.")
    return names


def _indices(
    values: Sequence[Any], names: list[str], are_indices: bool, source: str
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Indices of the classes present, and of those unknown (`None` if the values know none).

    Rows of 0 and 1 for every class are read as such, and rows with -1 for absent classes too.
    """
    rows = [[] if row is None else list(row) if isinstance(row, (list, tuple)) else [row] for row in values]
    if not are_indices and all(len(row) == len(names) and all(entry in (-1, 0, 1) for entry in row) for row in rows):
        one, zero = (
            [[place for place, entry in enumerate(row) if entry == value] for row in rows] for value in (1, 0)
        )
        return one, zero if any(-1 in row for row in rows) else None
    indices = [class_indices(row, names, f"row {number} of {source}") for number, row in enumerate(rows)]
    return [sorted(set(row)) for row in indices], None


__all__ = ["LABEL_FILES", "class_indices", "load_image_dataset", "load_image_folder"]
