"""Which checkpoints training goes on from, and which it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_taidpt import TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments

from ..conftest import make_clip

LABELS = ["dog", "cat", "car"]
CAPTIONS = [f"A {first} and a {second} {n}." for n in range(4) for first in LABELS for second in LABELS]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def new_trainer(tmp_path, cache, tokenizer):
    def make(output="run", labels=LABELS, captions=CAPTIONS, clip_seed=0, **options) -> TaiDptTrainer:
        args = TaiDptTrainingArguments(
            str(tmp_path / output),
            **{
                "per_device_train_batch_size": 8,
                "max_steps": 4,
                "save_strategy": "steps",
                "save_steps": 1,
                "eval_strategy": "no",
                "load_best_model_at_end": False,
                "learning_rate": 0.05,
                "feature_cache_dir": str(cache),
                "validation_size": 0,
                "add_templates": False,
                "disable_tqdm": True,
                "use_cpu": True,
                "report_to": "none",
                **options,
            },
        )
        clip = make_clip(seed=clip_seed)
        torch.manual_seed(1)
        model = TaiDptModel.from_clip(clip, labels, tokenizer, num_context_tokens=2, class_specific_context=True)
        return TaiDptTrainer(model, args, train_dataset=captions)

    return make


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"labels": LABELS[::-1]}, r"the same labels in another order \(dog, cat, car\)"),
        ({"labels": ["dog", "cat", "boat"], "captions": [*CAPTIONS, "A boat."]}, "other labels"),
        ({"clip_seed": 5}, "another base"),
        ({"captions": CAPTIONS[::-1]}, "other training data"),
        ({"captions": [*CAPTIONS, "One more dog."]}, "other training data"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_checkpoints_of_other_things_are_refused(new_trainer, tmp_path, other, words):
    new_trainer(max_steps=1).train()
    before = load_file(tmp_path / "run" / "checkpoint-1" / "model.safetensors")
    for checkpoint in (True, str(tmp_path / "run" / "checkpoint-1")):
        with pytest.raises(ValueError, match=words):
            new_trainer(**other).train(resume_from_checkpoint=checkpoint)
    # the refused run has named no run of its own: the first one goes on
    trainer = new_trainer(max_steps=2)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2
    after = load_file(tmp_path / "run" / "checkpoint-1" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def damage_state(folder: Path) -> None:
    (folder / "trainer_state.json").unlink()


def cut_optimizer(folder: Path) -> None:
    data = (folder / "optimizer.pt").read_bytes()
    (folder / "optimizer.pt").write_bytes(data[: len(data) // 2])


def flip_optimizer(folder: Path) -> None:
    data = bytearray((folder / "optimizer.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "optimizer.pt").write_bytes(bytes(data))


def lose_optimizer(folder: Path) -> None:
    (folder / "optimizer.pt").unlink()


def lose_random_state(folder: Path) -> None:
    (folder / "rng_state.pth").unlink()


def flip_weights(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))


def lose_record(folder: Path) -> None:
    (folder / "training_run.json").write_text("{")


@pytest.mark.parametrize(
    "damage",
    [damage_state, cut_optimizer, flip_optimizer, lose_optimizer, lose_random_state, flip_weights, lose_record],
)
def test_a_damaged_checkpoint_is_passed_over(new_trainer, tmp_path, damage):
    whole = new_trainer("whole", max_steps=3, save_strategy="no")
    whole.train()
    new_trainer(max_steps=2).train()
    damage(tmp_path / "run" / "checkpoint-2")
    trainer = new_trainer(max_steps=3)
    assert trainer.find_checkpoint() == str(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(ValueError, match=r"damaged|readable training_run"):
        new_trainer(max_steps=3).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    trainer.train(resume_from_checkpoint=True)
    for name, value in whole.model.prompt_learner.state_dict().items():
        assert torch.equal(value, trainer.model.prompt_learner.state_dict()[name])


def test_a_finished_run_is_not_trained_on(new_trainer, tmp_path):
    trainer = new_trainer(max_steps=3)  # of the five steps of an epoch
    trainer.train()
    whole = trainer.model.prompt_learner.global_context.detach().clone()
    again = new_trainer(max_steps=3)
    assert again.train(resume_from_checkpoint=True).global_step == 3
    assert torch.equal(again.model.prompt_learner.global_context, whole)
    assert not (tmp_path / "run" / "checkpoint-4").exists()
    assert new_trainer(max_steps=4).train(resume_from_checkpoint=True).global_step == 4


def test_checkpoints_of_an_earlier_run_are_not_gone_on_from(new_trainer, tmp_path):
    new_trainer(max_steps=4).train()
    new_trainer(max_steps=1, learning_rate=0.01).train()  # anew, in the same folder
    trainer = new_trainer(max_steps=2, learning_rate=0.01)
    assert trainer.find_checkpoint() == str(tmp_path / "run" / "checkpoint-1")
    # cut short while it wrote over the earlier run's folder: the old state must not make it whole
    trainer.train()
    (tmp_path / "run" / "checkpoint-2" / "trainer_state.json").unlink()
    assert new_trainer(max_steps=2).find_checkpoint() == str(tmp_path / "run" / "checkpoint-1")
    shutil.rmtree(tmp_path / "run" / "checkpoint-1")
    assert new_trainer().find_checkpoint() is None


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_in_two_processes(tmp_path):
    make_clip().save_pretrained(tmp_path / "base")
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    command = [sys.executable, "-m", "taidpt_cli.app", "train", "-l", ",".join(LABELS), "--base", tmp_path / "base"]
    command += ["-c", tmp_path / "captions.txt", "--steps", "2", "--batch-size", "8", "--no-templates", "--json"]
    command += ["--set", f"feature_cache_dir={tmp_path / 'cache'}", "--prompts-only", "--context-tokens", "2"]
    found = {}
    for name, seed in (("first", 7), ("second", 7), ("third", 8)):
        done = subprocess.run(
            [*map(str, command), "--seed", str(seed), "-o", str(tmp_path / name)], capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
        found[name] = (tmp_path / name / "model.safetensors").read_bytes()
        assert json.loads(done.stdout)["labels"] == LABELS
    assert found["first"] == found["second"] != found["third"]
