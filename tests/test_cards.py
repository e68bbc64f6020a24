"""Model cards: every one parses, and says what was measured, or that nothing was."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel, clip_tokenizer
from modeling_taidpt.model_card import MARK, render_card
from modeling_taidpt.training.report import training_command

from .conftest import make_clip

ROOT = Path(__file__).parent.parent
CARDS = sorted((ROOT / "hub_cards").glob("taidpt-*.md"))
LABELS = ["dog", "traffic light", "cat"]
REPORT = {
    "labels": LABELS,
    "recipe": "Recipe: paper (sgd).",
    "seed": 3,
    "command": "taidpt train --labels labels.txt",
    "arguments": {"learning_rate": 0.01},
    "corpus": {
        "captions": 90,
        "held_out": 10,
        "sources": ["captions.txt"],
        "labeling": "'forms'",
        "per_class": {"dog": 50, "traffic light": 0, "cat": 45},
    },
    "metrics": {"caption_map": 81.234, "zero_shot_caption_map": 70.5, "template_cosine": 0.8},
    "versions": {"torch": "2.13"},
}


@pytest.fixture
def model(clip):
    return TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=4)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_every_finished_card_parses_and_has_figures(path):
    card = ModelCard.load(path)
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-classification"
    assert card.data.license
    for result in card.data.eval_results:
        assert isinstance(result.metric_value, float) and result.dataset_name
        assert str(result.metric_value) in card.text  # the header and the text agree
    for part in ("## Limits", "## Licence", "seed", "```bash"):
        assert part in card.text


def test_the_embedded_checkpoint_has_the_finished_card():
    ours, shipped = ROOT / "hub_cards" / "taidpt-coco80.md", Path(DEFAULT_CHECKPOINT) / "README.md"
    assert ours.read_text() == shipped.read_text(), f"copy {shipped.relative_to(ROOT)} to {ours.relative_to(ROOT)}"


def test_figures_come_back_from_the_header(model):
    card = ModelCard(str(render_card(model.config, REPORT, "org/pets", license="mit")))
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean_average_precision", 81.2)
    assert (result.task_type, result.dataset_name) == ("image-classification", "10 held-out captions")
    assert (card.data.model_name, card.data.license) == ("pets", "mit")
    for text in (
        "| 10 held-out captions | mAP, merged score | 81.2 | 70.5 |",
        "| traffic light | 0 |",
        "Captions: 90 that name a class, from captions.txt; 10 more",
        "taidpt train --labels labels.txt",
        "Seed 3.",
        "dog, traffic light, cat",
    ):
        assert text in card.text
    assert "{{" not in card.text and "{%" not in card.text and "never evaluated" not in card.text


def test_own_models_say_their_words_base_and_choice(model):
    config = model.config
    config.class_table = {"synonyms": {"dog": ["dog", "puppy"], "traffic light": ["lights | x"], "cat": ["cat"]}}
    config.base_model_name_or_path = "taidpt-coco80"
    corpus = {**REPORT["corpus"], "corpus_captions": 400}
    report = {**REPORT, "corpus": corpus, "arguments": {"load_best_model_at_end": False, "learning_rate": 0.01}}
    card = render_card(config, report, "org/pets")
    assert (card.data.license, card.data.language) == ("apache-2.0", "en")
    text = " ".join(str(card).split())
    for said in (
        "labels and their synonyms: dog (puppy); traffic light (lights \\| x).",
        "learned from captions and from some thousand labelled photographs",
        "Captions: 90 that name a class, drawn by class of 400, from captions.txt; 10 more were held out to measure",
    ):
        assert said in text
    assert "learning_rate" not in text
    config.base_model_name_or_path = "openai/clip-vit-base-patch16"
    card = render_card(config, REPORT, "org/pets", license="mit")
    assert (card.data.base_model, card.data.license) == (config.base_model_name_or_path, "mit")
    text = " ".join(str(card).split())
    assert "labelled photographs" not in text and "held out to choose the checkpoint" in text


def test_what_is_not_known_is_not_said(model):
    text = str(render_card(model.config, None, "pets"))
    assert "**This model was never evaluated**" in text and "Nothing is known of a training" in text
    assert "learned from" not in text.lower().split("## scores")[0]


def test_a_label_cannot_break_the_card(clip):
    labels = ["a|b", "<script>", "- x\n# y"]
    card = render_card(TaiDptModel.from_clip(clip, labels=labels).config, None, "pets")
    assert "a\\|b, &lt;script&gt;, \\- x \\# y." in card.text


HOSTILE = (
    "![x](http://evil.example/p.png)",
    "[click](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "**bold** `code` ~~gone~~",
    "http://evil.example",
    "www.evil.example",
    "a | b\n| --- | --- |\n# title",
    "```\nblock",
    "\x1b[31mred\u202e",
    "{{ config }} {% for x in y %}",
    "<!-- a --> me@evil.example",
    r"$$\phantom{x}$$ \(y\) \[z\] $\href{javascript:alert(1)}{w}$",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_in_a_card_are_texts(model, text):
    model.config.id2label = {0: text, 1: "b", 2: "c"}
    model.config.score_calibration = text
    figure = {"dataset_name": text, "dataset_type": "images", "metric_name": text, "metric_type": "map"}
    report = {
        **REPORT,
        "recipe": text,
        "command": text,
        "license": text,
        "arguments": {text: text},
        "versions": {text: text},
        "evaluations": [figure | {"metric_value": 1.0}],
        "corpus": {**REPORT["corpus"], "sources": [text], "labeling": text, "per_class": {text: 3}},
    }
    card = str(render_card(model.config, report, text))
    body = card.split("---\n", 2)[2]
    clean = str(render_card(model.config, None, "x")).count("```")
    assert body.count("```") == clean + 2  # the command's own block
    without_code = re.sub(r"```.*?```|`[^`\n]*`", "", body, flags=re.DOTALL)
    for wrong in ("](http", "](javascript", "<img", "**bold", "~~gone", "://evil", "www.evil", "\n# title", "me@evil"):
        assert wrong not in without_code.replace("\\](", "").replace("\\*\\*", ""), wrong
    for wrong in ("$", "\\(", "\\phantom"):  # mathematics
        assert wrong not in without_code, wrong
    assert "\x1b" not in card and "\u202e" not in body
    assert ModelCard(card).data.library_name == "transformers"


def test_a_report_holds_what_is_known_and_nothing_else(model, tmp_path):
    figure = {"dataset_name": "x", "dataset_type": "images", "metric_name": "mAP", "metric_type": "map"}
    model.training_report = {
        **REPORT,
        "hub_token": "hf_secret",
        "environment": {"HOME": "/home/me"},
        "corpus": {**REPORT["corpus"], "sources": ["/home/me/captions.txt"], "path": "/home/me"},
        "evaluations": [
            figure | {"metric_value": float("nan")},
            figure | {"metric_value": np.float32(2), "who": "me"},
            7,
        ],
        "metrics": {**REPORT["metrics"], "bad": float("inf"), "worse": "text"},
    }
    model.save_pretrained(tmp_path)
    stored = (tmp_path / "training_report.json").read_text()
    for text in (stored, (tmp_path / "README.md").read_text()):
        assert "hf_secret" not in text and "/home/me" not in text and "NaN" not in text
    assert json.loads(stored)["evaluations"] == [figure | {"metric_value": 2.0, "baseline": None}]
    assert json.loads(stored)["metrics"] == REPORT["metrics"]


@pytest.mark.parametrize(
    "report", [7, [], {"corpus": 3, "metrics": [1], "evaluations": {"a": 1}}, {"arguments": None}]
)
def test_a_report_of_anything_makes_a_card(model, report, tmp_path):
    assert "never evaluated" in str(render_card(model.config, report, "x"))
    model.save_pretrained(tmp_path)
    (tmp_path / "training_report.json").write_text(json.dumps(report))
    TaiDptModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert "never evaluated" in (tmp_path / "again" / "README.md").read_text()


def test_a_hub_base_is_linked_and_a_folder_is_not(model, tmp_path):
    model.config.base_model_name_or_path = "openai/clip-vit-base-patch16"
    assert render_card(model.config, None, "x").data.base_model == "openai/clip-vit-base-patch16"
    model.config.base_model_name_or_path = str(tmp_path)
    card = render_card(model.config, None, "x")
    assert card.data.base_model is None and str(tmp_path.parent) not in str(card)


def test_the_report_goes_with_the_prompts_and_with_nothing_else(model, tmp_path):
    model.training_report = REPORT
    model.save_pretrained(tmp_path / "one")
    assert json.loads((tmp_path / "one" / "training_report.json").read_text()) == REPORT
    loaded = TaiDptModel.from_pretrained(tmp_path / "one")
    loaded.record_evaluation("VOC2007 test", 88.3)
    for name, other in {"two": loaded, "baked": loaded.bake()}.items():
        other.save_pretrained(tmp_path / name)
        results = ModelCard.load(tmp_path / name / "README.md").data.eval_results
        assert [result.metric_value for result in results] == [81.2, 88.3]
    # other labels, other prompts: nothing is known of them
    changed = TaiDptModel.from_pretrained(tmp_path / "one")
    changed.prompt_learner.global_context.data += 1
    for name, other in {"labels": loaded.with_labels(["horse"]), "changed": changed}.items():
        other.save_pretrained(tmp_path / name)
        assert "**This model was never evaluated**" in (tmp_path / name / "README.md").read_text()
        assert not (tmp_path / name / "training_report.json").exists()
    changed.save_pretrained(tmp_path / "one")  # over the model that the report was of
    assert not (tmp_path / "one" / "training_report.json").exists()
    assert TaiDptModel.from_pretrained(tmp_path / "one").bake().training_report is None


def test_an_edited_card_stays(model, tmp_path):
    model.save_pretrained(tmp_path)
    card = tmp_path / "README.md"
    assert MARK in card.read_text()
    model.training_report = REPORT
    model.save_pretrained(tmp_path)
    assert "81.2 |" in card.read_text()  # rendered anew
    card.write_text(card.read_text().replace(MARK, "") + "My words.\n")
    model.save_pretrained(tmp_path)
    assert card.read_text().endswith("My words.\n")
    TaiDptModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "copy")  # the same prompts: the same card
    assert (tmp_path / "copy" / "README.md").read_text() == card.read_text()


def test_commands_hold_no_folder_of_this_machine():
    python = "/usr/bin/python3"
    assert training_command([python, "/opt/bin/taidpt", "train", "--labels", "/home/me/my labels.txt"]) == (
        "taidpt train --labels 'my labels.txt'"
    )
    assert training_command([python, "examples/train.py", "--seed", "0"]) == "python examples/train.py --seed 0"
    assert training_command([python, "-m", "pytest"]) is None
    assert training_command([python]) is None


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--set", "hub_token=hf_secret"], "--set hub_token=..."),
        (["--set=hub_token=hf_secret"], "--set=hub_token=..."),
        (["--set", "feature_cache_dir=/home/me/cache"], "--set feature_cache_dir=..."),
        (["--set", "learning_rate=0.1", "--set", "loss=bce"], "--set learning_rate=0.1 --set loss=bce"),
        (["--captions", "/home/me/a.csv", "-o", "../out", "--seed", "7"], "--captions a.csv -o out --seed 7"),
        (["--base", "org/clip", "--token", "hf_secret"], "--base org/clip --token ..."),
        (["--base", "https://me:secret@example.org/x"], "--base ..."),
        (["hf_secret"], "..."),
    ],
)
def test_commands_show_options_that_are_known(words, shown):
    assert training_command(["python3", "/opt/bin/taidpt", "train", *words]) == f"taidpt train {shown}"


def test_arguments_that_are_published_are_listed(tmp_path):
    from modeling_taidpt import TaiDptTrainingArguments
    from modeling_taidpt.training.report import training_report

    arguments = TaiDptTrainingArguments(
        str(tmp_path), hub_token="hf_secret", feature_cache_dir="/home/me", learning_rate=0.5, use_cpu=True, seed=3
    )
    report = training_report(arguments, LABELS, 1, {}, {})
    assert report["arguments"] == {
        **{"learning_rate": 0.5, "optim_args": "momentum=0.9", "seed": 3},
        "load_best_model_at_end": True,  # by default where all checkpoints are scored
    }
    assert "hf_secret" not in json.dumps(report) and "/home/me" not in json.dumps(report)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["-c/home/me/secret/a.txt", "-o=/home/me/run"], "-ca.txt -o=run"),
        (["-x/home/me", "--set=hub_token=hf_x"], "-x... --set=hub_token=..."),
        (["--token/home/me", "--labels=/home/me/l.txt"], "... --labels=l.txt"),
        (["--learning-rate", "-0.5", "--labels", "-l"], "--learning-rate -0.5 --labels -l"),
    ],
)
def test_values_joined_to_their_options_hold_no_folder_and_no_secret(words, shown):
    assert training_command(["python", "/bin/taidpt", "train", *words]) == f"taidpt train {shown}"


def test_a_stored_configuration_names_no_folder_of_this_machine(tmp_path):
    base = tmp_path / "base"
    make_clip().save_pretrained(base)
    clip_tokenizer().save_pretrained(base)
    TaiDptModel.from_clip(str(base), labels=["dog"]).save_pretrained(tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "config.json").read_text())
    assert stored.pop("base_model_name_or_path") == str(base)  # what prompts alone are joined with
    assert str(base) not in json.dumps(stored)
