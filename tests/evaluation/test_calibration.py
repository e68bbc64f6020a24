"""Scale and bias of probabilities, thresholds, and how far probabilities can be trusted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from modeling_taidpt.evaluation.calibration import fit_score_calibration, fit_thresholds, match_prevalence
from modeling_taidpt.evaluation.reliability_diagram import expected_calibration_error, plot_reliability, reliability


def test_equals_unregularised_logistic_regression():
    generator = torch.Generator().manual_seed(0)
    logits = 0.3 * torch.randn(300, 4, generator=generator) + 2
    labels = (torch.rand(300, 4, generator=generator) < torch.sigmoid(5 * (logits - 2.2))).long()
    expected = LogisticRegression(C=np.inf, tol=1e-10).fit(logits.reshape(-1, 1), labels.flatten())
    scale, bias = fit_score_calibration(logits, labels)
    assert scale == pytest.approx(expected.coef_[0, 0], rel=1e-3)
    assert bias == pytest.approx(expected.intercept_[0], rel=1e-3)
    probabilities = torch.sigmoid(scale * logits + bias)
    assert probabilities.mean() == pytest.approx(labels.double().mean().item(), abs=1e-4)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) and labels \(2, 2\)"):
        fit_score_calibration(torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="All labels are 0"):
        fit_score_calibration(torch.zeros(2, 3), torch.zeros(2, 3))


def test_classes_with_few_positives_are_held_to_the_model():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(200, 3, generator=generator)
    labels = (
        torch.rand(200, 3, generator=generator) < torch.sigmoid(3 * logits + torch.tensor([1.0, -1.0, 0.0]))
    ).long()
    labels[:, 2] = 0  # nothing is known to show the third class
    known = torch.ones(200, 3, dtype=torch.bool)
    known[:, 2] = False
    shared = fit_score_calibration(logits, labels, known=known)
    scale, bias = fit_score_calibration(logits, labels, per_class=True, prior_strength=1e9, known=known)
    assert scale == pytest.approx([shared[0]] * 3, rel=1e-4)
    assert bias == pytest.approx([shared[1]] * 3, rel=1e-4)
    scale, bias = fit_score_calibration(logits, labels, per_class=True, prior_strength=1e-9, known=known)
    assert (scale[2], bias[2]) == pytest.approx(shared, rel=1e-4)  # no label: the model's
    for column in range(2):
        regression = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, column : column + 1], labels[:, column])
        assert scale[column] == pytest.approx(regression.coef_[0, 0], rel=1e-3)
        assert bias[column] == pytest.approx(regression.intercept_[0], rel=1e-3)
    between = fit_score_calibration(logits, labels, per_class=True, prior_strength=20, known=known)[1]
    assert bias[1] < between[1] < shared[1] < between[0] < bias[0]


def sigmoid(scale, logits, bias):
    return torch.sigmoid(torch.tensor(scale) * logits + torch.tensor(bias))


@pytest.mark.parametrize("per_class", [False, True])
def test_a_fit_never_turns_the_order_of_labels_around(per_class, caplog):
    logits = torch.tensor([[0.1, 0.9, 0.3], [0.7, 0.2, 0.8], [0.4, 0.6, 0.5]])
    labels = (logits < 0.35).long()  # present labels score lowest
    scale, bias = fit_score_calibration(logits, labels, per_class)
    assert all(0 < value < 1 for value in np.atleast_1d(scale))
    assert sigmoid(scale, logits, bias).mean().item() == pytest.approx(labels.double().mean().item(), abs=0.02)
    assert "do not score higher" in caplog.text


@pytest.mark.parametrize("per_class", [False, True])
def test_separable_and_constant_scores_give_finite_probabilities(per_class):
    logits = torch.tensor([[1.0, -1.0, 2.0], [-0.5, 0.4, -2.0]])
    scale, bias = fit_score_calibration(logits, (logits > 0).long(), per_class)
    probabilities = sigmoid(scale, logits, bias)
    assert torch.equal(probabilities > 0.5, logits > 0)
    assert probabilities.min() > 1e-6 and probabilities.max() < 1 - 1e-6  # a fit without end would reach 0 and 1
    rounding = 1e-7 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    labels = torch.tensor([[1, 0], [0, 0]])
    scale, bias = fit_score_calibration(0.3 + rounding, labels, per_class, prior_strength=1e-3)
    assert max(np.atleast_1d(scale)) < 0.02
    expected = labels.double().mean(dim=0).tolist() if per_class else [0.25, 0.25]
    assert sigmoid(scale, 0.3 + rounding, bias)[0].tolist() == pytest.approx(expected, abs=0.01)


def test_classes_that_are_never_or_always_present():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 3, generator=generator)
    labels = (torch.rand(40, 3, generator=generator) < torch.sigmoid(2 * logits)).long()
    labels[:, 1], labels[:, 2] = 0, 1
    scale, bias = fit_score_calibration(logits, labels, per_class=True)
    assert all(value > 0 for value in scale)
    probabilities = sigmoid(scale, logits, bias)
    means = probabilities.mean(dim=0).tolist()
    assert means[1] < 0.2 < 0.8 < means[2]  # towards what was seen, held to the model
    thresholds = fit_thresholds(probabilities, labels, per_class=True, prior_strength=0)
    assert (probabilities[:, 2] >= thresholds[2]).all()  # all of them are right
    assert thresholds[1] == pytest.approx(0.5)  # nothing weighs: no class has a say in it
    with pytest.raises(ValueError, match="give a number above 0"):
        fit_score_calibration(logits, labels, per_class=True, prior_strength=0)


def test_bias_gives_the_wanted_share():
    logits = torch.tensor([[0.0, 3.0], [1.0, -1.0], [-2.0, 0.5]])
    bias = match_prevalence(logits, torch.tensor([0.1, 0.7]), scale=2.0)
    shares = torch.sigmoid(2 * logits.double() + torch.tensor(bias)).mean(dim=0)
    assert shares.tolist() == pytest.approx([0.1, 0.7], rel=1e-5)
    shared = match_prevalence(logits, 0.25, scale=[1.0, 2.0])
    mean = torch.sigmoid(torch.tensor([1.0, 2.0]) * logits.double() + shared).mean()
    assert mean.item() == pytest.approx(0.25, rel=1e-5)
    with pytest.raises(ValueError, match="both excluded"):
        match_prevalence(logits, torch.tensor([0.0, 0.7]))


def test_thresholds_maximise_f1():
    probabilities = torch.tensor([[0.9, 0.2], [0.8, 0.6], [0.4, 0.3], [0.1, 0.05]])
    labels = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]])
    # class 0: keeping three gives 2 * 2 / (3 + 2); class 1: keeping two gives 1
    middle = [(torch.tensor(pair).logit().mean()).sigmoid().item() for pair in ((0.4, 0.1), (0.3, 0.2))]
    assert fit_thresholds(probabilities, labels, per_class=True, prior_strength=0) == pytest.approx(middle, rel=1e-5)
    shared = fit_thresholds(probabilities, labels)
    assert shared == pytest.approx(middle[1], rel=1e-5)  # all pairs: 0.3 and above, 2 * 4 / (5 + 4)
    logits = torch.tensor([*middle, shared]).logit()
    half = fit_thresholds(probabilities, labels, per_class=True, prior_strength=2)
    assert half == pytest.approx(((logits[:2] + logits[2]) / 2).sigmoid().tolist(), rel=1e-5)
    # equal scores stay together: of two at 0.5 neither can be kept alone
    assert fit_thresholds(torch.tensor([[0.5], [0.5], [0.2]]), torch.tensor([[1], [0], [0]])) < 0.5


def test_calibration_error_by_hand(tmp_path):
    probabilities = torch.tensor([[0.1, 0.15], [0.9, 1.0]])
    labels = torch.tensor([[0, 1], [1, 1]])
    # bins of width 0.5: (0.125, 0.5) and (0.95, 1), two pairs each
    assert expected_calibration_error(probabilities, labels, bins=2) == pytest.approx(100 * (0.375 + 0.05) / 2)
    known = torch.tensor([[True, False], [True, True]])
    curve = reliability(probabilities, labels, bins=2, known=known)
    assert curve["count"].tolist() == [1, 2]
    assert curve["probability"].tolist() == pytest.approx([0.1, 0.95])
    assert curve["positives"].tolist() == [0, 1]
    plot_reliability({"model": curve}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability(probabilities * 3, labels)
