"""Captions from whatever holds them, read into one table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .rows import class_names_of, is_missing, iterate_rows, open_rows
from .table_files import read_rows


@dataclass
class CaptionTable:
    """Captions and, where a column holds them, their labels.

    Attributes:
        captions (`list[str]`): the captions; a missing one is the empty text.
        labels (`list`, *optional*): one entry per caption, as it was stored.
        source (`str`): where they came from, for messages.
        class_names (`list[str]`, *optional*): the classes that numbers among the labels stand for, where the data say
            them.
    """

    captions: list[str]
    labels: list[Any] | None
    source: str
    class_names: list[str] | None = None


def read_captions(
    data: Any, caption_column: str = "caption", label_column: str | None = None, max_captions: int | None = None
) -> CaptionTable:
    """Reads captions.

    Args:
        data (`Dataset`, `IterableDataset`, `str`, `Path` or iterable): what holds them: a file ending in .txt (one
            caption a line), .csv, .tsv, .json (a list of objects), .jsonl or .parquet, in UTF-8; a data set of
            `datasets` or PyTorch, a frame of pandas, polars or Arrow, or a dictionary of columns, with a caption
            column; or captions alone: a column or series, a list, an array, an iterator.
        caption_column (`str`, *optional*, defaults to `"caption"`): column of the captions.
        label_column (`str`, *optional*): column of labels.
        max_captions (`int`, *optional*): captions read, the first ones; blank lines of a text file do not count.

    Returns:
        [`CaptionTable`]: in the order of the source.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the data is of another kind, or a caption is not a text.
        ValueError: If a column is missing, the file cannot be decoded, or there is no caption.

    Example:
        >>> from modeling_taidpt.captions import read_captions
        >>> read_captions({"caption": ["A dog.", None], "label": [3, 0]}, label_column="label")
        CaptionTable(captions=['A dog.', ''], labels=[3, 0], source='the data set', class_names=None)
    """
    source, class_names = "the data set", None
    if isinstance(data, (str, Path)):
        rows, source = read_rows(Path(data)), f"file {str(data)!r}"
    else:
        wanted = [column for column in (caption_column, label_column) if column is not None]
        rows = _with_columns(open_rows(data, "captions"), wanted)
        class_names = None if label_column is None else class_names_of(data, label_column)
    table = CaptionTable([], None if label_column is None else [], source, class_names)
    for number, row in enumerate(itertools.islice(iterate_rows(rows), max_captions)):
        _append(table, row, number, caption_column, label_column)
    if not table.captions:
        raise ValueError(f"There is no caption in {source}: it is empty.")
    return table


def caption_texts(captions: Any) -> list[str]:
    """Captions alone, as [`read_captions`] reads them; a list of texts comes back as it is."""
    if isinstance(captions, list) and all(isinstance(caption, str) for caption in captions):
        return captions
    return read_captions(captions).captions


def _with_columns(rows: Any, wanted: list[str]) -> Any:
    """The rows with the wanted columns alone where that can be, so that nothing else is decoded."""
    names = getattr(rows, "column_names", None)
    if names is None:  # bare captions, or a stream that does not know its columns
        return rows
    for column in wanted:
        if column not in names:
            raise ValueError(_missing(column, names, "the data set"))
    return rows.select_columns(wanted) if hasattr(rows, "select_columns") else rows


def _missing(column: str, columns: Iterable[Any], source: str) -> str:
    return (
        f"There is no column {column!r} in {source}, it has {', '.join(map(repr, columns)) or 'none'}: name the right "
        "one in `caption_column` or `label_column`."
    )


def _append(table: CaptionTable, row: Any, number: int, caption_column: str, label_column: str | None) -> None:
    if isinstance(row, str):
        row = {caption_column: row}
    if not isinstance(row, Mapping):
        raise TypeError(
            f"Row {number} of {table.source} is a {type(row).__name__}: a row is a text or has {caption_column!r}."
        )
    for column in (caption_column, label_column):
        if column is not None and column not in row:
            raise ValueError(_missing(column, row, f"row {number} of {table.source}"))
    caption = row[caption_column]
    if is_missing(caption):
        caption = ""
    if not isinstance(caption, str):
        raise TypeError(
            f"The caption in row {number} of {table.source} is a {type(caption).__name__}, {str(caption)[:60]!r}: it "
            "must be one text."
        )
    table.captions.append(caption)
    if table.labels is not None and label_column is not None:
        table.labels.append(row[label_column])


__all__ = ["CaptionTable", "caption_texts", "read_captions"]
