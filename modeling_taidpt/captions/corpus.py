"""Captions from a data set, a stream or a file, read into one table."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

Row = Mapping[str, Any]


@dataclass
class CaptionTable:
    """Captions and, where a column holds them, their labels.

    Attributes:
        captions (`list[str]`): the captions; a missing one is the empty text.
        labels (`list`, *optional*): one entry per caption, as it was stored.
        source (`str`): where they came from, for messages.
    """

    captions: list[str]
    labels: list[Any] | None
    source: str


def read_captions(
    data: Any, caption_column: str = "caption", label_column: str | None = None, max_captions: int | None = None
) -> CaptionTable:
    """Reads captions.

    Args:
        data (`Dataset`, `IterableDataset`, `str`, `Path` or iterable): a data set with a caption column, a file ending
            in .txt (one caption a line), .csv, .tsv, .json (a list of objects), .jsonl or .parquet, or an iterable of
            rows or of plain captions. Files are UTF-8.
        caption_column (`str`, *optional*, defaults to `"caption"`): column of the captions.
        label_column (`str`, *optional*): column of labels.
        max_captions (`int`, *optional*): captions read, the first ones; blank lines of a text file do not count.

    Returns:
        [`CaptionTable`]: in the order of the source.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the data is of another kind, or a caption is no text.
        ValueError: If a column is missing, the file cannot be decoded, or there is no caption.
    """
    if isinstance(data, (DatasetDict, IterableDatasetDict)):
        first = next(iter(data), "train")
        raise TypeError(
            f"The captions are a dictionary of splits ({', '.join(map(repr, data))}): pass one, as dataset[{first!r}]."
        )
    if isinstance(data, (str, Path)):
        path = Path(data)
        rows: Iterable[Any] = read_rows(path)
        source = f"file {str(path)!r}"
    elif isinstance(data, (Dataset, IterableDataset)):
        rows, source = _select_columns(data, caption_column, label_column), "the data set"
    elif isinstance(data, Iterable) or hasattr(data, "__getitem__"):
        rows, source = data, "the data set"
    else:
        raise TypeError(f"Captions cannot be read from a {type(data).__name__}: pass a data set or a file's path.")
    table = CaptionTable([], None if label_column is None else [], source)
    for number, row in enumerate(itertools.islice(rows, max_captions)):
        _append(table, row, number, caption_column, label_column)
    if not table.captions:
        raise ValueError(f"There is no caption in {source}: it is empty.")
    return table


def _select_columns(data: Dataset | IterableDataset, caption_column: str, label_column: str | None) -> Iterable[Row]:
    """The rows with the wanted columns alone, so that nothing else is decoded."""
    wanted = [column for column in (caption_column, label_column) if column is not None]
    if data.column_names is None:  # a stream that does not know its columns
        return data
    for column in wanted:
        if column not in data.column_names:
            raise ValueError(_missing(column, data.column_names, "the data set"))
    return data.select_columns(wanted)


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
    if caption is None:
        caption = ""
    if not isinstance(caption, str):
        raise TypeError(
            f"The caption in row {number} of {table.source} is a {type(caption).__name__}, {str(caption)[:60]!r}: it "
            "must be one text."
        )
    table.captions.append(caption)
    if table.labels is not None and label_column is not None:
        table.labels.append(row[label_column])


def read_rows(path: Path, kind: str = "caption file") -> Iterator[Any]:
    """Rows of a file, one at a time; what is wrong with it is said in one sentence that names it.

    Args:
        path (`Path`): a file ending in .txt (rows are texts), .csv, .tsv, .json, .jsonl or .parquet.
        kind (`str`, *optional*, defaults to `"caption file"`): what to call it in errors.

    Yields:
        The rows: texts, or mappings from column to value.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind or cannot be decoded.
    """
    readers: dict[str, Callable[[Path], Iterator[Any]]] = {
        ".txt": _read_text,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_json_lines,
        ".parquet": _read_parquet,
    }
    name = f"The {kind} {str(path)!r}"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{name} {what}: give the path of a file.")
    if path.suffix.lower() not in readers:
        raise ValueError(f"{name} must end in one of {', '.join(readers)}.")
    try:
        yield from readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 text (byte {error.start}: {error.reason}): convert it first."
        ) from error
    except _UnreadableError as error:
        raise ValueError(f"{name} {error}.") from error
    except (json.JSONDecodeError, csv.Error, OSError) as error:
        raise ValueError(f"{name} cannot be read: {error}.") from error


class _UnreadableError(Exception):
    """What is wrong with a file, without its name."""


def _read_text(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\r\n")


def _read_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)


def _read_json(path: Path) -> Iterator[Any]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":  # several values: it is JSON lines under the name .json
            raise
        yield from _read_json_lines(path)
        return
    if isinstance(rows, Mapping):
        rows = [rows]
    if not isinstance(rows, list):
        raise _UnreadableError(f"holds a {type(rows).__name__}: make it a list of objects")
    yield from rows


def _read_json_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise _UnreadableError(f"cannot be read: line {number} is no JSON ({error.msg})") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise _UnreadableError(f"is no Parquet file: {reason}") from error


__all__ = ["CaptionTable", "read_captions", "read_rows"]
