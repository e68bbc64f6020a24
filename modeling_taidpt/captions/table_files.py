"""Rows of a file of text, CSV, JSON, JSON lines or Parquet, one at a time."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
_UNNAMED = re.compile(r"(Unnamed: \d+)?")  # how pandas writes and reads an index that has no name


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
    except (json.JSONDecodeError, OSError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read: {error}.") from error


class _UnreadableError(Exception):
    """What is wrong with a file, without its name."""


def _read_text(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\r\n")


def _read_csv(path: Path) -> Iterator[Row]:
    """Rows with as many values as the header has names; a row of fewer lacks the last ones, as in pandas."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=_delimiter(path), strict=True)
        try:
            header = next(filter(None, lines), [])
            named = [column for column, name in enumerate(header) if not _UNNAMED.fullmatch(name.strip())]
            _check_header([header[column].strip() for column in named])
            for number, values in enumerate(filter(None, lines)):
                where = f"row {number} (line {lines.line_num})"
                _check_values(values, header, named, where)
                values += [""] * (len(header) - len(values))
                yield {header[column].strip(): values[column] for column in named}
        except csv.Error as error:
            raise _UnreadableError(f"cannot be read: line {lines.line_num} is not CSV ({error})") from error


def _delimiter(path: Path) -> str:
    """A tab for .tsv, else a comma; or what the header has in its place, as spreadsheets write it."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = re.sub('"[^"]*"', "", next((line for line in file if line.strip()), ""))
    return next((mark for mark in (usual, "\t", ";", ",") if mark in header), usual)


def _check_header(names: list[str]) -> None:
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise _UnreadableError(f"has two columns {twice[0]!r}: rename one")


def _check_values(values: list[str], header: list[str], named: list[int], where: str) -> None:
    """Raises an error where a value belongs to no column: it would be lost."""
    if any(value.strip() for value in values[len(header) :]):
        raise _UnreadableError(
            f"has {len(values)} values for {len(header)} columns in {where}: put quotes around a value that holds the "
            "delimiter, or name every column"
        )
    for column in range(1, min(len(header), len(values))):  # the first one without a name is an index
        if column not in named and not re.fullmatch(r"[\d.]*", values[column].strip()):
            raise _UnreadableError(f"holds {values[column][:40]!r} in {where}, in a column without a name: name it")


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
                raise _UnreadableError(f"cannot be read: line {number} is not JSON ({error.msg})") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise _UnreadableError(f"is not a Parquet file: {reason}") from error


__all__ = ["read_rows"]
