"""Expected shares of labels, and the thresholds that they give, without a labelled image."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from modeling_taidpt.evaluation.label_shares import (
    caption_shares,
    default_scale,
    estimate_shares,
    scaled_shares,
    share_cuts,
)
from modeling_taidpt.evaluation.score_fitting import describe_tags, fit_expected_shares, overall_f1


def gaussian_scores(shares: list[float], distance: float = 3.0, images: int = 4000, offsets: float = 0.0):
    """Scores and labels `(images, classes)` of labels whose present images score `distance` deviations higher."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(images, len(shares), generator=generator) < torch.tensor(shares)
    scores = torch.randn(images, len(shares), generator=generator) + distance * labels
    return scores + offsets * torch.arange(len(shares)), labels


def test_captions_give_proportions_and_a_sum():
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]])
    shares = caption_shares(labels)
    assert shares.sum().item() == pytest.approx(1.5 * 4 / 3)  # 1.33 labels in a caption that names any
    assert shares[0].item() == pytest.approx(0.9)  # no more, what is left goes to the others
    assert (shares[1] / shares[2]).item() == pytest.approx(2)  # the one that no caption names counts as half a caption
    assert caption_shares(labels, 0.45).tolist() == pytest.approx([0.3, 0.1, 0.05])
    with pytest.raises(ValueError, match="None of the 4 captions names a label"):
        caption_shares(torch.zeros(4, 3))


@pytest.mark.parametrize("wrong", [0.0, -1.0, 2.8, float("nan")])
def test_what_no_image_can_show_is_refused(wrong):
    with pytest.raises(ValueError, match="labels per image are expected of 3 labels"):
        scaled_shares(torch.tensor([0.2, 0.1, 0.1]), wrong)


def test_images_correct_wrong_shares():
    true = [0.3, 0.1, 0.05, 0.2]
    scores, _ = gaussian_scores(true)
    wrong = torch.tensor([0.1, 0.3, 0.15, 0.07])
    found = estimate_shares(scores, wrong)
    for estimate, before, truth in zip(found.tolist(), wrong.tolist(), true, strict=True):
        assert estimate == pytest.approx((before + truth) / 2, rel=0.15)  # half of each, as these are two Gaussians
    assert torch.equal(estimate_shares(torch.ones(5, 4), wrong), wrong.double())  # images that say nothing


def test_each_label_is_shown_as_often_as_expected_whatever_its_offset():
    true = [0.3, 0.1, 0.02]
    scores, labels = gaussian_scores(true, offsets=5.0)  # one threshold for all could not tell them apart
    config = SimpleNamespace(labels=["a", "b", "c"])
    fit_expected_shares(config, scores, torch.tensor(true))
    probabilities = torch.sigmoid(config.score_scale * scores.double() + torch.tensor(config.score_bias))
    found = (probabilities >= torch.tensor(config.score_thresholds)).double().mean(dim=0)
    cuts = share_cuts(scores, estimate_shares(scores, torch.tensor(true)))
    assert torch.equal(found, (scores.double() >= cuts).double().mean(dim=0))
    best = max(overall_f1(scores, labels, float(cut)) for cut in torch.linspace(-2, 14, 200))
    assert overall_f1(probabilities, labels, config.score_thresholds) > best
    report = describe_tags(config, scores)
    assert report["labels_per_image"] == pytest.approx(found.sum().item())
    assert next(iter(report["most_frequent"])) == "a" and report["never_shown"] == []


def test_a_rare_label_borrows_from_the_model():
    scores, _ = gaussian_scores([0.2, 0.2], images=100)
    scores[:, 1] -= 4  # a label of low scores
    often, rarely = (share_cuts(scores, torch.tensor([0.2, share]))[1] for share in (0.2, 0.001))
    own = scores[:, 1].double().quantile(1 - 0.001)
    assert often < rarely
    assert abs(rarely - own) > 0.5  # hardly its own, which one image would decide


def test_the_scale_does_not_depend_on_units():
    scores, _ = gaussian_scores([0.2, 0.1])
    assert default_scale(100 * scores) == pytest.approx(default_scale(scores) / 100)
    assert default_scale(torch.ones(5, 2)) == 1.0
