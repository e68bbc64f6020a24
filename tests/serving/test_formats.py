"""Formats of tagging results: what is written is read back, and no cell is a formula."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pytest

from modeling_taidpt.evaluation.csv_cells import harmless_cell, join_cell, plain_cell, split_cell
from modeling_taidpt.serving.formats import FORMATS, SCHEMA, TaggedImage, read_results, read_tables, write_rows

ROWS = [
    TaggedImage("a b.jpg", ["cat", "hot dog"], [0.75, 0.5], None),
    TaggedImage('=HYPERLINK("x")', ["=1+1", "a; b", "back\\slash;", "; ;"], [0.5, 0.25, 0.125, 0.0625], None),
    TaggedImage("ünï/\u202ecode,\n.jpg", [], [], "cannot read image '-x': it is \"broken\"."),
    TaggedImage("'=quoted", ["'", "'=quoted", "@home", "\tx"], [1.0, 2**-20, 0.0, 0.0], None),
]


def table(rows=ROWS):
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=SCHEMA)


@pytest.mark.parametrize("format", FORMATS)
def test_rows_come_back_as_they_were(tmp_path, format):
    path = tmp_path / f"tags.{format}"
    write_rows(iter([table(ROWS[:1]), table(ROWS[1:])]), path)
    found = list(read_results(path))
    for row, expected in zip(found, ROWS, strict=True):
        assert row._replace(scores=[]) == expected._replace(scores=[])
        assert row.scores == pytest.approx(expected.scores, rel=1e-5)
    write_rows(table([]), path)
    assert list(read_results(path)) == []


def test_no_cell_of_a_csv_is_a_formula(tmp_path):
    texts = ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "＝1", "'=1", " =1", "\ufeff\xa0=1"]  # noqa: RUF001
    write_rows(table([TaggedImage(text, [text], [0.5], text) for text in texts]), tmp_path / "tags.csv")
    with (tmp_path / "tags.csv").open(encoding="utf-8", newline="") as file:
        for row, text in zip(csv.DictReader(file), texts, strict=True):
            assert row["path"] == row["labels"] == row["error"] == f"'{text}"
    for text in (*texts, "cat", "it's", "'cat", "", "''=x", "a;=b", "a;'=b; ;-", ";"):
        assert plain_cell(harmless_cell(text)) == text
    assert join_cell(["cat", "=dog"]) == "cat; '=dog"
    # where the decimal sign is a comma, cells are cut at semicolons
    assert harmless_cell("a;=b") == "a;'=b" and join_cell(["a;=b"]) == "a\\;'=b"
    assert split_cell(join_cell(["a;=b", "=;\\;@"])) == ["a;=b", "=;\\;@"]
    assert split_cell("") == []


def test_json_lines_are_plain(tmp_path):
    write_rows(table(ROWS[:1]), tmp_path / "tags.jsonl")
    line = (tmp_path / "tags.jsonl").read_text(encoding="utf-8")
    assert json.loads(line) == {"path": "a b.jpg", "labels": ["cat", "hot dog"], "scores": [0.75, 0.5], "error": None}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tags.parquet", "no parquet"),
        ("tags.csv", "name,value\na,1\n"),
        ("tags.csv", "path,labels,scores,error\na.jpg,cat; dog,0.5,\n"),
        ("tags.csv", "path,labels,scores,error\na.jpg,cat,much,\n"),
        ("tags.csv", "path,labels,scores,error\na.jpg\n"),
        ("tags.jsonl", "{\n"),
        ("tags.jsonl", "[1]\n"),
        ("tags.jsonl", '{"path": "a.jpg", "labels": 7, "scores": [], "error": null}\n'),
    ],
)
def test_other_files_are_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}.* is broken or holds other rows"):
        list(read_results(tmp_path / name))


def test_results_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_results(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no results"):
        read_results(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="does not end in"):
        read_results(tmp_path / "notes.txt")


def test_columns_are_read_alone(tmp_path):
    write_rows(table(), tmp_path / "tags.csv")
    assert [part.column_names for part in read_tables(tmp_path / "tags.csv", ["path"])] == [["path"]]
