"""The fast training step gives the loss curve of the plain computation, and its variants give the same one."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_taidpt.features.captions import CaptionFeatures, collate_features

ROOT = Path(__file__).parents[2]
STEPS, CLASSES = 50, 6


@pytest.fixture(scope="module")
def plain():
    """The benchmark's plain computation: every prompt a whole sequence of 77 tokens, a cube of pairs in the loss."""
    path = ROOT / "benchmarks" / "train_step.py"
    spec = importlib.util.spec_from_file_location("train_step", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


@pytest.fixture(scope="module")
def problem(plain):
    torch.manual_seed(0)
    clip = plain.make_clip(2, 32).requires_grad_(False)
    return clip, plain.make_batch(12, CLASSES), torch.randn(2, 4, 32) * 0.02


def curve(model, loss_of, steps: int = STEPS) -> list[float]:
    contexts = [model.prompt_learner.global_context, model.prompt_learner.local_context]
    optimizer = torch.optim.SGD(contexts, lr=3e-3, momentum=0.9, weight_decay=5e-4)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_fifty_steps_have_the_losses_of_the_plain_computation(plain, problem):
    clip, batch, contexts = problem
    tokens = plain.published_captions(clip, batch.input_ids).clone()  # (captions, 77, dim)
    kept = plain.keep_captions(plain.make_model(clip, CLASSES, contexts), batch)

    def plain_loss(model):
        return plain.published_loss(tokens, plain.both_branches(clip, model), batch)

    expected = curve(plain.make_model(clip, CLASSES, contexts), plain_loss)
    ours = curve(plain.make_model(clip, CLASSES, contexts), lambda model: model(**kept).loss)
    assert expected[-1] < 0.95 * expected[0]  # there is a curve to follow
    assert ours == pytest.approx(expected, rel=1e-4)


def test_padding_to_few_shapes_changes_nothing(plain, problem, tmp_path):
    clip, _, contexts = problem
    model = plain.make_model(clip, CLASSES, contexts)
    features = CaptionFeatures.encode(
        model.eval(),
        ["a dog", "a cat and a car here"],
        torch.eye(2, CLASSES).numpy(),
        cache_dir=tmp_path,
        progress=False,
    )
    items = [features[0], features[1]]
    short, long = collate_features(items), collate_features(items, pad_to_multiple_of=16)
    assert long["token_embeds"].shape[1] == long["attention_mask"].shape[1] == 16 > short["token_embeds"].shape[1]
    for name, value in model(**short).items():
        torch.testing.assert_close(model(**long)[name], value, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])  # graphs and their gradients; machine code of them too
def test_a_compiled_step_follows_the_same_curve(plain, problem, backend):
    if backend == "inductor" and not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("inductor needs a C++ compiler")
    clip, batch, contexts = problem
    kept = plain.keep_captions(plain.make_model(clip, CLASSES, contexts), batch)
    eager = curve(plain.make_model(clip, CLASSES, contexts), lambda model: model(**kept).loss, steps=5)
    model = plain.make_model(clip, CLASSES, contexts)
    compiled = torch.compile(model, backend=backend)
    assert curve(model, lambda _: compiled(**kept).loss, steps=5) == pytest.approx(eager, rel=1e-4)


@pytest.mark.slow
def test_a_thousand_classes_and_512_captions_fit_in_a_gigabyte():
    code = """
import resource, torch
from modeling_taidpt import get_loss
from modeling_taidpt.scores import global_scores, local_scores
loss, half = get_loss("ranking"), torch.randn(512, 1000).requires_grad_()
labels = (torch.rand(512, 1000) < 0.003).float()
similarity = (torch.rand(512, 24, 1000) * 0.2).requires_grad_()
loss(torch.randn(4, 10), torch.zeros(4, 10))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(loss(half, labels) + loss(local_scores(similarity, 50.0, 4.0), labels)).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) * 1024 < 1e9
