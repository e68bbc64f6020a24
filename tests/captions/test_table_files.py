"""Files of rows: no value is lost without a word, whatever spreadsheets and pandas write."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from modeling_taidpt.captions import read_captions
from modeling_taidpt.captions.class_tables import read_table_file
from modeling_taidpt.captions.table_files import read_rows
from modeling_taidpt.data.recipes import read_recipe


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,caption\n1,A dog.\n2,A cat, a dog\n", r"has 3 values for 2 columns in row 1 \(line 3\)"),
        ("a.tsv", "id\tcaption\n1\tA dog\tand a cat\n", r"has 3 values for 2 columns in row 0 \(line 2\)"),
        ("a.csv", "caption\nA dog, a cat\n", r"has 2 values for 1 columns in row 0 \(line 2\)"),
        ("a.csv", 'id,caption\n1,"A\ndog"\n2,a,b\n', r"in row 1 \(line 4\)"),
        ("a.csv", "caption,labels,\nA dog,dog,cat\n", "holds 'cat' in row 0 .*in a column without a name"),
        ("a.csv", "caption,Unnamed: 1\nA dog,cat\n", "holds 'cat' in row 0 .*in a column without a name"),
        ("a.csv", "caption,caption\nA dog,A cat\n", "has two columns 'caption'"),
        ("a.csv", 'caption\n"A dog\n', r"line 2 is not CSV \(unexpected end of data\)"),
        ("a.csv", 'caption\n"A" dog\n', "line 2 is not CSV"),
    ],
)
def test_values_that_would_be_lost_are_an_error_that_names_the_row(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_captions(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'id,caption\n1,"A cat, a dog"\n2,A bus\n'),
        ("a.csv", '\ufeff"id","caption"\r\n1,"A cat, a dog"\r\n\r\n2,A bus,\r\n'),  # a delimiter too many is no value
        ("a.csv", ',id,caption\n0,1,"A cat, a dog"\n1,2,A bus\n'),  # the index of a frame
        ("a.csv", 'Unnamed: 0,Unnamed: 0.1,id,caption\n0,0,1,"A cat, a dog"\n1,1,2,A bus\n'.replace("0.1", "1")),
        ("a.csv", "id;caption\n1;A cat, a dog\n2;A bus\n"),  # as spreadsheets write it where a comma is decimal
        ("a.csv", "id\tcaption\n1\tA cat, a dog\n2\tA bus\n"),
        ("a.tsv", "id\tcaption\n1\tA cat, a dog\n2\tA bus\n"),
        ("a.csv", 'caption, id \n"A cat, a dog",1\nA bus\n'),  # the last value may be missing
    ],
)
def test_what_spreadsheets_and_frames_write_is_read(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_captions(tmp_path / name).captions == ["A cat, a dog", "A bus"]
    rows = list(read_rows(tmp_path / name))
    assert [row["id"] for row in rows] in (["1", "2"], ["1", ""])
    assert set(rows[0]) == {"id", "caption"}


def test_what_pandas_writes_comes_back(tmp_path):
    frame = pd.DataFrame({"caption": ["a, b", 'a "dog"', "line\nbreak", None], "labels": ["x|y", "", "z", "x"]})
    for index in (True, False):
        frame.to_csv(tmp_path / "a.csv", index=index)
        table = read_captions(tmp_path / "a.csv", label_column="labels")
        assert table.captions == ["a, b", 'a "dog"', "line\nbreak", ""]
        assert table.labels == ["x|y", "", "z", "x"]


def test_a_byte_order_mark_is_read_everywhere(tmp_path):
    for name, text in (
        ("a.txt", "A dog."),
        ("a.json", json.dumps([{"caption": "A dog."}])),
        ("a.jsonl", json.dumps({"caption": "A dog."})),
        ("a.csv", "caption\nA dog."),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert read_captions(tmp_path / name).captions == ["A dog."]


def test_damaged_parquet_pages_name_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"caption": [f"A dog {number} " * 9 for number in range(999)]}).to_parquet(path)
    content = bytearray(path.read_bytes())
    for place in range(40, 400):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet'") as error:
        read_captions(path)
    assert "\n" not in str(error.value)


LINES = ["first: [&a [x, x, x, x, x, x, x, x, x, x]", *(
    f"  , &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefg", "bcdefgh", strict=True)
), "  ]"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "[" * 100_000 + "]" * 100_000, "nested too deep"),
        ("a.yaml", "[" * 5_000 + "]" * 5_000, "nested too deep"),
        ("a.yaml", "\n".join(LINES), "unfolds to more than 1,000,000 values"),
        ("a.yaml", "first: &a [*a]", "unfolds to more than"),
    ],
)
def test_tables_and_recipes_of_any_depth_are_one_sentence(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    for read in (read_table_file, read_recipe):
        with pytest.raises(ValueError, match=reason) as error:
            read(tmp_path / name)
        assert len(str(error.value)) < 400
