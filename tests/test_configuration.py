"""Configurations: what is refused before anything is allocated or opened, and what follows labels that are set."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from transformers import AutoConfig, PreTrainedConfig

from modeling_taidpt import TaiDptConfig, TaiDptModel
from modeling_taidpt.configuration_checks import FLAGS, NUMBERS, SCORES, check_code
from modeling_taidpt.hub import load_config

LABELS = ["dog", "traffic light", "cat"]
INHERITED = {field.name for field in dataclasses.fields(PreTrainedConfig)}
OWN = {field.name: str(field.type) for field in dataclasses.fields(TaiDptConfig) if field.name not in INHERITED}
FREE_TEXTS = ("score_calibration",)  # words for people
PATHS = ("../x", "../../.bashrc", "/etc/passwd", "..", "~/x", "http://example.org/x", "file:///x", "\x1b[31m", "a\nb")
NOT_NUMBERS = (float("nan"), float("inf"), -1e9, 1e12, "7", [None], {"a": 1}, True)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A stored configuration of a class-specific model, as JSON."""
    from .conftest import make_clip

    folder = tmp_path_factory.mktemp("model")
    options = {"class_specific_context": True, "num_context_tokens": 4, "score_scale": [1.0, 2.0, 3.0]}
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, **options)
    model.config.word_counts = "counts.json.gz"
    model.config.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def load(tmp_path, stored, **changes):
    (tmp_path / "config.json").write_text(json.dumps(stored | changes))
    return AutoConfig.from_pretrained(tmp_path)


def assert_refused(tmp_path, stored, *names, **changes):
    with pytest.raises(ValueError) as error:
        load(tmp_path, stored, **changes)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400 and message.endswith("."), message
    for name in (str(tmp_path), *names):
        assert name in message


@pytest.mark.parametrize("value", PATHS)
def test_no_text_field_takes_a_path_or_an_address(tmp_path, stored, value):
    texts = {name for name, kind in OWN.items() if "str" in kind and "list[" not in kind} - set(FREE_TEXTS)
    assert {"word_counts", "base_model_name_or_path", "base_model_revision", "class_token_position"} < texts
    for name in texts:
        if (name, value) != ("base_model_name_or_path", "/etc/passwd"):  # a base may be a folder: it is read alone
            assert_refused(tmp_path, stored, name, **{name: value})
    assert_refused(tmp_path, stored, "transformers_weights", transformers_weights=value)
    for name in ("config.json", "model.safetensors", "handler.py", "thesis.docx"):  # it is copied and replaced
        assert_refused(tmp_path, stored, "word_counts", word_counts=name)
    for part in ("model", "training"):
        assert_refused(tmp_path, stored, "optim", recommended_recipe={part: {"optim": value}})


@pytest.mark.parametrize(
    "name", ["output_dir", "hub_token", "push_to_hub", "hub_model_id", "feature_cache_dir", "report_to", "deepspeed"]
)
def test_a_recipe_says_what_is_learned_and_not_where_files_go(tmp_path, stored, name):
    assert_refused(tmp_path, stored, name, recommended_recipe={"training": {name: "x"}})
    recipe = {"name": "mine", "training": {"learning_rate": 0.1, "betas": [0.9, 0.99], "optim": "sgd"}}
    assert load(tmp_path, stored, recommended_recipe=recipe).recommended_recipe == recipe


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=str)
def test_numbers_are_finite_and_plausible(tmp_path, stored, value):
    for name in (*NUMBERS, *SCORES):
        assert_refused(tmp_path, stored, name, **{name: value})
    for name in SCORES:
        assert_refused(tmp_path, stored, name, **{name: [0.5, value, 0.5]})
    for name in FLAGS:
        if value is not True:
            assert_refused(tmp_path, stored, name, **{name: value})
    assert_refused(tmp_path, stored, "context_lengths", context_lengths=[4, value, 4])
    assert_refused(tmp_path, stored, "class_input_ids", class_input_ids=[[1929], [value], [2368]])
    assert_refused(tmp_path, stored, "bos_token_id", bos_token_id=value)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 1_000_000},
        {"hidden_size": 10**12},
        {"hidden_size": "32"},
        {"hidden_size": 0},
        {"num_attention_heads": -1},
        {"vocab_size": 10**10},
        {"layer_norm_eps": float("nan")},
        {"num_labels": 10**9},
    ],
    ids=str,
)
@pytest.mark.parametrize("tower", ["text_config", "vision_config"])
def test_towers_are_plausible_before_anything_is_allocated(tmp_path, stored, tower, change):
    clip = stored["clip_config"]
    assert_refused(tmp_path, stored, clip_config=clip | {tower: clip[tower] | change})


@pytest.mark.parametrize("place", [(), ("clip_config",), ("clip_config", "text_config"), ("clip_config", "x", "y")])
@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation", "experts_implementation"])
def test_no_configuration_chooses_code_of_others(tmp_path, stored, place, name):
    """A name with a slash makes transformers fetch a kernel from the Hub and run it."""
    for value in (
        "org/kernel",
        "org/kernel@main:attend",
        "paged|org/kernel",
        {"text_config": "org/kernel"},
        ["org/x"],
    ):
        changed = json.loads(json.dumps(stored))
        inner = changed
        for key in place:
            inner = inner.setdefault(key, {})
        inner[name] = value
        assert_refused(tmp_path, changed, f"`{name}`")
        with pytest.raises(ValueError, match=f"`{name}`"):  # of a base
            load_config(str(tmp_path))
    inner[name] = "eager"
    check_code(changed)


def test_wrong_types_anywhere_are_one_sentence(tmp_path, stored):
    for name in stored:
        if name in ("model_type", "transformers_version", "auto_map", "processor_class", "architectures", "dtype"):
            continue
        for value in (7.5, "no such", [[]], {"a": {}}):
            try:
                load(tmp_path, stored, **{name: value})
            except ValueError as error:
                assert "\n" not in str(error) and len(str(error)) < 500, (name, value, str(error))
    deep = {}
    for _ in range(200):
        deep = {"a": deep}
    assert_refused(tmp_path, stored, clip_config=stored["clip_config"] | {"vision_config": deep})


INVISIBLE = [
    "",
    "  ",
    "\u200b",
    "\u2060\ufeff",
    "\x00",
    "\u3164",
    "\u115f \uffa0",
    "\u2800",
    "\ufe0f",
    "\u034f",
    "\u0301",
]


@pytest.mark.parametrize("label", [*INVISIBLE, "x" * 1001, "half \ud83d"])
def test_a_label_can_be_seen_and_written(tmp_path, stored, label):
    assert_refused(tmp_path, stored, "Label 1", id2label={"0": "dog", "1": label, "2": "cat"})
    assert_refused(tmp_path, stored, "duplicated", id2label={"0": "dog", "1": "dog", "2": "cat"})
    assert_refused(tmp_path, stored, "from 0 on", id2label={"0": "dog", "1": "x", "5": "cat"})


def test_another_number_of_labels_leaves_a_configuration_that_is_stored(tmp_path, stored):
    config = load(tmp_path, stored, score_thresholds=[0.1, 0.2, 0.3])
    config.num_labels = 5
    config.save_pretrained(tmp_path / "five")
    again = TaiDptConfig.from_pretrained(tmp_path / "five")
    assert again.labels == again.class_names == [f"LABEL_{index}" for index in range(5)]
    assert again.label2id == {label: index for index, label in enumerate(again.labels)}
    assert (again.class_input_ids, again.score_scale, again.score_thresholds) == (None, 1.0, None)
    assert set(again.label_origin) == set(again.labels)
    for wrong in (0, -1, 10**12, 2.5, "3"):
        with pytest.raises(ValueError, match="`num_labels` is"):
            config.num_labels = wrong


def test_labels_that_are_renamed_keep_their_prompts(tmp_path, stored):
    config = load(tmp_path, stored)
    config.id2label = {0: "Hund", 1: "Ampel", 2: "Katze"}
    config.save_pretrained(tmp_path / "renamed")
    again = TaiDptConfig.from_pretrained(tmp_path / "renamed")
    assert again.labels == ["Hund", "Ampel", "Katze"] and again.label2id["Ampel"] == 1
    assert again.class_names == LABELS and again.score_scale == [1.0, 2.0, 3.0]
    assert again.label_origin == dict.fromkeys(again.labels, "learned")


def test_labels_may_be_numbered_by_texts(tmp_path, stored):
    config = load(tmp_path, stored)
    config.id2label = {"1": "Ampel", "0": "Hund", "2": "Katze"}
    assert config.labels == ["Hund", "Ampel", "Katze"] and config.id2label[0] == "Hund"
    for wrong in (["Hund", "Ampel", "Katze"], {"a": "Hund"}, 3):
        with pytest.raises(ValueError, match=r"`id2label` is .*: give a dictionary from number to label"):
            config.id2label = wrong


@pytest.mark.parametrize("kind", ["learned", "shared context", "baked"])
def test_a_model_says_that_its_configuration_was_given_another_number_of_labels(tmp_path, tokenizer, kind):
    from .conftest import make_clip

    options = {"class_specific_context": kind == "learned", "num_context_tokens": 4}
    model = TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, **options)
    model = model.bake() if kind == "baked" else model
    model.config.id2label = {0: "dog", 1: "cat"}
    calls = [model.encode_classes, lambda: model.save_pretrained(tmp_path / "model")]
    for call in calls if kind == "baked" else [*calls, lambda: model.with_labels(["dog"]), model.bake]:
        with pytest.raises(ValueError, match=r"was given 2 labels and the model has 3: .*with_labels"):
            call()
    assert not (tmp_path / "model").exists()


def test_labels_are_not_an_option_of_loading(tmp_path, stored):
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"`labels` is not an option here: load the model, then `model.with_labels"):
        TaiDptModel.from_pretrained(tmp_path, labels=["bird"])


def test_a_wrong_value_that_is_set_is_not_stored(tmp_path, stored):
    config = load(tmp_path, stored)
    config.local_weight = float("nan")
    with pytest.raises(ValueError, match="`local_weight` is nan"):
        config.save_pretrained(tmp_path / "nan")
    assert not (tmp_path / "nan" / "config.json").exists()


def test_what_holds_for_this_process_is_not_stored(stored):
    config = TaiDptConfig(**{key: value for key, value in stored.items() if key != "model_type"})
    config._hub_arguments = {"token": "hf_secret"}
    assert "hf_secret" not in str(config.to_dict()) + config.to_json_string() + repr(config)
    assert "_is_complete" not in config.to_dict()


def test_fields_are_few_and_documented():
    assert len(OWN) <= 40
    documented = TaiDptConfig.__doc__.split("Args:")[1]
    for name in OWN:
        assert re.search(rf"^        (\w+, )*{name}(, \w+)* \(`", documented, re.MULTILINE), name


@pytest.mark.parametrize("templates", [["a {}"], {"global": ["a {}"], "local": ["b {}", "c {}"]}, None])
def test_templates_of_both_branches_are_one_field(tmp_path, stored, templates):
    assert load(tmp_path, stored, templates=templates).templates == templates
    assert_refused(tmp_path, stored, "templates", templates={"global": ["a {}"]})
    assert_refused(tmp_path, stored, "templates", templates={"global": ["a {}"], "local": ["b"]})


@pytest.mark.parametrize("key", ["labels", "to_dict", "embedding_dim", "__class__", "save_pretrained"])
def test_a_stored_field_takes_the_place_of_nothing_that_is_computed(stored, key, capfd):
    with pytest.raises(ValueError, match=f"`{key}` is not a field"):
        TaiDptConfig.from_dict({**stored, key: ["dog"]})
    inner = {**stored["clip_config"], "text_config": {**stored["clip_config"]["text_config"], "to_dict": 1}}
    with pytest.raises(ValueError, match="`to_dict` is not a field"):
        TaiDptConfig.from_dict({**stored, "clip_config": inner})
    assert capfd.readouterr().err == ""  # transformers would print the whole configuration
