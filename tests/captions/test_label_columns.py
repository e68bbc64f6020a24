"""Columns of labels in every form that people write them: no class is lost, the first least of all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value

from modeling_taidpt.captions.label_columns import as_lists, label_indices, label_matrix, multi_hot
from modeling_taidpt.data import align_classes, image_label_matrix, load_image_dataset, partial_label_matrix

NAMES = ["cat", "dog", "horse"]
EYE = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, 2],
        [np.int64(0), np.int64(1), np.int64(2)],
        np.arange(3),
        torch.arange(3),
        [np.array(0), np.array(1), np.array(2)],
        pd.Series([0.0, 1.0, 2.0]),  # numbers beside missing ones become these
        ["cat", "dog", "horse"],
        ["0", "1", "2"],
        [[0], (1,), {2}],
        [["cat"], np.array(["dog"]), ["horse"]],
        EYE,
        np.eye(3),
        torch.eye(3, dtype=torch.bool),
        ["[1, 0, 0]", "[0, 1, 0]", "[0 0 1]"],
        ['["cat"]', "['dog']", "['horse' 'horse']"],
    ],
    ids=str,
)
def test_every_class_is_found_however_it_is_written(values):
    assert multi_hot(values, NAMES).tolist() == EYE


@pytest.mark.parametrize(
    "texts",
    [
        ["cat|dog", "", "horse"],
        ["cat;dog", "", "horse"],
        ["cat; dog", " ", "horse;"],
        ["cat, dog", None, "horse"],
        ['["cat", "dog"]', "[]", '["horse"]'],
        ["['cat', 'dog']", "[]", "['horse']"],
        ["['cat' 'dog']", float("nan"), "['horse']"],  # as NumPy prints them
        ["{'cat', 'dog'}", pd.NA, "('horse',)"],
    ],
)
def test_texts_of_several_labels(texts):
    assert multi_hot(texts, NAMES).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert multi_hot(pd.Series(texts, dtype=object), NAMES).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_names_may_hold_what_parts_others():
    assert multi_hot(["salt, pepper", "a|b"], ["salt, pepper", "a|b"]).tolist() == [[1, 0], [0, 1]]
    assert as_lists(["salt, pepper|dog", "cat"]) == [["salt, pepper", "dog"], ["cat"]]  # "|" parts, so commas do not
    assert as_lists([["salt, pepper"]]) == [["salt, pepper"]]
    assert as_lists(["it's", "[sic] dog"]) == [["it's"], ["[sic] dog"]]


def test_one_class():
    assert multi_hot([0, 0], ["cat"]).tolist() == [[1], [1]]  # indices: as bits they would say nothing
    assert multi_hot([[0], []], ["cat"]).tolist() == [[1], [0]]
    assert multi_hot([[1], [0]], ["cat"]).tolist() == [[1], [0]]
    assert label_matrix([0, 0], ["cat"], class_names=["cat"]).tolist() == [[1], [1]]


@pytest.mark.parametrize("feature", [ClassLabel(names=NAMES), Value("int64"), Value("int8")])
def test_one_label_a_row_as_imagefolder_gives(feature):
    rows = Dataset.from_dict({"label": [0, 1, 2, 0]}, features=Features({"label": feature}))
    names = None if isinstance(feature, ClassLabel) else NAMES
    assert image_label_matrix(rows, names, "label").tolist() == [*EYE, EYE[0]]
    assert partial_label_matrix(rows, names, "label").tolist() == (2 * np.array([*EYE, EYE[0]]) - 1).tolist()


def test_class_labels_go_by_name_and_minus_one_is_none():
    features = Features({"labels": ClassLabel(names=NAMES)})
    rows = Dataset.from_dict({"labels": [0, -1, 2]}, features=features)
    assert image_label_matrix(rows, NAMES[::-1]).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    rows = rows.add_column("image", [None] * 3)
    aligned = align_classes(rows, ["horse", "cat", "bus"])
    assert aligned["labels"][:] == [[1], [], [0]]
    assert aligned["unknown"][:] == [[2]] * 3
    loaded = load_image_dataset(rows.rename_column("labels", "label"), label_column="label")
    assert loaded["labels"][:] == [[0], [], [2]]
    lists = Dataset.from_dict({"labels": [[0, 2], None]}, features=Features({"labels": List(ClassLabel(names=NAMES))}))
    assert image_label_matrix(lists).tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["cat", "cow"], "label 'cow' in row 1 of the file is none of the 3 classes"),
        (["cat", "cat|cow"], "label 'cow' in row 1"),
        ([0, 3], "label 3 in row 1"),
        ([0, 0.5], r"label 0\.5 in row 1"),
        ([0, b"cat"], "label b'cat' in row 1"),
        ([0, {"cat": 1}], r"label \{'cat': 1\} in row 1"),
        ([0, True], "label True in row 1"),
        ([[0], [None]], "label None in row 1"),
        ([[1, 0, 0], [0, 1, float("nan")]], "label nan in row 1"),
        ([[1, 0, -1], [0, 1]], "Row 1 of the file has 2 labels for 3 classes"),
        ([0, -1], "Row 0 of the file has 1 labels for 3 classes"),
        ([[1, -1, 2]], "row 0, column 2 is 2"),
    ],
)
def test_what_is_no_label_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        label_matrix(values, NAMES, "the file")


def test_partial_labels_deny_classes_and_captions_may_not():
    assert label_indices([[1, 0, -1], [0, 0, 0]], NAMES) == ([[0], []], [[1], [0, 1, 2]])
    with pytest.raises(ValueError, match="The label -1 in row 1 of the file denies a class"):
        multi_hot([[1, 0, 0], [0, 0, -1]], NAMES, "the file")
