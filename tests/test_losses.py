"""Losses against the published code's numbers, their own formulas, and their limits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_taidpt.losses import LOSSES, RankingLoss, get_loss

GOLDEN = Path(__file__).parent / "golden" / "losses_and_map.safetensors"
GOLDEN_NAMES = {
    "ranking": "ranking",
    "bce": "bce",
    "focal": "focal",
    "asl": "asl_full",
    "soft_ce": "soft_ce",
    "partial_asl": "asl_partial_dualcoop",
}
ALLOWED = {("partial_asl", -1), ("bce", 0.5), ("focal", 0.5), ("soft_ce", 0.5)}


def cube_ranking_loss(logits: torch.Tensor, labels: torch.Tensor, margin: float = 1.0) -> torch.Tensor:
    """The formula written out over every pair of classes."""
    labels = labels.to(logits.dtype)
    hinge = (margin - logits[:, :, None] + logits[:, None, :]).clamp(min=0)  # (batch, positive, negative)
    return (hinge * labels[:, :, None] * (1 - labels[:, None, :])).sum() / len(logits)


def random_batch(name: str, batch: int = 16, classes: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(batch, classes, generator=generator)
    low = -1 if name == "partial_asl" else 0
    return logits, torch.randint(low, 2, (batch, classes), generator=generator)


@pytest.mark.parametrize("case", ["shared_context", "class_specific"])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_published_numbers(name: str, case: str) -> None:
    golden = load_file(GOLDEN)
    targets = "partial_targets" if name == "partial_asl" else "targets"
    loss = get_loss(name)(golden[f"{case}.loss_inputs.logits"], golden[f"{case}.loss_inputs.{targets}"])
    torch.testing.assert_close(loss, golden[f"{case}.loss.{GOLDEN_NAMES[name]}"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0, 7.0])
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_ranking_equals_cube_with_gradient(margin: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(40, 23, generator=generator) + 100
    labels = torch.rand(40, 23, generator=generator) < torch.linspace(0, 1, 40)[:, None]  # none to all positive
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss, expected = RankingLoss(margin)(ours, labels), cube_ranking_loss(theirs, labels, margin)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-6, atol=1e-7)


def test_ranking_counts_a_pair_the_same_from_both_sides() -> None:
    # 1e-9 + 1 rounds to 1 in fp32: a comparison made differently for the two classes would count half a pair.
    logits = torch.tensor([[1.0, 1e-9], [100.0, 99.0]], requires_grad=True)
    loss = RankingLoss()(logits, torch.tensor([[1, 0], [1, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(logits.grad.sum(dim=1), torch.zeros(2))


def test_ranking_gradcheck_and_row_without_positives() -> None:
    logits = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    labels = torch.eye(5, 6)
    labels[0] = 0  # no positive
    labels[1] = 1  # no negative
    assert torch.autograd.gradcheck(RankingLoss(), (logits, labels))
    RankingLoss()(logits, labels).backward()
    assert logits.grad[:2].abs().max() == 0
    assert logits.grad[2:].abs().max() > 0


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


def test_ranking_of_a_thousand_classes_makes_no_cube() -> None:
    logits = torch.randn(512, 1000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.rand(512, 1000, generator=torch.Generator().manual_seed(1)) < 0.5  # 128 million pairs
    with LargestTensor() as seen:
        loss = RankingLoss()(logits, labels)
        loss.backward()
    assert 0 < seen.largest <= 8 * 512 * 1000  # one int64 matrix, 4 MB
    rows = slice(0, 4)
    part = RankingLoss()(logits[rows].detach(), labels[rows])
    torch.testing.assert_close(part, cube_ranking_loss(logits[rows].detach(), labels[rows]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_are_left_alone_and_dtypes_agree(name: str) -> None:
    logits, labels = random_batch(name)
    logits_before, labels_before = logits.clone(), labels.clone()
    expected = get_loss(name)(logits, labels)
    assert torch.equal(logits, logits_before)
    assert torch.equal(labels, labels_before)
    assert expected.shape == ()
    for dtype in (torch.int8, torch.float32, torch.bfloat16, *([] if name == "partial_asl" else [torch.bool])):
        assert torch.equal(get_loss(name)(logits, labels.to(dtype)), expected)
    half = get_loss(name)(logits.bfloat16(), labels)
    assert half.dtype == torch.float32
    assert torch.equal(half, get_loss(name)(logits.bfloat16().float(), labels))
    assert get_loss(name)(logits.double(), labels).dtype == torch.float64


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_lowers_the_loss(name: str) -> None:
    logits, labels = random_batch(name)
    logits.requires_grad_()
    loss = get_loss(name)(logits, labels)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert get_loss(name)(logits.detach() - 1e-2 * logits.grad, labels) < loss


def test_asymmetric_weights_carry_no_gradient() -> None:
    logits = torch.tensor([[0.3, -0.2]], dtype=torch.float64, requires_grad=True)
    get_loss("asl")(logits, torch.tensor([[1, 0]])).backward()
    p = logits.detach().sigmoid()[0]
    q = 1 - p[1] + 0.05
    expected = torch.stack([-(1 - p[0]) * (1 - p[0]), (1 - q) ** 2 * p[1] * (1 - p[1]) / q]) / 2
    torch.testing.assert_close(logits.grad[0], expected)


def test_unknown_partial_labels_add_nothing() -> None:
    logits, labels = random_batch("partial_asl")
    unknown = labels == 0
    expected = get_loss("partial_asl")(logits, labels)
    assert torch.equal(get_loss("partial_asl")(logits.masked_fill(unknown, 5.0), labels), expected)
    assert get_loss("partial_asl")(logits.masked_fill(~unknown, 5.0), labels) != expected


@pytest.mark.parametrize("name", ["bce", "focal", "soft_ce"])
def test_soft_labels_are_accepted(name: str) -> None:
    logits, _ = random_batch(name)
    half = torch.full_like(logits, 0.5)
    ones, zeros = torch.ones_like(logits), torch.zeros_like(logits)
    loss = get_loss(name)
    if name == "focal":
        assert loss(torch.zeros_like(logits), half) == 0
    else:  # linear in the labels
        torch.testing.assert_close(loss(logits, half), (loss(logits, ones) + loss(logits, zeros)) / 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in LOSSES for value in (2, float("nan"), -1, 0.5) if (name, value) not in ALLOWED],
)
def test_label_outside_allowed_values_is_named(name: str, value: float) -> None:
    logits, labels = random_batch(name)
    labels = labels.float()
    labels[4, 7] = value
    with pytest.raises(ValueError, match=r"labels\[4, 7\] is"):
        get_loss(name)(logits, labels)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shapes", [((3, 4), (3, 5)), ((3, 4), (4,)), ((4,), (4,)), ((0, 4), (0, 4))])
def test_wrong_shape_is_named(name: str, shapes: tuple) -> None:
    with pytest.raises(ValueError, match=r"one shape \(batch, classes\)"):
        get_loss(name)(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_integer_logits_and_unknown_name() -> None:
    with pytest.raises(ValueError, match="floating-point logits"):
        get_loss("bce")(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"'hinge'; choose one of ranking, bce"):
        get_loss("hinge")
    assert get_loss("ranking", margin=0.5).margin == 0.5


def test_weighted_ranking_is_the_weighted_sum_over_pairs():
    torch.manual_seed(0)
    logits = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    labels, weights = (torch.rand(6, 9) < 0.3).double(), torch.rand(6, 9, dtype=torch.float64)
    loss = RankingLoss()(logits, labels, weights)
    pairs = (1 - logits[:, :, None] + logits[:, None, :]).clamp(min=0) * labels[:, :, None] * (1 - labels[:, None])
    expected = (pairs * weights[:, :, None] * weights[:, None]).sum() / 6
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    ours, theirs = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert torch.allclose(RankingLoss()(logits, labels, torch.ones_like(weights)), RankingLoss()(logits, labels))
