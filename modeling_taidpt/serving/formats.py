"""The formats of tagging results: Parquet, CSV for spreadsheets, JSON lines. Rows go through a batch at a time.

A row has `path`, `labels`, `scores` and `error`. In CSV the labels of an image are one cell, `cat; dog`, and so are
their scores.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..atomic import staged_file
from ..evaluation.csv_cells import harmless_cell, join_cell, plain_cell, split_cell

FORMATS = ("parquet", "csv", "jsonl")
SCHEMA = pa.schema(
    {"path": pa.string(), "labels": pa.list_(pa.string()), "scores": pa.list_(pa.float32()), "error": pa.string()}
)
BATCH_ROWS = 1024  # rows in memory at a time


class TaggedImage(NamedTuple):
    """One row of the results.

    Attributes:
        path (`str`): name of the image.
        labels (`list[str]`): its labels, by falling score.
        scores (`list[float]`): their scores.
        error (`str`, *optional*): why the image could not be read.
    """

    path: str
    labels: list[str]
    scores: list[float]
    error: str | None


def file_format(path: str | Path) -> str | None:
    """The format that the name of a file says, or `None`."""
    suffix = Path(path).suffix.lower().lstrip(".")
    return suffix if suffix in FORMATS else None


def write_rows(tables: pa.Table | Iterable[pa.Table], path: str | Path) -> None:
    """Writes rows, whole or not at all; the name of the file says the format.

    Args:
        tables (`pa.Table` or an iterable of them): the rows, by `SCHEMA`; taken one table after the other.
        path (`str` or `Path`): file ending in .parquet, .csv or .jsonl.
    """
    tables = [tables] if isinstance(tables, pa.Table) else tables
    with staged_file(path) as staged:
        {"parquet": _write_parquet, "csv": _write_csv, "jsonl": _write_jsonl}[file_format(path) or "parquet"](
            tables, staged
        )


def _write_parquet(tables: Iterable[pa.Table], path: Path) -> None:
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for table in tables:
            writer.write_table(table)


def _write_csv(tables: Iterable[pa.Table], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(SCHEMA.names)
        for row in _rows(tables):
            scores = "; ".join(f"{score:.6g}" for score in row.scores)
            writer.writerow([harmless_cell(row.path), join_cell(row.labels), scores, harmless_cell(row.error or "")])


def _write_jsonl(tables: Iterable[pa.Table], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in _rows(tables):
            values = row._replace(scores=[float(f"{score:.6g}") for score in row.scores])._asdict()
            file.write(json.dumps(values, ensure_ascii=False) + "\n")


def _rows(tables: Iterable[pa.Table]) -> Iterator[TaggedImage]:
    for table in tables:
        for batch in table.to_batches(max_chunksize=BATCH_ROWS):
            yield from (TaggedImage(**row) for row in batch.to_pylist())


def result_files(results: str | Path) -> list[Path]:
    """The files of a run's output, in their order.

    Args:
        results (`str` or `Path`): folder or file that [`tag_images`] wrote.

    Returns:
        `list[Path]`: the file, or the parts in the folder.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: the file is of another kind.
    """
    results = Path(results)
    if results.is_file():
        if file_format(results) is None:
            raise ValueError(f"{str(results)!r} does not end in .parquet, .csv or .jsonl: give what `tag` wrote.")
        return [results]
    files = sorted(path for format in FORMATS for path in results.glob(f"part-*.{format}"))
    if not files:
        missing = "holds no results" if results.is_dir() else "does not exist"
        raise FileNotFoundError(f"{str(results)!r} {missing}: give the folder or file that `taidpt tag` wrote.")
    return files


def read_results(results: str | Path) -> Iterator[TaggedImage]:
    """Streams the rows of a run's output.

    Args:
        results (`str` or `Path`): folder or file that [`tag_images`] wrote.

    Returns:
        `Iterator[TaggedImage]`: in the order of the images, a batch in memory at a time.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: a file cannot be read; the message names it.
    """
    return (row for path in result_files(results) for row in _rows(read_tables(path)))


def read_tables(path: str | Path, columns: Sequence[str] = SCHEMA.names) -> Iterator[pa.Table]:
    """Streams the rows of one file as tables.

    Args:
        path (`str` or `Path`): file ending in .parquet, .csv or .jsonl.
        columns (`Sequence[str]`, *optional*): columns to read; all by default.

    Returns:
        `Iterator[pa.Table]`: at most 1,024 rows each.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    path = Path(path)
    reader = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_jsonl}[file_format(path) or "parquet"]
    try:
        for table in reader(path):
            yield table.select(columns)
    except (pa.ArrowException, KeyError, TypeError, AttributeError, RecursionError, csv.Error, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{str(path)!r} is broken or holds other rows than `taidpt tag` writes ({reason[:200]})."
        ) from error


def _read_parquet(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield pa.Table.from_batches([batch]).select(SCHEMA.names).cast(SCHEMA)


def _read_csv(path: Path) -> Iterator[pa.Table]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _in_tables(
            {
                "path": plain_cell(row["path"]),
                "labels": split_cell(row["labels"]),
                "scores": [float(score) for score in row["scores"].split("; ") if score],
                "error": plain_cell(row["error"]) or None,
            }
            for row in csv.DictReader(file)
        )


def _read_jsonl(path: Path) -> Iterator[pa.Table]:
    with path.open(encoding="utf-8") as file:
        yield from _in_tables({name: json.loads(line)[name] for name in SCHEMA.names} for line in file if line.strip())


def _in_tables(rows: Iterable[dict[str, Any]]) -> Iterator[pa.Table]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        if len(row["labels"]) != len(row["scores"]):
            raise ValueError(f"{row['path']!r} has {len(row['labels'])} labels and {len(row['scores'])} scores")
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield pa.Table.from_pylist(batch, schema=SCHEMA)
            batch = []
    if batch:
        yield pa.Table.from_pylist(batch, schema=SCHEMA)


__all__ = [
    "FORMATS",
    "SCHEMA",
    "TaggedImage",
    "file_format",
    "read_results",
    "read_tables",
    "result_files",
    "write_rows",
]
