"""Scale and bias of probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from modeling_taidpt import fit_score_calibration


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
