"""Score ensembles: the published computation, models, files, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import CLIPImageProcessor

from modeling_taidpt import TaiDptModel
from modeling_taidpt.ensembles.scores import (
    FEW_SHOT_WEIGHT,
    PARTIAL_LABEL_WEIGHT,
    ScoreEnsemble,
    predict_scores,
    read_scores,
)
from modeling_taidpt.features.images import ImageFeatures

LABELS = ["dog", "cat", "car"]
PROCESSOR = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def matrices(seed=0):
    generator = np.random.default_rng(seed)
    return 3 + generator.standard_normal((20, 5)), 40 * generator.standard_normal((20, 5))


@pytest.mark.parametrize("rate", [0.0, FEW_SHOT_WEIGHT, PARTIAL_LABEL_WEIGHT, 1.0])
def test_min_max_is_the_published_computation(rate):
    first, second = matrices()
    expected = (first - first.min()) / (first.max() - first.min()) * (1 - rate)
    expected += (second - second.min()) / (second.max() - second.min()) * rate
    np.testing.assert_allclose(ScoreEnsemble(first, torch.from_numpy(second), rate).scores(), expected, rtol=1e-12)


def test_z_score_takes_the_whole_matrix():
    first, second = matrices()
    merged = ScoreEnsemble(first, second, 0.25, "z-score").scores()
    expected = 0.75 * (first - first.mean()) / first.std() + 0.25 * (second - second.mean()) / second.std()
    np.testing.assert_allclose(merged, expected, rtol=1e-12)


def test_files_give_what_the_matrices_give(tmp_path):
    first, second = matrices()
    np.save(tmp_path / "first.npy", first)
    save_file({"scores": second}, tmp_path / "second.safetensors")
    np.savetxt(tmp_path / "second.csv", second, delimiter=",")
    expected = ScoreEnsemble(first, second, 0.9).scores()
    for name in ("second.safetensors", "second.csv"):
        merged = ScoreEnsemble(tmp_path / "first.npy", str(tmp_path / name), 0.9).scores()
        np.testing.assert_allclose(merged, expected, rtol=1e-12)


def test_models_score_the_same_images_whatever_their_order_of_labels(clip, tmp_path):
    generator = np.random.default_rng(0)
    rows = [{"image": Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8))} for _ in range(5)]
    first = TaiDptModel.zero_shot(clip, LABELS, pool_with_positions=False)
    second = TaiDptModel.zero_shot(clip, LABELS[::-1], "imagenet", pool_with_positions=False)
    images = ImageFeatures.encode(first, rows, PROCESSOR, label_column=None, cache_dir=tmp_path, progress=False)
    pixels = PROCESSOR(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        a, b = first(pixel_values=pixels).logits.numpy(), second(pixel_values=pixels).logits.numpy()
    np.testing.assert_allclose(predict_scores(second, images, batch_size=2), b, atol=1e-5)
    merged = ScoreEnsemble(first, second, 0.6).scores(images)
    np.testing.assert_allclose(merged, ScoreEnsemble(a, b[:, ::-1], 0.6).scores(), atol=1e-4)
    with pytest.raises(ValueError, match="has no images to score"):
        ScoreEnsemble(first, second).scores()
    with pytest.raises(ValueError, match="'car' is one of 2 that only one has"):
        ScoreEnsemble(first, first.with_labels(["dog", "cat", "zebra"]))


def test_bad_input_is_one_sentence(tmp_path):
    first, second = matrices()
    with pytest.raises(ValueError, match=r"first scores are \(20, 5\) and the second \(20, 4\)"):
        ScoreEnsemble(first, second[:, :4]).scores()
    with pytest.raises(ValueError, match=r"`weight` is 1\.5"):
        ScoreEnsemble(first, second, 1.5)
    with pytest.raises(ValueError, match="`normalization` is 'softmax': choose one of min-max, z-score"):
        ScoreEnsemble(first, second, normalization="softmax")
    with pytest.raises(ValueError, match="All scores are 1"):
        ScoreEnsemble(first, np.ones((20, 5))).scores()
    with pytest.raises(ValueError, match="give finite numbers"):
        ScoreEnsemble(first, np.full((20, 5), np.nan)).scores()
    with pytest.raises(FileNotFoundError, match="There is no file of scores"):
        ScoreEnsemble(first, tmp_path / "absent.npy").scores()
    (tmp_path / "words.csv").write_text("dog,cat\n")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors at all")
    np.save(tmp_path / "objects.npy", np.array([[{}]]), allow_pickle=True)
    for name in ("words.csv", "broken.safetensors", "objects.npy"):
        with pytest.raises(ValueError, match=f"{name} cannot be read") as raised:
            read_scores(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_calibrated_models_sum_their_log_odds(clip, tmp_path):
    generator = np.random.default_rng(0)
    rows = [{"image": Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8))} for _ in range(5)]
    first = TaiDptModel.zero_shot(clip, LABELS, pool_with_positions=False)
    second = TaiDptModel.zero_shot(clip, LABELS[::-1], "imagenet", pool_with_positions=False)
    images = ImageFeatures.encode(first, rows, PROCESSOR, label_column=None, cache_dir=tmp_path, progress=False)
    a, b = predict_scores(first, images), predict_scores(second, images)  # (images, classes) each
    assert ScoreEnsemble(first, second).normalization == "min-max"
    with pytest.raises(ValueError, match="fit its probabilities with `calibrate` first"):
        ScoreEnsemble(first, second, normalization="calibrated")
    first.config.score_scale, first.config.score_bias, first.config.score_calibration = 2.0, -1.0, "3 images"
    second.config.score_scale, second.config.score_bias = 3.0, [1.0, 2.0, 3.0]
    second.config.score_calibration = "3 images"
    ensemble = ScoreEnsemble(first, second, 0.25)
    assert ensemble.normalization == "calibrated"
    log_odds = 3 * b + np.array([1.0, 2.0, 3.0])  # of its own labels, in their order
    np.testing.assert_allclose(ensemble.scores(images), 0.75 * (2 * a - 1) + 0.25 * log_odds[:, ::-1], rtol=1e-5)
    sums = ScoreEnsemble(a, b, 0.5, "calibrated").scores()
    np.testing.assert_allclose(sums, 0.5 * a + 0.5 * b, rtol=1e-6)  # matrices hold log odds already
