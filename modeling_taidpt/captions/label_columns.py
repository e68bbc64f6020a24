"""A column of labels, however it is written, as indices of classes or as a matrix.

An entry may be a name, an index, a list of either, a row of 0 and 1 (or -1, 0 and 1) for every class, or a text such
as "cat|dog", "cat; dog", '["cat", "dog"]'; a missing one (`None`, NaN, "") has no label.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .labels import match_columns
from .rows import is_missing

ABSENT, UNKNOWN, PRESENT = -1, 0, 1
_WRITTEN_LIST = re.compile(r"\[.*\]|[({]\s*['\"].*[)}]", re.DOTALL)  # as JSON, Python and NumPy print lists
_ENTRY = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,'"]+""")


def as_lists(values: Iterable[Any], names: Sequence[str] = ()) -> list[list[Any]]:
    """The labels of each row as a list.

    Texts are parted at "|" and ";" where any of the column has one of them, else at commas.

    Args:
        values (`Iterable`): a column of labels, one entry per row.
        names (`Sequence[str]`, *optional*): the classes, where they are known; a text that is one of them is not
            parted, and a number written as text is an index.

    Returns:
        `list[list]`: of each row; empty where there are no labels.
    """
    known = set(names)
    cells = [_as_list(value) for value in values]
    texts = [cell for cell in cells if isinstance(cell, str) and cell not in known]
    separator = re.compile("[|;]" if any(mark in text for text in texts for mark in "|;") else ",")
    return [_parted(cell, known, separator) if isinstance(cell, str) else cell for cell in cells]


def _as_list(value: Any) -> Any:
    """A list of labels; or the text of one, not parted yet."""
    if isinstance(value, str):
        text = value.strip()
        return _written_entries(text) if _WRITTEN_LIST.fullmatch(text) else text
    if hasattr(value, "tolist"):
        value = value.tolist()
    if is_missing(value):
        return []
    is_several = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
    return list(value) if is_several else [value]


def _written_entries(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = [_written_entry(entry) for entry in _ENTRY.findall(text[1:-1])]
    return list(found)


def _written_entry(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _parted(text: str, known: set[str], separator: re.Pattern[str]) -> list[Any]:
    parts = [text] if text in known else [part.strip() for part in separator.split(text)]
    return [int(part) if known and part not in known and part.isdecimal() else part for part in parts if part]


def used_names(rows: Iterable[Sequence[Any]], source: str) -> list[str]:
    """All names that lists of labels use, sorted.

    Raises:
        ValueError: If they use numbers alone.
    """
    names = sorted({entry for row in rows for entry in row if isinstance(entry, str)})
    if not names:
        raise ValueError(f"The labels of {source} are numbers without names: give `class_names`.")
    return names


def label_indices(
    values: Iterable[Any], names: Sequence[str], source: str = "the data set", are_indices: bool = False
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Reads a column of labels.

    Args:
        values (`Iterable`): one entry per row, as this module says. If every row has as many entries as there are
            classes, all -1, 0 or 1, they say of each class whether it is present; with a -1 anywhere, 0 says that it
            is not known.
        names (`Sequence[str]`): the classes.
        source (`str`, *optional*, defaults to `"the data set"`): what to call it in errors.
        are_indices (`bool`, *optional*, defaults to `False`): whether numbers are indices, whatever they look like;
            -1 then says that there is no label, as in `datasets`.

    Returns:
        `tuple`: for each row the indices of the classes present, rising; and of those not known, `None` if all are.

    Raises:
        ValueError: If an entry is none of the classes, or partial labels have another length; the row is named.
    """
    rows = as_lists(values, names)
    if are_indices:
        rows = [[entry for entry in row if isinstance(entry, str) or entry != ABSENT] for row in rows]
    elif any(_is_number(entry, ABSENT) for row in rows for entry in row):
        matrix = _whole_matrix(rows, len(names), source)  # (rows, classes)
        return _where(matrix, PRESENT), _where(matrix, UNKNOWN)
    elif _are_bits(rows, len(names)):
        return [[column for column, entry in enumerate(row) if entry] for row in rows], None
    places = {name: column for column, name in enumerate(names)}
    return [_indices(row, places, f"row {number} of {source}") for number, row in enumerate(rows)], None


def _where(matrix: np.ndarray, value: int) -> list[list[int]]:
    return [np.flatnonzero(row == value).tolist() for row in matrix]


def _are_bits(rows: Sequence[Sequence[Any]], classes: int) -> bool:
    """Whether rows are multi-hot. One class that is 0 in all rows is the index of that class."""
    whole = all(len(row) == classes and all(_is_number(entry, 0, 1) for entry in row) for row in rows)
    return whole and bool(rows) and (classes > 1 or any(entry for row in rows for entry in row))


def _is_number(entry: Any, *numbers: int) -> bool:
    return isinstance(entry, (bool, int, float, np.generic)) and entry in numbers


def _whole_matrix(rows: Sequence[Sequence[Any]], classes: int, source: str) -> np.ndarray:
    for number, row in enumerate(rows):
        if len(row) != classes:
            raise ValueError(
                f"Row {number} of {source} has {len(row)} labels for {classes} classes: with -1 for absent classes, "
                "every row needs -1, 0 or 1 for every class."
            )
    return check_labels_matrix(rows, f"the labels of {source}")  # (rows, classes)


def _indices(row: Sequence[Any], places: Mapping[str, int], where: str) -> list[int]:
    found = set()
    for entry in row:
        index = places.get(entry) if isinstance(entry, str) else entry
        is_number = isinstance(index, (int, float, np.integer, np.floating)) and not isinstance(index, bool)
        if not is_number or not float(index).is_integer() or not 0 <= index < len(places):
            raise ValueError(
                f"The label {entry!r} in {where} is none of the {len(places)} classes: give names, indices from 0, or "
                "0 and 1 for every class."
            )
        found.add(int(index))
    return sorted(found)


def label_matrix(
    values: Iterable[Any],
    labels: Sequence[str],
    source: str = "the data set",
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Reads a column of labels that may be partial, for the labels of a model.

    Args:
        values (`Iterable`): as of [`label_indices`].
        labels (`Sequence[str]`): the labels of the model.
        source (`str`, *optional*, defaults to `"the data set"`): what to call it in errors.
        class_names (`Sequence[str]`, *optional*): the classes that numbers are indices of, where the data say them
            (`ClassLabel`); they are matched with the labels by name, in whatever order. The labels by default.

    Returns:
        `np.ndarray` of shape `(rows, labels)`: int8; 0 or 1, or with a -1 anywhere -1 absent, 0 unknown, 1 present.

    Raises:
        ValueError: If an entry is none of the classes, or a label is none; the row is named.
    """
    names = list(labels if class_names is None else class_names)
    present, unknown = label_indices(values, names, source, are_indices=class_names is not None)
    matrix = np.full((len(present), len(names)), UNKNOWN if unknown is None else ABSENT, dtype=np.int8)
    for row, columns in enumerate(present):
        matrix[row, columns] = PRESENT  # (rows, classes)
    for row, columns in enumerate(unknown or ()):
        matrix[row, columns] = UNKNOWN
    if names != list(labels):
        matrix = matrix[:, match_columns(names, labels, source)]
    return np.ascontiguousarray(matrix)  # (rows, labels)


def multi_hot(
    values: Iterable[Any],
    labels: Sequence[str],
    source: str = "the data set",
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Reads a column of labels that may not be partial; arguments as of [`label_matrix`].

    Returns:
        `np.ndarray` of shape `(rows, labels)`: uint8, 0 or 1.

    Raises:
        ValueError: As there, or if a label is -1.
    """
    matrix = label_matrix(values, labels, source, class_names)  # (rows, labels)
    denied = np.argwhere(matrix < 0)
    if len(denied):
        raise ValueError(f"The label -1 in row {denied[0, 0]} of {source} denies a class: give 0 or 1 per class here.")
    return matrix.astype(np.uint8)


def check_labels_matrix(labels: Any, source: str = "the labels") -> np.ndarray:
    """Reads a matrix of labels.

    Args:
        labels (array or tensor of shape `(images, classes)`): -1, 0 or 1.
        source (`str`, *optional*, defaults to `"the labels"`): what to call it in errors.

    Returns:
        `np.ndarray` of shape `(images, classes)`: int8.

    Raises:
        ValueError: If it is not a matrix, is empty, or holds another value; the first one is named.
    """
    matrix = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels)  # (images, classes)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"The shape of {source} is {matrix.shape}: give (images, classes), neither of them 0.")
    wrong = ~np.isin(matrix, (ABSENT, UNKNOWN, PRESENT))  # (images, classes)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"The value of {source} in row {row}, column {column} is {matrix[row, column]}: give -1, 0 or 1."
        )
    return matrix.astype(np.int8)


__all__ = [
    "ABSENT",
    "PRESENT",
    "UNKNOWN",
    "as_lists",
    "check_labels_matrix",
    "label_indices",
    "label_matrix",
    "multi_hot",
    "used_names",
]
