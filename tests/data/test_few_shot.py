"""Few-shot draws and partial labels: counts, seeds, files, bad input."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from modeling_taidpt.captions.label_columns import label_matrix
from modeling_taidpt.data.few_shot import sample_few_shot
from modeling_taidpt.data.partial_labels import drop_labels, read_partial_labels

NAMES = ["dog", "cat", "car", "tram"]


def random_labels(images=200, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.random((images, 3)) < [0.5, 0.2, 0.05]).astype(np.int64)


@pytest.mark.parametrize("shots", [1, 4, 16])
def test_every_class_draws_its_own_images(shots):
    labels = random_labels()
    sample = sample_few_shot(labels, shots, seed=1)
    expected = np.minimum(shots, labels.sum(axis=0))
    assert sample.drawn.tolist() == expected.tolist()
    assert len(sample.indices) == len(set(sample.indices)) == sample.drawn.sum()
    assert (sample.shown >= sample.drawn).all()
    assert sample.shown.tolist() == labels[sample.indices].sum(axis=0).tolist()
    again = sample_few_shot(torch.from_numpy(labels), shots, seed=1)
    assert again.indices.tolist() == sample.indices.tolist()
    assert sample_few_shot(labels, shots, seed=2).indices.tolist() != sample.indices.tolist()
    partial = np.where(labels == 1, 1, -1)
    assert sample_few_shot(partial, shots, seed=1).indices.tolist() == sample.indices.tolist()


def test_report_names_classes_with_fewer_and_empty_classes_warn(caplog):
    labels = np.zeros((10, 4), dtype=int)
    labels[:8, 0], labels[8:, 1] = 1, 1
    logging.getLogger("transformers").propagate = True
    with caplog.at_level("WARNING"):
        sample = sample_few_shot(labels, 4, class_names=NAMES)
    assert "No image shows 2 of the 4 classes: car, tram." in caplog.text
    report = sample.report(NAMES)
    assert report == ("6 images drawn with seed 0, up to 4 for each of 4 classes; fewer for cat 2, car 0, tram 0.")


@pytest.mark.parametrize(
    ("labels", "shots", "message"),
    [
        (np.ones((2, 2)), 0, "`shots` is 0"),
        (np.zeros((2, 2)), 1, "No image shows any class"),
        (np.full((2, 2), 3), 1, "row 0, column 0 is 3"),
        (np.ones(3), 1, r"shape of the labels is \(3,\)"),
    ],
)
def test_bad_draws_are_refused(labels, shots, message):
    with pytest.raises(ValueError, match=message):
        sample_few_shot(labels, shots)


@pytest.mark.parametrize("known", [0.1, 0.5, 0.9, 1])
def test_dropping_keeps_the_share_and_tells_the_truth(known):
    labels = random_labels()
    partial = drop_labels(labels, known, seed=3)
    assert (partial != 0).sum() == round(known * labels.size)
    assert (labels[partial == 1] == 1).all()
    assert (labels[partial == -1] == 0).all()
    assert np.array_equal(partial, drop_labels(labels, known, seed=3))
    if known < 1:
        assert not np.array_equal(partial, drop_labels(labels, known, seed=4))
        fewer = drop_labels(partial, 0.5)  # of labels that are partial already
        assert (partial[fewer != 0] == fewer[fewer != 0]).all()
        assert (fewer != 0).sum() == round(0.5 * (partial != 0).sum())


def test_one_label_stays_known_and_bad_input_is_refused():
    assert (drop_labels(np.eye(2), 0.01) != 0).sum() == 1
    for known in (0, -1, 1.5):
        with pytest.raises(ValueError, match="give one above 0 and at most 1"):
            drop_labels(np.eye(2), known)
    with pytest.raises(ValueError, match=r"row 0, column 0 is 0.5: give -1, 0 or 1"):
        drop_labels(np.full((2, 2), 0.5), 0.5)
    with pytest.raises(ValueError, match="is nan"):
        drop_labels(np.full((2, 2), np.nan), 0.5)


def test_files_of_partial_labels(tmp_path):
    partial = drop_labels(random_labels(20), 0.5)
    np.savetxt(tmp_path / "train_proportion_0.5.txt", partial, fmt="%d", delimiter=",")  # as the published ones
    np.save(tmp_path / "labels.npy", partial)
    for name in ("train_proportion_0.5.txt", "labels.npy"):
        assert np.array_equal(read_partial_labels(tmp_path / name, 20, 3), partial)
        with pytest.raises(ValueError, match="has 20 rows for 21 images"):
            read_partial_labels(tmp_path / name, 21, 3)
        with pytest.raises(ValueError, match="has 3 columns for 80 classes"):
            read_partial_labels(tmp_path / name, 20, 80)
    with pytest.raises(FileNotFoundError, match="There is no file of labels"):
        read_partial_labels(tmp_path / "absent.txt")
    (tmp_path / "words.txt").write_text("1,dog\n")
    with pytest.raises(ValueError, match=r"words.txt cannot be read"):
        read_partial_labels(tmp_path / "words.txt")
    (tmp_path / "values.txt").write_text("1,0\n2,0\n")
    with pytest.raises(ValueError, match="row 1, column 0 is 2"):
        read_partial_labels(tmp_path / "values.txt")
    np.save(tmp_path / "objects.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects.npy cannot be read"):
        read_partial_labels(tmp_path / "objects.npy")


def test_columns_of_labels_may_be_partial_or_not():
    assert label_matrix([["cat"], [0, 2], None], NAMES).tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert label_matrix([[0, 1, 0, 0], [-1, 0, 1, 0]], NAMES).tolist() == [[0, 1, 0, 0], [-1, 0, 1, 0]]
