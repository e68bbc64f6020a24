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
from transformers import TrainerCallback

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


FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
CHANGES = ["missing", "empty", "cut", "flipped", "a folder", "of another checkpoint"]
RECORDS = [f'{{"run": "x", "labels": {labels}, "base": [], "data": "x", "files": 5}}' for labels in ("[]", "5")]
TEXTS = ["{}", "[]", "null", "[" * 100_000, '{"global_step": "2"}', "\xff"]


def damage(path: Path, change: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if change == "empty":
        path.touch()
    elif change == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif change == "flipped":
        path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif change == "a folder":
        path.mkdir()
    elif change == "of another checkpoint":
        shutil.copyfile(path.parent.with_name("checkpoint-1") / path.name, path)
    elif change != "missing":
        path.write_text(change, encoding="latin-1")


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    return tmp_path_factory.mktemp("two") / "run"


@pytest.fixture
def run_of_two(new_trainer, two_checkpoints, tmp_path, monkeypatch):
    """A run with two checkpoints, and what is said about them."""
    if not two_checkpoints.exists():
        new_trainer(max_steps=2).train()
        (tmp_path / "run").rename(two_checkpoints)
    shutil.copytree(two_checkpoints, tmp_path / "run")
    said = []
    monkeypatch.setattr("modeling_taidpt.training.resume.logger.warning", said.append)
    return tmp_path / "run", said


@pytest.mark.parametrize(
    ("file", "change"),
    [
        # nothing is drawn at random here: all checkpoints have one random state
        *((file, change) for file in FILES for change in CHANGES if (file, change) != ("rng_state.pth", CHANGES[-1])),
        *(("trainer_state.json", text) for text in TEXTS),
        *(("training_run.json", change) for change in (*CHANGES, *TEXTS, *RECORDS) if change != "flipped"),
    ],
    ids=lambda value: value[:20],
)
def test_a_damaged_checkpoint_is_passed_over(new_trainer, run_of_two, file, change):
    folder, said = run_of_two
    damage(folder / "checkpoint-2" / file, change)
    assert new_trainer().find_checkpoint() == str(folder / "checkpoint-1")
    assert len(said) == 1 and "checkpoint-2' is damaged or was not written to its end" in said[0]
    with pytest.raises(ValueError, match=r"damaged|readable training_run"):
        new_trainer().train(resume_from_checkpoint=str(folder / "checkpoint-2"))


@pytest.mark.parametrize(("file", "change"), [("optimizer.pt", "cut"), *((file, "a folder") for file in FILES)])
def test_training_goes_on_from_the_last_whole_checkpoint(new_trainer, run_of_two, file, change):
    """The damaged one is written again, whatever is in its place."""
    whole = new_trainer("whole", max_steps=3, save_strategy="no")
    whole.train()
    damage(run_of_two[0] / "checkpoint-2" / file, change)
    trainer = new_trainer(max_steps=3)
    trainer.train(resume_from_checkpoint=True)
    for name, value in whole.model.prompt_learner.state_dict().items():
        assert torch.equal(value, trainer.model.prompt_learner.state_dict()[name])


def test_a_checkpoint_whose_digests_were_not_written_yet_is_gone_on_from(new_trainer, run_of_two):
    """The process was killed right after the trainer's state."""
    record = run_of_two[0] / "checkpoint-2" / "training_run.json"
    stored = json.loads(record.read_text())
    assert set(stored["files"]) == set(FILES)
    stored["files"] = {"model.safetensors": stored["files"]["model.safetensors"]}
    record.write_text(json.dumps(stored))
    assert new_trainer().find_checkpoint() == str(record.parent)
    damage(record.parent / "optimizer.pt", "cut")
    assert new_trainer().find_checkpoint() == str(record.parent.with_name("checkpoint-1"))


@pytest.mark.parametrize("change", ["missing", "cut", "a folder"])
def test_checkpoints_of_nobody_knows_which_run_are_not_trained_over(new_trainer, run_of_two, change):
    damage(run_of_two[0] / "training_run.json", change)
    with pytest.raises(ValueError, match=r"training_run\.json' is missing or damaged, which says of which run"):
        new_trainer().find_checkpoint()
    for entry in run_of_two[0].glob("checkpoint-*/training_run.json"):
        entry.unlink()
    assert new_trainer().find_checkpoint() is None  # of other trainers


def test_a_best_checkpoint_that_was_damaged_is_not_loaded(new_trainer, run_of_two):
    folder = run_of_two[0] / "checkpoint-2"
    for change in ("flipped", "missing"):
        damage(folder / "model.safetensors", change)
        trainer = new_trainer()
        trainer.state.best_model_checkpoint, trainer.state.best_metric = str(folder), 1.0
        with pytest.raises(ValueError, match=r"checkpoint-2' (is damaged|holds no model\.safetensors)"):
            trainer._load_best_model()


@pytest.mark.parametrize("last", [False, True])
def test_an_output_folder_that_is_deleted_meanwhile_is_said(new_trainer, tmp_path, last):
    class Deletes(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                shutil.rmtree(tmp_path / "run")

    trainer = new_trainer(max_steps=2 if last else 4, save_strategy="no" if last else "steps")
    trainer.add_callback(Deletes())
    with pytest.raises(FileNotFoundError, match=r"The output folder '[^']*run' was deleted while it was trained"):
        trainer.train()
    assert not (tmp_path / "run").exists()


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
