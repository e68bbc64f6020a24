"""Recipes say what the paper did, both protocols read what they should, and every ablation has its effect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Picture
from typer.testing import CliRunner

from modeling_taidpt import (
    TaiDptModel,
    TaiDptTrainer,
    TaiDptTrainingArguments,
    load_captions,
    load_class_table,
    load_recipe_captions,
    load_recipe_images,
    read_recipe,
    recipe_names,
    set_up_training,
)
from taidpt_cli.app import app

from ..conftest import ROOT, make_clip

# arXiv 2211.12739, section 4.1, and the published configurations: what differs between the data sets.
PAPER = {
    "voc2007": {"labels": "voc20", "learning_rate": 1e-4, "image_spatial_scale": 40},
    "coco2014": {"labels": "coco80", "learning_rate": 1e-4, "image_spatial_scale": 40},
    "nuswide": {"labels": "nuswide81", "learning_rate": 1e-3, "image_spatial_scale": 4},
}


@pytest.mark.parametrize("protocol", ["paper", "clean"])
@pytest.mark.parametrize("name", PAPER)
def test_settings_of_the_paper(name, protocol, tmp_path):
    recipe = read_recipe(name, protocol)
    assert recipe == read_recipe(ROOT / "examples" / "recipes" / f"{name}.yaml", protocol)
    assert recipe["labels"] == PAPER[name]["labels"] and recipe["base"] == "RN50"
    labels = [entry["name"] for entry in load_class_table(recipe["labels"])][:3]
    make_clip().save_pretrained(tmp_path / "base")
    model, args = set_up_training(str(tmp_path / "base"), labels, tmp_path, recipe)
    config = model.config
    assert (config.num_context_tokens, config.class_specific_context, config.class_token_position) == (
        16,
        False,
        "end",
    )
    assert (config.logit_scale, config.text_spatial_scale, config.local_weight) == (4, 50, 0.5)
    assert config.image_spatial_scale == PAPER[name]["image_spatial_scale"]
    assert (args.optim, args.optim_args, args.weight_decay) == ("sgd", "momentum=0.9", 5e-4)
    assert (args.learning_rate, args.warmup_learning_rate) == (PAPER[name]["learning_rate"], 1e-5)
    assert (args.lr_scheduler_type, args.warmup_epochs, args.num_train_epochs) == ("epoch_cosine", 1, 20)
    assert (args.per_device_train_batch_size, args.dataloader_drop_last, args.max_grad_norm) == (512, True, 0)
    assert (args.loss, args.loss_on, args.loss_weight, args.add_templates) == ("ranking", "both", 1, True)
    assert args.caption_prototype_weight == 0 and args.recipe == name
    assert args.validation_size == (0 if protocol == "paper" else 0.05)
    captions = recipe["data"]["captions"]
    if name == "nuswide":
        assert (captions["max_words"], captions["max_captions_per_class"], args.label_column) == (77, 1000, "labels")
        assert captions.get("method", "forms") == ("wordnet" if protocol == "paper" else "forms")
    else:
        assert captions["captions_per_image"] == 1
        assert args.labeling_method == ("wordnet" if protocol == "paper" else "forms")


def test_names_and_recipes_without_protocols():
    assert recipe_names() == ["coco2014", "embedded", "nuswide", "voc2007"]
    with pytest.raises(ValueError, match=r"embedded\.json' has no protocols: leave `protocol` out"):
        read_recipe("embedded", "paper")
    assert read_recipe("voc2007") == read_recipe("voc2007", "clean")
    shipped = json.loads((ROOT / "examples" / "recipes" / "embedded.json").read_text())
    assert read_recipe("embedded") == shipped


def test_recipes_say_what_is_wrong(tmp_path):
    def read(text, protocol=None, name="r.yaml"):
        (tmp_path / name).write_text(text)
        return read_recipe(tmp_path / name, protocol)

    with pytest.raises(FileNotFoundError, match=r"no recipe 'imagenet': give a YAML or JSON file, or one of coco2014"):
        read_recipe("imagenet")
    with pytest.raises(ValueError, match="`protocol` is 'dirty': choose one of clean, paper"):
        read_recipe("voc2007", "dirty")
    with pytest.raises(ValueError, match=r"r\.yaml' has no 'training' arguments"):
        read("model: {}")
    with pytest.raises(ValueError, match=r"r\.yaml' has a part 'trainng': it may have name, base"):
        read("training: {}\ntrainng: {}")
    with pytest.raises(ValueError, match=r"r\.yaml' has no protocol 'clean': it has paper"):
        read("training: {}\nprotocols: {paper: {}}", "clean")
    with pytest.raises(ValueError, match=r"r\.json' cannot be read"):
        read("{", name="r.json")
    with pytest.raises(ValueError, match="recipe 'r' names no captions: write data: captions: files"):
        load_recipe_captions(read("training: {}"))


def write_coco(root: Path) -> None:
    """Captions of images 1 to 8, of which 1 and 2 are in val2014, with two captions each."""
    folder = root / "COCO" / "annotations"
    folder.mkdir(parents=True)
    words = ("a dog", "a cat", "a bus", "a zebra")
    rows = [
        {"id": 10 * image + number, "image_id": image, "caption": f"{words[image % 4]} and {words[number]}, {image}"}
        for image in range(1, 9)
        for number in range(2)
    ]
    (folder / "captions_train2017.json").write_text(json.dumps({"annotations": rows}))
    content = {
        "images": [{"id": image, "file_name": f"{image}.jpg"} for image in (1, 2)],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 18, "iscrowd": 0}],
    }
    (folder / "instances_val2014.json").write_text(json.dumps(content))
    (root / "COCO" / "val2014").mkdir()
    for image in (1, 2):
        Picture.new("RGB", (4, 4)).save(root / "COCO" / "val2014" / f"{image}.jpg")


def test_protocols_read_the_captions_they_should(tmp_path, caplog):
    write_coco(tmp_path)
    clean = load_recipe_captions(read_recipe("coco2014", "clean"), tmp_path)
    assert clean["image_id"][:] == [3, 4, 5, 6, 7, 8]
    assert not caplog.text
    paper = load_recipe_captions(read_recipe("coco2014", "paper"), tmp_path)
    assert paper["image_id"][:] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert "captions describe 2 of the 2 test images" in caplog.text
    assert len(load_recipe_captions(read_recipe("voc2007"), tmp_path, captions_per_image=None)) == 16
    images = load_recipe_images(read_recipe("coco2014"), tmp_path)
    assert images["image_id"][:] == [1, 2] and images["labels"][:] == [[0], []]
    with pytest.raises(
        FileNotFoundError, match=r"open_images_train_v6_captions\.jsonl' does not exist: it is available"
    ):
        load_recipe_captions(read_recipe("nuswide"), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"VOC list .*test\.txt' does not exist"):
        load_recipe_images(read_recipe("voc2007"), tmp_path)


def test_command_runs_a_recipe(tmp_path):
    write_coco(tmp_path)
    make_clip().save_pretrained(tmp_path / "base")
    command = ["train", "--recipe", "coco2014", "--base", str(tmp_path / "base"), "--data-root", str(tmp_path)]
    command += ["--output", str(tmp_path / "out"), "--steps", "1", "--set", "use_cpu=true", "--json"]
    command += ["--set", f"feature_cache_dir={tmp_path / 'cache'}", "--no-templates", "--batch-size", "2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    model = TaiDptModel.from_pretrained(tmp_path / "out")
    assert model.config.labels == [entry["name"] for entry in load_class_table("coco80")]
    assert json.loads(result.stdout)["recipe"] == "coco2014"
    result = CliRunner().invoke(app, [*command, "--protocol", "best"])
    assert result.exit_code == 2 and "choose one of clean, paper" in result.stderr
    result = CliRunner().invoke(
        app, ["train", "--output", str(tmp_path / "none"), "--captions", "c.txt", "--recipe", "paper"]
    )
    assert result.exit_code == 2


LABELS = ["dog", "cat", "bus"]
CAPTIONS = [
    f"{number} photos of a {a} near a {b}"
    for number in range(8)
    for a, b in (("dog", "cat"), ("bus", "dog"), ("cat", "tree"))
]


class Run:
    """A short training run with one ablation."""

    def __init__(self, folder: Path, data=None, options=None, **training):
        torch.manual_seed(0)
        self.model = TaiDptModel.from_clip(make_clip(), LABELS, **(options or {"num_context_tokens": 4}))
        defaults = {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 0.1, "validation_size": 0}
        defaults |= {
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "eval_strategy": "no",
        }
        defaults |= {"warmup_epochs": 0, "feature_cache_dir": str(folder / "cache"), "logging_strategy": "no"}
        defaults |= {"add_templates": False, "weight_decay": 0.0, "load_best_model_at_end": False}
        args = TaiDptTrainingArguments(str(folder / "out"), **(defaults | training))
        self.start = {name: value.clone() for name, value in self.model.prompt_learner.state_dict().items()}
        rows = Dataset.from_dict({"caption": CAPTIONS}) if data is None else data
        self.trainer = TaiDptTrainer(self.model, args, train_dataset=rows)
        self.trainer.train()
        self.end = self.model.prompt_learner.state_dict()

    def moved(self) -> dict[str, bool]:
        return {
            name.removesuffix("_context"): not torch.equal(self.start[name], self.end[name]) for name in self.start
        }


def test_ablation_one_branch_alone(tmp_path):
    both = Run(tmp_path)
    assert both.moved() == {"global": True, "local": True}
    for branch, weight in (("global", 0.0), ("local", 1.0)):
        alone = Run(tmp_path, loss_on=branch, options={"num_context_tokens": 4, "local_weight": weight})
        assert alone.moved() == {name: name == branch for name in ("global", "local")}
        # The branches do not touch each other: alone, a branch learns what it learns beside the other one.
        torch.testing.assert_close(alone.end[f"{branch}_context"], both.end[f"{branch}_context"])
        with torch.no_grad():
            outputs = alone.model(pixel_values=torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
        assert torch.equal(outputs.logits, getattr(outputs, f"logits_{branch}"))


@pytest.mark.parametrize("loss", ["bce", "focal", "asl", "soft_ce"])
def test_ablation_loss(tmp_path, loss):
    assert not torch.allclose(Run(tmp_path).end["global_context"], Run(tmp_path, loss=loss).end["global_context"])


def test_ablation_text(tmp_path):
    """Number of captions, templates on or off, and where the text comes from."""
    sizes = {
        "all": Run(tmp_path),
        "ten": Run(tmp_path, max_captions=10),
        "templates": Run(tmp_path, add_templates=True),
        "templates alone": Run(tmp_path, load_captions(LABELS, "templates"), label_column="labels"),
    }
    counts = {name: len(run.trainer.train_dataset) for name, run in sizes.items()}
    assert counts == {"all": 24, "ten": 10, "templates": 24 + 89 * 3, "templates alone": 89 * 3}
    assert sizes["templates alone"].trainer.train_dataset.labels.sum(axis=0).tolist() == [89, 89, 89]
    for name in ("ten", "templates", "templates alone"):
        assert not torch.allclose(sizes[name].end["global_context"], sizes["all"].end["global_context"])


def test_ablation_prompt(tmp_path):
    """Context length, class-specific contexts, words to start from."""
    assert Run(tmp_path, options={"num_context_tokens": 8}).end["global_context"].shape == (8, 32)
    options = {"num_context_tokens": 4, "class_specific_context": True}
    assert Run(tmp_path, options=options).end["local_context"].shape == (3, 4, 32)
    assert Run(tmp_path, options={"context_init": "a photo of a"}).end["global_context"].shape == (4, 32)


def test_labels_of_data_sets_are_matched_by_name(tmp_path):
    """Indices are those of the data set, whose classes stand in another order than the model's."""
    features = Features({"caption": Value("string"), "labels": List(ClassLabel(names=["bus", "cat", "dog"]))})
    rows = {"caption": CAPTIONS, "labels": [[0]] * 12 + [[1, 2]] * 12}
    run = Run(tmp_path, Dataset.from_dict(rows, features=features), label_column="labels")
    assert run.trainer.train_dataset.labels.sum(axis=0).tolist() == [12, 12, 12]
    assert run.trainer.train_dataset.labels[0].tolist() == [0, 0, 1]

    pictures = [Picture.new("RGB", (32, 32), (shade, 255 - shade, 0)) for shade in (0, 80, 250)]
    features = Features({"image": Image(), "labels": List(ClassLabel(names=["bus", "zebra", "dog", "cat"]))})
    images = Dataset.from_dict({"image": pictures, "labels": [[0], [2, 1], [3]]}, features=features)
    names = Dataset.from_dict({"image": pictures, "labels": [["bus"], ["dog"], ["cat"]]}).cast_column("image", Image())
    assert run.trainer.evaluate_images(images) == run.trainer.evaluate_images(names)
    with pytest.raises(ValueError, match="no class 'cat' in the images"):
        run.trainer.evaluate_images(images.cast_column("labels", List(ClassLabel(names=["bus", "z", "dog", "y"]))))


def test_trainer_counts_captions_of_test_images(tmp_path, caplog):
    write_coco(tmp_path)
    images = load_recipe_images(read_recipe("coco2014"), tmp_path)
    for protocol, said in (("paper", True), ("clean", False)):
        captions = load_recipe_captions(read_recipe("coco2014", protocol), tmp_path)
        caplog.clear()
        model = TaiDptModel.from_clip(make_clip(), ["dog"])
        args = TaiDptTrainingArguments(str(tmp_path / "out"), feature_cache_dir=str(tmp_path / "cache"), use_cpu=True)
        TaiDptTrainer(model, args, train_dataset=captions, image_eval_dataset=images)
        assert ("captions describe 2 of the 2 test images" in caplog.text) is said
