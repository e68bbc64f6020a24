"""Counts of captions per class, selection by the rarest class, co-occurrence: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from modeling_taidpt.captions.statistics import class_counts, cooccurrence, describe_counts, select_by_rarest_class

LABEL_ROWS = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 1], [1, 0, 0]])


def test_cooccurrence_by_hand():
    expected = [[1, 2 / 5, 1 / 5], [2 / 3, 1, 0], [1, 0, 1]]
    assert cooccurrence(LABEL_ROWS) == pytest.approx(np.array(expected))


def test_captions_go_to_their_rarest_class():
    kept = select_by_rarest_class(LABEL_ROWS, 1, seed=0)  # classes of rarest: dog, cat, cat, cat, car, dog
    assert len(kept) == 3
    assert 4 in kept
    assert len({0, 5} & set(kept.tolist())) == len({1, 2, 3} & set(kept.tolist())) == 1
    assert select_by_rarest_class(LABEL_ROWS, 9).tolist() == list(range(6))


def test_counts_are_one_line():
    counts = class_counts(LABEL_ROWS)
    assert counts.tolist() == [5, 3, 1]
    assert describe_counts(["dog", "cat", "car"], counts) == "Captions per class (median 3): dog 5, cat 3, car 1."
    many = describe_counts([f"c{number}" for number in range(20)], np.arange(20))
    assert many == "Captions per class (median 9): c19 19, c18 18, c17 17, c16 16, ..., c3 3, c2 2, c1 1, c0 0."
