"""Rows of whatever people hand over as a table: data sets, frames, dictionaries of columns, lists, arrays, streams.

No library of tables is imported: what is handed over has imported its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

# How other libraries give their columns or values, tried in order: pandas, Arrow, polars.
_FRAME_METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("to_dict", {"orient": "list"}),
    ("to_pydict", {}),
    ("to_dict", {"as_series": False}),
)
_SERIES_METHODS = ("to_pylist", "to_list")
_FRAME_FORMATS = ("pandas", "polars", "arrow")  # of `Dataset.with_format`


class ColumnRows(Sequence):
    """Rows of columns of one length; each is a dictionary, made when it is looked at.

    Args:
        columns (`Mapping[str, Sequence]`): the columns by name.
        what (`str`): what they hold, for errors.

    Raises:
        ValueError: If their lengths differ.
    """

    def __init__(self, columns: Mapping[str, Any], what: str) -> None:
        self.columns = dict(columns)
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            named = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
            raise ValueError(f"The columns of the {what} have different lengths ({named}): give each row every value.")
        self.length = next(iter(lengths.values()), 0)

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(self.columns)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.length

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """Return a row."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {name: column[index] for name, column in self.columns.items()}


def open_rows(data: Any, what: str) -> Any:
    """Brings a table of any kind into rows.

    Args:
        data (`Any`): a data set of `datasets` or PyTorch, one of its columns, a frame or series of pandas, polars or
            Arrow, a dictionary of columns, a list, an array, or an iterator of rows or values.
        what (`str`): `"captions"`, `"images"` or `"labels"`, for errors.

    Returns:
        What [`iterate_rows`] takes: a sequence, or an iterable where there is no length. Its entries are rows
        (mappings from column to value) or bare values. `column_names` says the columns where they are known.

    Raises:
        TypeError: If it is a dictionary of splits, or nothing that has rows.
        ValueError: If columns have different lengths.
    """
    require_one_split(data, what)
    if _gives_frames(data):
        data = data.with_format(None)
    if isinstance(data, Mapping):
        is_row = any(isinstance(value, (str, bytes, Mapping)) or not _is_sized(value) for value in data.values())
        return [data] if is_row else ColumnRows(data, what)
    if hasattr(data, "columns") or hasattr(data, "column_names"):
        columns = _frame_columns(data)
        if columns is not None:
            return ColumnRows(columns, what)
    else:
        for method in _SERIES_METHODS:
            if hasattr(data, method):
                return getattr(data, method)()
    has_order = not isinstance(data, (str, bytes, bytearray, set, frozenset))
    has_rows = isinstance(data, Iterable) or (_is_sized(data) and hasattr(data, "__getitem__"))
    if has_order and has_rows and getattr(data, "ndim", 1):
        return list(data) if _is_sized(data) and not hasattr(data, "__getitem__") else data  # as a view of a dict
    why = ", which have no order" if isinstance(data, (set, frozenset)) else ""
    raise TypeError(
        f"The {what} are of type {type(data).__name__!r}{why}: give a data set, a frame, a list, or a file's path."
    )


def _gives_frames(data: Any) -> bool:
    """Whether a `Dataset` gives its rows as frames or tables of one row."""
    form = getattr(data, "format", None)
    return isinstance(form, Mapping) and form.get("type") in _FRAME_FORMATS and hasattr(data, "with_format")


def _is_sized(data: Any) -> bool:
    try:
        return len(data) >= 0
    except TypeError:  # also arrays without dimensions
        return False


def _frame_columns(data: Any) -> Mapping[str, Any] | None:
    """The columns of a frame; `None` where it is none, as a `Dataset`."""
    if type(data).__module__.split(".")[0] == "datasets":
        return None
    for method, options in _FRAME_METHODS:
        try:
            return getattr(data, method)(**options)
        except (AttributeError, TypeError):
            continue
    return None


def iterate_rows(rows: Any) -> Iterator[Any]:
    """The rows of what [`open_rows`] gives, one after the other."""
    if hasattr(rows, "__iter__"):
        return iter(rows)
    return (rows[index] for index in range(len(rows)))  # a data set of PyTorch need not raise an IndexError at its end


def is_missing(value: Any) -> bool:
    """Whether a value is `None`, or what frames put in its place: NaN, NA, NaT."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def require_one_split(data: Any, what: str) -> None:
    """Raises a `TypeError` that shows what to write where a dictionary of splits is given."""
    if isinstance(data, Mapping) and (data or hasattr(data, "column_names")) and all(map(_is_data_set, data.values())):
        names = ", ".join(map(repr, data))
        raise TypeError(
            f"The {what} are a dictionary of splits ({names}): pass one, as dataset[{next(iter(data), 'train')!r}]."
        )


def _is_data_set(data: Any) -> bool:
    return hasattr(data, "column_names") or (hasattr(data, "columns") and hasattr(data, "dtypes"))


def class_names_of(data: Any, column: str = "labels") -> list[str] | None:
    """The classes of a data set (or of one of its columns) whose labels are `ClassLabel`s, else `None`."""
    features = getattr(data, "features", None)
    feature = features.get(column) if isinstance(features, Mapping) else features
    feature = getattr(feature, "feature", feature)
    return list(feature.names) if type(feature).__name__ == "ClassLabel" else None


__all__ = [
    "ColumnRows",
    "class_names_of",
    "is_missing",
    "iterate_rows",
    "open_rows",
    "require_one_split",
]
