"""Our metrics give the figures of torchmetrics; tests/evaluation/test_metrics.py has those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modeling_taidpt.evaluation import expected_calibration_error, mean_average_precision, multilabel_f1

classification = pytest.importorskip("torchmetrics.functional.classification")
pytestmark = pytest.mark.slow
CLASSES = 11


@pytest.fixture(scope="module", params=[False, True], ids=["", "ties"])
def scored(request):
    """Probabilities and labels of made-up images: (images, classes) each."""
    generator = np.random.default_rng(3)
    labels = generator.random((400, CLASSES)) < np.linspace(0.03, 0.6, CLASSES)
    scores = 1 / (1 + np.exp(-generator.standard_normal(labels.shape) - labels))
    return torch.from_numpy(scores.round(1) if request.param else scores), torch.from_numpy(labels.astype(np.int64))


def test_average_precision(scored):
    scores, labels = scored
    theirs = classification.multilabel_average_precision(scores, labels, CLASSES, average="macro")
    assert mean_average_precision(scores, labels)["map"] == pytest.approx(100 * float(theirs), abs=1e-4)


@pytest.mark.parametrize(("average", "prefix"), [("micro", "O"), ("macro", "C")])
def test_precision_recall_and_f1_at_a_threshold(scored, average, prefix):
    scores, labels = scored
    ours, options = multilabel_f1(scores, labels, threshold=0.55), {"threshold": 0.55, "average": average}
    for name, function in (("P", "precision"), ("R", "recall")):
        theirs = getattr(classification, f"multilabel_{function}")(scores, labels, CLASSES, **options)
        assert ours[prefix + name] == pytest.approx(100 * float(theirs), abs=1e-4)
    theirs = classification.multilabel_f1_score(scores, labels, CLASSES, **options)
    # The literature's CF1 is of mean precision and mean recall; torchmetrics gives the mean of the classes' F1.
    found = ours["OF1"] if average == "micro" else ours["per_class_f1"].mean()
    assert float(found) == pytest.approx(100 * float(theirs), abs=1e-4)


def test_calibration_error(scored):
    scores, labels = scored
    distinct = len(scores.unique()) == scores.numel()
    theirs = classification.binary_calibration_error(scores.flatten(), labels.flatten(), n_bins=15, norm="l1")
    # Of values on the edge of two bins, as 0.2, each takes another one.
    assert expected_calibration_error(scores, labels) == pytest.approx(
        100 * float(theirs), abs=1e-4 if distinct else 0.01
    )
