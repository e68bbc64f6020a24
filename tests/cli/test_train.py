"""`taidpt train` on a tiny CLIP: what it writes, what it reports, how it ends on bad input and interruption."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors import SafetensorError

from modeling_taidpt import TaiDptTrainer, TaiDptTrainingArguments
from modeling_taidpt.training.setup import find_recipe, set_up_training, split_settings

from ..conftest import make_clip
from .test_app import CAT, fails, run

NAMES = ("dog", "cat", "bus")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny base and a corpus."""
    folder = tmp_path_factory.mktemp("train")
    make_clip().save_pretrained(folder / "base")
    lines = [
        f"a {name} {verb} in place {n}" for name in ("dog", "cat", "bus") for verb in ("is", "was") for n in "abcdef"
    ]
    (folder / "captions.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def command(place, tmp_path):
    options = ["--batch-size", "32", "--set", f"feature_cache_dir={place / 'cache'}", "--no-templates", "--json"]
    options += ["--base", str(place / "base"), "--captions", str(place / "captions.txt")]
    return ["train", "--labels", ",".join(NAMES), *options, "--output", str(tmp_path / "m")]


def test_train_saves_a_model_that_predicts(command, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "README.md").write_bytes(b"# my own card, caf\xe9\n")
    # a restart script gives --resume always
    result = run(*command, "--steps", "2", "--context-tokens", "4", "--set", "learning_rate=1e-2", "--resume")
    assert result.exit_code == 0, result.stderr
    assert "no checkpoint of this run" in result.stderr and "starts from the beginning" in result.stderr
    report = json.loads(result.stdout)
    assert report["labels"] == ["dog", "cat", "bus"] and report["recipe"] == "paper"
    assert 0 <= report["metrics"]["caption_map"] <= 100
    assert json.loads((tmp_path / "m" / "config.json").read_text())["num_context_tokens"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["m"]  # nothing of the staging is left
    assert b"my own card" in (tmp_path / "m" / "README.md").read_bytes()
    tags = json.loads(run("predict", CAT, "--model", tmp_path / "m", "--json").stdout)
    assert {entry["label"] for entry in tags[0]["labels"]} == {"dog", "cat", "bus"}


def test_train_goes_on_after_ctrl_c(command, tmp_path, monkeypatch):
    save_model = TaiDptTrainer.save_model

    def interrupt(trainer, output_dir=None, _internal_call=False):
        if not _internal_call:  # the last act, not a checkpoint
            raise KeyboardInterrupt
        save_model(trainer, output_dir, _internal_call)

    with monkeypatch.context() as patch:
        patch.setattr(TaiDptTrainer, "save_model", interrupt)
        result = run(*command, "--steps", "2")
    assert result.exit_code == 130
    assert "--resume" in result.stderr and result.stdout == ""
    assert not (tmp_path / "m" / "config.json").exists() and (tmp_path / "m" / "checkpoint-2").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    reordered = ["bus,dog,cat" if word == ",".join(NAMES) else word for word in command]
    assert "the same labels in another order" in fails(*reordered, "--steps", "3", "--resume")
    result = run(*command, "--steps", "3", "--resume")
    assert result.exit_code == 0, result.stderr
    assert f"goes on from {tmp_path / 'm' / 'checkpoint-2'}" in result.stderr
    assert json.loads((tmp_path / "m" / "trainer_state.json").read_text())["global_step"] == 3
    assert (tmp_path / "m" / "config.json").is_file()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--labels", "none.txt"], "The label file 'none.txt' does not exist"),
        (["--labels", "dog,dog"], "'dog' is duplicated"),
        (["--labels", "zebra"], "mentions one of the 1 classes"),
        (["--labels", "x" * 5000], "has 5000 characters"),
        (["--captions", "none.txt"], "There is no caption file 'none.txt'"),
        (["--base", "./none"], "neither a folder nor the name of a repository"),
        (["--base", "org/none"], "cannot be reached"),
        (["--recipe", "none.yaml"], "taidpt: There is no recipe 'none.yaml'"),
        (["--set", "lerning_rate=1"], "do you mean 'learning_rate'"),
        (["--set", "learning_rate"], "is not NAME=VALUE"),
        (["--set", "learning_rate=fast"], "invalid float value: 'fast'"),
        (["--loss", "magic"], "`--loss` is 'magic'"),
        (["--batch-size", "512"], "do not fill one batch"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_train_says_what_is_wrong(command, tmp_path, change, reason):
    assert reason in fails(*command, *change)
    assert not (tmp_path / "m" / "config.json").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--batch-size", "1000"], "do not fill one batch"),
        (["--epochs", "inf"], "`--epochs` is inf: give a finite number"),
        (["--set", "gradient_accumulation_steps=0"], "give a number from 1 to"),
        (["--set", "weight_decay=nan"], "give a finite number"),
    ],
)
def test_a_run_that_is_refused_leaves_no_folder(command, tmp_path, options, reason):
    assert reason in fails(*command, *options) and not (tmp_path / "m").exists()


def test_settings_win_over_the_recipe(place, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "model: {context_init: a photo of a, class_specific_context: true}\n"
        "training: {learning_rate: 0.5, max_steps: 7, weight_decay: 0.25}\n"
    )
    settings = {"num_context_tokens": "3", "num_train_epochs": 2, "learning_rate": "1e-2"}
    model, arguments = set_up_training(str(place / "base"), ["dog", "cat"], tmp_path / "out", str(recipe), settings)
    assert isinstance(arguments, TaiDptTrainingArguments) and arguments.recipe == "mine"
    assert (arguments.learning_rate, arguments.weight_decay) == (0.01, 0.25)
    assert (arguments.max_steps, arguments.num_train_epochs) == (-1, 2)  # epochs replace the steps of the recipe
    assert model.config.num_context_tokens == 3
    assert model.config.class_specific_context
    assert find_recipe("recommended", str(place / "base"))["name"] == "paper"
    assert find_recipe("recommended", "taidpt-coco80")["training"]["max_steps"] == 400


def test_settings_are_read_by_their_type():
    training, options = split_settings(
        {"bf16": "false", "caption_prototype_centering": "0.3,0.5", "optim_args": "a=1,b=2", "context_init": "a photo"}
    )
    assert training == {"bf16": False, "caption_prototype_centering": [0.3, 0.5], "optim_args": "a=1,b=2"}
    assert options == {"context_init": "a photo"}


def test_the_recipe_that_ships_writes_checkpoints(tmp_path):
    recipe = find_recipe("recommended", "taidpt-coco80")
    arguments = TaiDptTrainingArguments.from_recipe(recipe, output_dir=str(tmp_path))
    assert arguments.save_strategy == "steps" and arguments.save_steps < arguments.max_steps


def test_the_model_is_saved_before_it_is_calibrated(command, tmp_path, monkeypatch):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(CAT, photographs / name)
    monkeypatch.setattr("taidpt_cli.train.fit_probabilities", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        raise run(*command, "--steps", "1", "--calibrate-images", photographs).exception
    assert json.loads(run("predict", CAT, "--model", tmp_path / "m", "--json").stdout)


@pytest.mark.parametrize("when", ["checkpoint", "state", "model"])
def test_a_full_disk_is_one_sentence(command, tmp_path, monkeypatch, when):
    if when == "checkpoint":
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr("modeling_taidpt.atomic.shutil.disk_usage", lambda path: usage)
    elif when == "state":

        def full(*args, **kwargs):
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

        monkeypatch.setattr(TaiDptTrainer, "_save_optimizer_and_scheduler", full)
    else:

        def full_too(*args, **kwargs):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        monkeypatch.setattr("modeling_taidpt.modeling_taidpt.TaiDptModel.save_pretrained", full_too)
    reason = fails(*command, "--steps", "1")
    assert "The disk is full" in reason and str(tmp_path / "m") in reason
    assert not (tmp_path / "m" / "config.json").exists()
    monkeypatch.undo()
    assert run(*command, "--steps", "1", "--resume").exit_code == 0


@pytest.mark.parametrize("recipe", ["recommended", "paper", "embedded"])
def test_a_protocol_of_a_recipe_without_protocols_is_one_sentence(recipe, tmp_path):
    options = ["train", "-l", "dog", "-o", str(tmp_path / "out"), "-r", recipe, "-c", str(tmp_path / "captions.txt")]
    (tmp_path / "captions.txt").write_text("a dog\n")
    for protocol, said in (("paper", "has no protocols"), ("best", "choose one of clean, paper")):
        assert said in fails(*options, "--protocol", protocol)
    assert not (tmp_path / "out").exists()
