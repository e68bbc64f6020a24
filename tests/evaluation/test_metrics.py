"""Metrics against scikit-learn, the published code's number, hand-made cases, and as `evaluate` modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from modeling_taidpt.evaluation import metrics
from modeling_taidpt.evaluation.metrics import (
    average_precision,
    bootstrap_map,
    compute_multilabel_metrics,
    mean_average_precision,
    metric_path,
    multilabel_f1,
    paired_bootstrap,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "losses_and_map.safetensors"


def random_scores(images: int = 300, classes: int = 13, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    scores = generator.standard_normal((images, classes))
    labels = generator.random((images, classes)) < np.linspace(0.02, 0.9, classes)
    scores += 0.5 * labels
    return (scores.round(1) if ties else scores), labels.astype(np.int64)


def sklearn_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.array([average_precision_score(labels[:, c], scores[:, c]) for c in range(labels.shape[1])])


@pytest.mark.parametrize("case", ["shared_context", "class_specific"])
def test_map_equals_published_number(case: str) -> None:
    golden = load_file(GOLDEN)
    result = mean_average_precision(golden[f"{case}.map.scores"], golden[f"{case}.map.targets"])
    assert result["map"] == pytest.approx(golden[f"{case}.map.value"].item(), rel=1e-6)


@pytest.mark.parametrize("block_bytes", [1, 10**5, 2**28])
@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_equals_scikit_learn(ties: bool, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BLOCK_BYTES", block_bytes)
    scores, labels = random_scores(ties=ties)
    np.testing.assert_allclose(
        average_precision(scores, labels), sklearn_precision(scores, labels), rtol=0, atol=1e-12
    )


def test_average_precision_edges() -> None:
    scores = np.array([[0.0, 1.0, 3.0], [-0.0, 1.0, 2.0], [1.0, 1.0, 1.0], [-np.inf, 1.0, np.inf]])
    labels = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1], [1, 0, 1]])
    expected = [(1 / 3 + 2 / 4) / 2, 0.25, 1.0]  # class 0: 0.0 and -0.0 are tied, so its first positive is at rank 3
    np.testing.assert_allclose(average_precision(scores, labels), expected)
    assert average_precision(np.array([[0.3]]), np.array([[1]])).tolist() == [1.0]


def test_tied_scores_do_not_depend_on_order() -> None:
    scores, labels = random_scores(ties=True)
    shuffled = np.random.default_rng(0).permutation(len(scores))
    found = average_precision(scores[shuffled], labels[shuffled])
    np.testing.assert_allclose(found, average_precision(scores, labels), rtol=1e-14)
    np.testing.assert_allclose(average_precision(np.zeros_like(scores), labels), labels.mean(axis=0), rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32])
def test_torch_numpy_and_dtypes_agree(dtype: torch.dtype) -> None:
    scores, labels = random_scores()
    tensor = torch.from_numpy(10 * scores).to(dtype).requires_grad_(dtype.is_floating_point)
    exact = tensor.detach().double().numpy()
    expected = sklearn_precision(exact, labels)
    for kind in (torch.bool, torch.uint8, torch.float32):
        ours = average_precision(tensor, torch.from_numpy(labels).to(kind))
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_class_without_positives_is_left_out_and_counted() -> None:
    scores, labels = random_scores()
    labels[:, [2, 7]] = 0
    result = mean_average_precision(scores, labels)
    assert np.isnan(result["per_class"]).nonzero()[0].tolist() == [2, 7]
    assert result["classes_without_positives"] == 2
    present = labels.any(axis=0)
    assert result["map"] == pytest.approx(100 * sklearn_precision(scores[:, present], labels[:, present]).mean())
    empty = mean_average_precision(scores, np.zeros_like(labels))
    assert np.isnan(empty["map"])
    assert empty["classes_without_positives"] == 13


def test_memory_stays_in_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 8 * 2**20)
    generator = np.random.default_rng(0)
    scores = generator.random((20_000, 40)).astype(np.float32).round(2)  # ties everywhere
    labels = np.ones(scores.shape, dtype=bool)  # positives everywhere: the worst case
    for work in (average_precision, lambda s, y: multilabel_f1(s, y, threshold=0.5, top_k=3)):
        tracemalloc.start()
        work(scores, labels)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * 2**20


@pytest.mark.parametrize("block_bytes", [1, 2**28])
def test_f1_equals_scikit_learn(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BLOCK_BYTES", block_bytes)
    scores, labels = random_scores()
    scores[:, 0] = -9  # a class that is never predicted
    labels[:, 1] = 0  # a class without positives
    result = multilabel_f1(scores, labels, threshold=0.5)
    chosen = (scores >= 0.5).astype(int)
    for average, letter in (("macro", "C"), ("micro", "O")):
        options = {"average": average, "zero_division": 0}
        assert result[f"{letter}P"] == pytest.approx(100 * precision_score(labels, chosen, **options))
        assert result[f"{letter}R"] == pytest.approx(100 * recall_score(labels, chosen, **options))
    per_class = f1_score(labels, chosen, average=None, zero_division=0)
    np.testing.assert_allclose(result["per_class_f1"], 100 * per_class)
    assert result["OF1"] == pytest.approx(100 * f1_score(labels, chosen, average="micro"))
    assert result["CF1"] == pytest.approx(2 * result["CP"] * result["CR"] / (result["CP"] + result["CR"]))
    assert (result["classes_without_predictions"], result["classes_without_positives"]) == (1, 1)


def test_threshold_is_inclusive_and_top_k_breaks_ties_by_class() -> None:
    scores = np.array([[0.5, 0.4, 0.5, 0.5], [0.1, 0.9, 0.8, 0.7]])
    labels = np.array([[1, 0, 1, 0], [0, 1, 0, 0]])
    assert multilabel_f1(scores, labels, threshold=0.5)["per_class_precision"].tolist() == [100, 100, 50, 0]
    top = multilabel_f1(scores, labels, top_k=2)  # {0, 2} and {1, 2}
    assert top["per_class_precision"].tolist() == [100, 100, 50, 0]
    assert top["OP"] == pytest.approx(75)
    assert top["OR"] == pytest.approx(100)
    both = multilabel_f1(scores, labels, threshold=0.85, top_k=2)  # {} and {1}
    assert (both["OP"], both["OR"]) == (pytest.approx(100), pytest.approx(100 / 3))
    everything = multilabel_f1(scores, labels, top_k=9)
    assert everything["OP"] == pytest.approx(100 * 3 / 8)


def test_nothing_predicted_and_nothing_true_give_zero() -> None:
    scores, labels = random_scores()
    for result in (multilabel_f1(scores, labels, threshold=99), multilabel_f1(scores, 0 * labels, threshold=0)):
        assert result["CF1"] == result["OF1"] == result["CP"] == result["OP"] == result["CR"] == result["OR"] == 0


def test_flat_dictionary_holds_every_figure() -> None:
    scores, labels = random_scores()
    flat = compute_multilabel_metrics(scores, labels, threshold=0.0)
    assert flat["map"] == mean_average_precision(scores, labels)["map"]
    assert flat["CF1"] == multilabel_f1(scores, labels, threshold=0.0)["CF1"]
    assert flat["OF1_top3"] == multilabel_f1(scores, labels, top_k=3)["OF1"]
    assert len(flat) == 14
    assert json.loads(json.dumps(flat)) == flat


def naive_resamples(scores: np.ndarray, labels: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed).integers(0, len(scores), (num_resamples, len(scores)))
    return np.array([mean_average_precision(scores[rows], labels[rows])["map"] for rows in draws])


@pytest.mark.parametrize("block_bytes", [1, 10**6, 2**28])
@pytest.mark.parametrize("ties", [False, True])
def test_bootstrap_equals_resampling_by_hand(ties: bool, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = random_scores(images=40, ties=ties)
    labels[:, 3] = 0  # absent everywhere
    labels[:, 4] = np.arange(40) == 8  # absent from about a third of the resamples
    other = scores + 0.4 * np.random.default_rng(1).standard_normal(scores.shape)
    by_hand, by_hand_other = naive_resamples(scores, labels, 50, 7), naive_resamples(other, labels, 50, 7)
    monkeypatch.setattr(metrics, "BLOCK_BYTES", block_bytes)
    one = bootstrap_map(scores, labels, num_resamples=50, seed=7, confidence=0.9)
    assert one["map"] == pytest.approx(mean_average_precision(scores, labels)["map"])
    moved = by_hand - by_hand.mean() + one["map"]  # resamples have the mAP of the sample as their mean
    np.testing.assert_allclose([one["low"], one["high"]], np.quantile(moved, [0.05, 0.95]), rtol=1e-9)
    pair = paired_bootstrap(scores, other, labels, num_resamples=50, seed=7, confidence=0.9)
    expected = np.quantile(by_hand - by_hand_other, [0.05, 0.95])
    np.testing.assert_allclose([pair["low"], pair["high"]], expected, rtol=1e-9)
    assert pair["difference"] == pytest.approx(one["map"] - mean_average_precision(other, labels)["map"])


def test_interval_of_rare_classes_lies_about_its_estimate() -> None:
    """Classes of a few images drop out of resamples, or positives come twice: percentiles alone lie too high."""
    generator = np.random.default_rng(3)
    labels = np.zeros((120, 30), dtype=np.uint8)
    for column in range(30):
        labels[generator.permutation(120)[: 1 + column % 4], column] = 1
    scores = generator.standard_normal(labels.shape) + 2.0 * labels
    found = bootstrap_map(scores, labels, num_resamples=300)
    assert naive_resamples(scores, labels, 100, 0).mean() > found["map"] + 1
    middle = (found["low"] + found["high"]) / 2
    assert found["low"] < found["map"] < found["high"]
    assert abs(middle - found["map"]) < 0.2 * (found["high"] - found["low"])
    perfect = bootstrap_map(labels + 0.0, labels, num_resamples=50)
    assert perfect["low"] == perfect["map"] == perfect["high"] == 100


def test_bootstrap_is_seeded_and_paired() -> None:
    scores, labels = random_scores(images=60)
    first = bootstrap_map(scores, labels, num_resamples=200, seed=1)
    assert first == bootstrap_map(scores, labels, num_resamples=200, seed=1)
    assert first != bootstrap_map(scores, labels, num_resamples=200, seed=2)
    assert first["low"] < first["map"] < first["high"]
    same = paired_bootstrap(scores, 2 * scores, labels, num_resamples=50)
    assert same["difference"] == same["low"] == same["high"] == 0
    better = paired_bootstrap(scores + labels, scores, labels, num_resamples=200)
    assert 0 < better["low"] <= better["difference"] <= better["high"]


def test_bad_input_is_named() -> None:
    scores, labels = random_scores(images=20, classes=4)
    holed = scores.copy()
    holed[11, 2] = np.nan
    with pytest.raises(ValueError, match=r"scores\[11, 2\] is NaN"):
        average_precision(holed, labels)
    with pytest.raises(ValueError, match=r"scores_b\[11, 2\] is NaN"):
        paired_bootstrap(scores, holed, labels)
    for value in (-1, 2):
        wrong = labels.copy()
        wrong[17, 3] = value
        with pytest.raises(ValueError, match=rf"labels\[17, 3\] is {value}; labels must be 0 or 1"):
            multilabel_f1(scores, wrong, threshold=0.5)
    for bad_scores, bad_labels in ((scores, labels[:-1]), (scores[0], labels[0]), (scores[:0], labels[:0])):
        with pytest.raises(ValueError, match=r"one shape \(images, classes\)"):
            mean_average_precision(bad_scores, bad_labels)
    with pytest.raises(ValueError, match="labels must hold real numbers"):
        average_precision(scores, labels.astype(str))
    with pytest.raises(ValueError, match="give threshold, top_k or both"):
        multilabel_f1(scores, labels)
    with pytest.raises(ValueError, match="top_k is 0"):
        multilabel_f1(scores, labels, top_k=0)
    with pytest.raises(ValueError, match="threshold is NaN"):
        multilabel_f1(scores, labels, threshold=float("nan"))
    with pytest.raises(ValueError, match="at least one positive"):
        bootstrap_map(scores, 0 * labels)
    with pytest.raises(ValueError, match="num_resamples is 0"):
        bootstrap_map(scores, labels, num_resamples=0)
    with pytest.raises(ValueError, match="choose one of multilabel_f1, multilabel_map"):
        metric_path("accuracy")


EVALUATE_SCRIPT = """
import json, sys
import numpy as np
import evaluate
from modeling_taidpt.evaluation.metrics import mean_average_precision, metric_path, multilabel_f1

generator = np.random.default_rng(0)
scores, labels = generator.random((30, 5)), generator.integers(0, 2, (30, 5))
expected_map = mean_average_precision(scores, labels)
expected_f1 = multilabel_f1(scores, labels, threshold=0.3, top_k=2)
for name, expected, options in (
    ("multilabel_map", expected_map, {}),
    ("multilabel_f1", expected_f1, {"threshold": 0.3, "top_k": 2}),
):
    metric = evaluate.load(metric_path(name))
    for start in (0, 10, 20):
        metric.add_batch(predictions=scores[start : start + 10], references=labels[start : start + 10])
    found = metric.compute(**options)
    assert set(found) == set(expected), found
    for key in expected:
        assert np.array_equal(found[key], expected[key]), (key, found[key], expected[key])
    json.dumps(found)
plain = evaluate.load(metric_path("multilabel_f1")).compute(predictions=scores, references=labels)
assert plain["OF1"] == multilabel_f1(scores, labels, threshold=0.5)["OF1"]
print("equal")
"""


@pytest.mark.slow
def test_evaluate_modules_load_offline(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    root = str(Path(metrics.__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    for name in ("HF_MODULES_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE", "HF_DATASETS_CACHE"):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-c", EVALUATE_SCRIPT], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("equal")


def test_metrics_do_not_import_evaluate() -> None:
    code = (
        "import sys, importlib.util as u; s = u.spec_from_file_location('m', sys.argv[1]); m = u.module_from_spec(s)"
    )
    code += "; sys.modules['m'] = m; s.loader.exec_module(m); assert not {'evaluate', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, metrics.__file__], check=True)


def test_a_threshold_for_each_class_and_numbers_of_any_type():
    generator = np.random.default_rng(0)
    scores, labels = generator.random((50, 3)), generator.random((50, 3)) < 0.4
    thresholds = [0.2, 0.5, 0.8]
    expected = multilabel_f1((scores >= thresholds).astype(float), labels, threshold=0.5)
    for given in (thresholds, np.array(thresholds), torch.tensor(thresholds, dtype=torch.float64)):
        assert multilabel_f1(scores, labels, threshold=given)["CF1"] == expected["CF1"]
        assert compute_multilabel_metrics(scores, labels, threshold=given)["CF1"] == expected["CF1"]
    assert multilabel_f1(scores, labels, top_k=2.0)["OF1"] == multilabel_f1(scores, labels, top_k=np.int64(2))["OF1"]
    single = np.float32([[0.7]])
    assert multilabel_f1(single, [[1]], threshold=0.7)["OR"] == 100  # compared in the precision of the scores
    with pytest.raises(ValueError, match=r"shape \(2,\); give a number, or one for each of 3 classes"):
        multilabel_f1(scores, labels, threshold=[0.1, 0.2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": "auto"}, "threshold is 'auto'; give a number"),
        ({"threshold": {"cat": 0.5}}, "threshold is {'cat': 0.5}; give a number"),
        ({"top_k": "2"}, "top_k is '2'; it must be a whole number"),
    ],
)
def test_a_choice_that_is_no_number_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        multilabel_f1(np.array([[0.2, 0.7, 0.1]]), np.array([[0, 1, 0]]), **options)
