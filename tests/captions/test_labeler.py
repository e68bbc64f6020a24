"""Caption labelling: class tables, word forms, matching order, errors, agreement with the published labels."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from modeling_taidpt.captions import labeler as captions_module
from modeling_taidpt.captions.class_tables import load_class_table, suggest_synonyms
from modeling_taidpt.captions.labeler import CaptionLabeler
from modeling_taidpt.captions.word_forms import noun_forms, plurals, singulars, verb_forms
from modeling_taidpt.prompt_templates import load_templates

PRESET_SIZES = {"coco80": 80, "voc20": 20, "nuswide81": 81}


def named(labeler, caption):
    """Return the names of the classes found in one caption."""
    row = labeler([caption])[0]
    return [name for name, present in zip(labeler.class_names, row, strict=True) if present]


@pytest.fixture(scope="module")
def coco():
    return CaptionLabeler.from_preset("coco80")


# Word forms


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        ("person", "people"),
        ("man", "men"),
        ("woman", "women"),
        ("policeman", "policemen"),
        ("child", "children"),
        ("mouse", "mice"),
        ("knife", "knives"),
        ("goose", "geese"),
        ("sheep", "sheep"),
        ("foot", "feet"),
        ("tooth", "teeth"),
        ("ox", "oxen"),
        ("leaf", "leaves"),
        ("bookshelf", "bookshelves"),
        ("wolf", "wolves"),
        ("cactus", "cacti"),
        ("city", "cities"),
        ("toy", "toys"),
        ("bus", "buses"),
        ("box", "boxes"),
        ("bench", "benches"),
        ("dress", "dresses"),
        ("tomato", "tomatoes"),
        ("piano", "pianos"),
        ("human", "humans"),
        ("mongoose", "mongooses"),
        ("ski", "skis"),
        ("movie", "movies"),
        ("shoe", "shoes"),
    ],
)
def test_singular_and_plural_meet(singular, plural):
    assert plural in noun_forms(singular)
    assert singular in noun_forms(plural)
    assert CaptionLabeler([singular])([f"Two {plural} here"]).tolist() == [[1]]
    assert CaptionLabeler([plural])([f"One {singular} here"]).tolist() == [[1]]


@pytest.mark.parametrize("word", ["bus", "glass", "glasses", "scissors", "tennis", "news", "gas", "canvas", "a"])
def test_words_in_s_that_are_no_plural(word):
    assert singulars(word) == ()


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("ski", ("skiing", "skied")),
        ("bike", ("biking", "biked")),
        ("run", ("running", "ran")),
        ("swim", ("swimming", "swam", "swum")),
        ("surf", ("surfing", "surfed")),
        ("boat", ("boating", "boated")),
        ("tie", ("tying", "tied")),
        ("carry", ("carrying", "carried")),
        ("bed", ("bedded",)),
        ("bowl", ("bowled",)),
        ("ox", ()),
        ("t-shirt", ()),
    ],
)
def test_verb_forms(word, forms):
    assert verb_forms(word) == forms


def test_a_letter_is_not_inflected():
    assert noun_forms("a") == ("a",)
    assert plurals("hero") == ("heros", "heroes")


# Matching


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A hot dog on a plate.", ["hot dog"]),
        ("HOT DOGS!", ["hot dog"]),
        ("A hotdog beside a dog", ["dog", "hot dog"]),
        ("A hot-dog stand", ["hot dog"]),
        ("Hot, dog tired", ["dog"]),
        ("a hot\ndog", ["hot dog"]),
        ("The dog's bowl", ["dog", "bowl"]),
        ("The dog\u2019s \u201cbowl\u201d", ["dog", "bowl"]),
        ("dog,cat;bird.Horse(cow)", ["bird", "cat", "dog", "horse", "cow"]),
        ("cats/dogs", ["cat", "dog"]),
        ("kites--and birds", ["bird", "kite"]),
        ("A man-made cat-like doglet", []),
        ("a big teddy bear and a bear", ["bear", "teddy bear"]),
        ("two teddy bears", ["teddy bear"]),
        ("\tMice and KNIVES\u00a0and sheep ", ["sheep", "knife", "mouse"]),
        ("A child is skiing", ["skis"]),
        ("Bedding and bowling and bearings", []),
        ("A baseball bat, and a baseball.", ["sports ball", "baseball bat"]),
        ("wine glasses on a dining table", ["wine glass", "dining table"]),
        ("An airplane over motorcycles", ["motor bike", "aeroplane"]),
        ("She is blow-drying, he has blow dried hair", ["hair drier"]),
        ("carbonated catalogue dogma", []),
        ("", []),
        ("...", []),
        ("\0 a dog \0", ["dog"]),
        ("caf\u00e9 \ud83d dog \U0001f436", ["dog"]),
    ],
)
def test_captions_of_the_coco_table(coco, caption, expected):
    assert sorted(named(coco, caption)) == sorted(expected)


@pytest.mark.parametrize("method", ["forms", pytest.param("wordnet", marks=pytest.mark.shared)])
def test_words_end_at_signs_spaces_and_invisible_characters(method, request):
    if method == "wordnet":
        request.getfixturevalue("nltk_data")
    labeler = CaptionLabeler(["dog"], method=method)
    signs = ["🐶", "♥️", "™", "®", "→", "€", "°", "²", "\uff01", "\uff1a", "\uff08", "「", "、", "،"]
    signs += ["\u2004", "\u1680", "\u200b", "\u200d", "\ufeff", "\u2028", "\u0085", "\U000f0000"]
    captions = [text for sign in signs for text in (f"my dog{sign}", f"{sign}dog", f"a dog{sign}asleep")]
    found = labeler(captions)[:, 0]
    assert [caption for caption, row in zip(captions, found, strict=True) if not row] == []


def test_letters_of_other_scripts_and_hyphenation_end_no_word():
    labeler = CaptionLabeler(["dog", "h\u00e9ron", "\u9e64"])
    assert labeler(["\uff24\uff2f\uff27", "a d\u00adog", "two h\u00e9rons", "\u9e64"]).tolist() == [
        [1, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    assert labeler(["dogm\u00e4", "\u00e4dog"]).sum() == 0


def test_hyphens_and_underscores_at_the_ends_of_a_word_are_signs():
    labeler = CaptionLabeler(["dog", "hot dog"])
    captions = ["_dog_", "a -dog- there", "dog- and cat", "__dog__", "dog_, cat", "---dog"]
    assert labeler(captions).tolist() == [[1, 0]] * len(captions)
    assert labeler(["dog-friendly", "dog_house", "hot - dog"]).tolist() == [[0, 0], [0, 0], [1, 0]]


def test_emoji_may_be_synonyms():
    labeler = CaptionLabeler({"dog": ["\U0001f436"], "love": ["\u2665"]})
    assert labeler(["my \U0001f436\u2665\ufe0f", "\U0001f431"]).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("method", ["forms", pytest.param("wordnet", marks=pytest.mark.shared)])
@pytest.mark.parametrize("name", ["traffic_light", "traffic-light", "traffic light", "Traffic_Light"])
def test_names_with_underscores_and_hyphens_match_words(name, method, request):
    if method == "wordnet":
        request.getfixturevalue("nltk_data")
    labeler = CaptionLabeler([name, "light"], method=method)
    captions = ["a traffic light", "two traffic lights", "a trafficlight"]
    captions += ["a traffic-light", "two traffic-lights", "traffic_lights"] if method == "forms" else []
    # as published, a hyphen joins
    assert labeler(captions).tolist() == [[1, 0]] * len(captions)
    assert labeler(["a light"]).tolist() == [[0, 1]]


def test_own_classes_keep_their_order_and_match_their_forms():
    labeler = CaptionLabeler(["goose", "child", "person", {"name": "man", "synonyms": ["guy"]}])
    assert labeler.labels == labeler.class_names == ["goose", "child", "person", "man"]
    result = labeler(["Geese and children", "People and men", "Two guys", "nothing"])  # (4, 4)
    assert result.dtype == np.uint8
    assert result.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_mapping_and_dicts_and_names_are_the_same_table():
    captions = ["a kitty", "a dog", "a pup"]
    mapping = CaptionLabeler({"cat": ["kitty"], "dog": ["pup"]})(captions)
    dicts = CaptionLabeler([{"name": "cat", "synonyms": ["kitty"]}, {"name": "dog", "synonyms": ["pup", "Pup"]}])(
        captions
    )
    assert mapping.tolist() == dicts.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert CaptionLabeler(["cat", {"name": "dog"}])(captions).tolist() == [[0, 0], [0, 1], [0, 0]]


def test_longest_compound_wins_and_text_is_consumed():
    labeler = CaptionLabeler(["fire", "fire truck", "fire truck ladder", "ladder", "red fire"])
    assert named(labeler, "a fire truck ladder") == ["fire truck ladder"]
    assert named(labeler, "a fire truck and a ladder") == ["fire truck", "ladder"]
    # "red fire" begins further left, yet the longer compound is matched first and takes "fire" away.
    assert named(labeler, "a red fire truck ladder") == ["fire truck ladder"]
    # Of two compounds of the same length the left one is matched, what it leaves is free for single words.
    assert named(labeler, "a red fire truck") == ["red fire"]
    assert named(labeler, "red fire, fire truck") == ["fire truck", "red fire"]


def test_compounds_do_not_reach_over_captions():
    labeler = CaptionLabeler(["hot dog", "dog"])
    assert labeler(["it is hot", "dog", "hot", "hot dog"]).tolist() == [[0, 0], [0, 1], [0, 0], [1, 0]]


def test_exact_synonym_wins_over_an_inflected_form():
    labeler = CaptionLabeler(["leave", "leaf", "glass", "glasses"])
    assert named(labeler, "glasses") == ["glasses"]
    assert named(labeler, "leaves") == ["leave"]  # both inflect to it: the first class
    assert named(CaptionLabeler(["sport ball", "sports"]), "sports balls") == ["sport ball"]


def test_names_with_apostrophes_hyphens_and_accents():
    labeler = CaptionLabeler(["rubik's cube", "t-shirt", "Caf\u00e9", "c++"])
    assert named(labeler, "a Rubik\u2019s cube") == ["rubik's cube"]
    assert named(labeler, "two T-shirts") == ["t-shirt"]
    assert named(labeler, "cafe\u0301s") == ["Caf\u00e9"]
    assert named(labeler, "CAF\u00c9") == ["Caf\u00e9"]
    assert named(labeler, "a c++ book") == ["c++"]


def test_long_names_match_with_their_last_word_inflected():
    labeler = CaptionLabeler(["man riding a very big old horse"])
    assert labeler(["a man riding a very big old horse", "man riding a very big old horses"]).tolist() == [[1], [1]]
    assert labeler(["men riding a very big old horse"]).tolist() == [[0]]


def test_published_tables_do_not_count_men_unless_asked():
    assert named(CaptionLabeler.from_preset("coco80"), "two men and a dog") == ["dog"]
    assert named(CaptionLabeler.from_preset("coco80", ignored_forms=()), "two men and a dog") == ["person", "dog"]
    assert named(CaptionLabeler(["men"], ignored_forms=["men"]), "two men") == ["men"]  # a synonym always counts


def test_many_captions_equal_one_by_one(coco):
    table = load_class_table("coco80")
    words = [synonym for entry in table for synonym in entry["synonyms"]]
    captions = [f"a {words[i % len(words)]} and {words[(7 * i) % len(words)]}s{'!' * (i % 2)}" for i in range(3000)]
    whole = coco(captions)  # (3000, 80), several chunks
    assert whole.shape == (3000, 80)
    single = np.concatenate([coco([caption]) for caption in captions[::37]])
    np.testing.assert_array_equal(whole[::37], single)
    np.testing.assert_array_equal(coco(caption for caption in captions), whole)
    assert (whole.sum(axis=1) > 0).all()


def test_every_synonym_of_every_preset_names_its_class():
    for preset, size in PRESET_SIZES.items():
        labeler = CaptionLabeler.from_preset(preset)
        table = load_class_table(preset)
        assert len(labeler) == len(table) == size
        assert labeler.class_names == [entry["name"] for entry in table]
        for column, entry in enumerate(table):
            found = labeler([f"The {synonym.upper()}." for synonym in entry["synonyms"]])
            assert found.argmax(axis=1).tolist() == [column] * len(found)
            assert (found.sum(axis=1) == 1).all()


def test_a_single_string_is_a_batch_of_one(coco):
    assert coco("a dog").shape == (1, 80)
    assert coco([]).shape == (0, 80)
    assert repr(coco) == "CaptionLabeler(80 classes, method='forms')"


def run_bare(script, **env):
    """Run a script in a fresh interpreter with the package's folder as `bare`, so that nothing else is imported."""
    header = (
        "import sys, types\n"
        f"folder = {str(Path(captions_module.__file__).parent)!r}\n"
        "for name, path in (('bare', folder.rpartition('captions')[0]), ('bare.captions', folder)):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    sys.modules[name].__path__ = [path]\n"
        "from bare.captions.labeler import CaptionLabeler\n"
    )
    command = [sys.executable, "-c", header + script]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True).stdout


def test_result_does_not_depend_on_the_hash_seed():
    script = (
        "import hashlib, pickle\n"
        "labeler = CaptionLabeler(['axis', 'axe', 'leaf', 'leave', 'red fire', 'fire truck'])\n"
        "print(labeler(['axes', 'leaves', 'a red fire truck']).tolist())\n"
        "print(hashlib.sha256(pickle.dumps(CaptionLabeler.from_preset('coco80'))).hexdigest())\n"
    )
    outputs = {run_bare(script, PYTHONHASHSEED=seed) for seed in ("0", "1", "2")}
    assert len(outputs) == 1
    assert outputs.pop().startswith("[[1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]]")


def test_import_leaves_heavy_packages_alone():
    script = (
        "CaptionLabeler.from_preset('voc20')(['a dog'])\n"
        "print([name for name in ('nltk', 'yaml', 'torch', 'datasets') if name in sys.modules])\n"
    )
    assert run_bare(script).strip() == "[]"


def test_labeler_survives_pickling(coco):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(coco))(["a dog on a bus"]), coco(["a dog on a bus"]))


# Data sets


@pytest.mark.parametrize("num_proc", [None, 2])
def test_map_adds_labels_to_a_dataset(num_proc):
    datasets = pytest.importorskip("datasets")
    labeler = CaptionLabeler(["dog", "cat"])
    dataset = datasets.Dataset.from_dict({"text": ["a dog", "a tree", "cats and dogs"], "id": [7, 8, 9]})
    labelled = labeler.map(dataset, caption_column="text", label_column="y", num_proc=num_proc)
    assert labelled["y"][:] == [[1, 0], [0, 0], [1, 1]]
    assert labelled.column_names == ["text", "id", "y"]
    assert labeler.map(dataset, "text", "y", drop_unlabelled=True)["id"][:] == [7, 9]


def test_map_works_on_streams_and_dicts_of_splits():
    datasets = pytest.importorskip("datasets")
    labeler = CaptionLabeler(["dog", "cat"])
    dataset = datasets.Dataset.from_dict({"caption": ["a dog", "a tree", "a cat"]})
    rows = list(labeler.map(dataset.to_iterable_dataset(), drop_unlabelled=True))
    assert [list(row["labels"]) for row in rows] == [[1, 0], [0, 1]]
    splits = labeler.map(datasets.DatasetDict({"train": dataset}))
    assert splits["train"]["labels"][:] == [[1, 0], [0, 0], [0, 1]]


def test_map_names_the_missing_column():
    datasets = pytest.importorskip("datasets")
    with pytest.raises(ValueError, match=r"no column 'caption' to label: it has text\."):
        CaptionLabeler(["dog"]).map(datasets.Dataset.from_dict({"text": ["a dog"]}))


def test_map_gives_the_same_fingerprint_again():
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"caption": ["a dog"]})
    first = CaptionLabeler.from_preset("voc20").map(dataset)
    again = CaptionLabeler.from_preset("voc20").map(dataset)
    other = CaptionLabeler.from_preset("coco80").map(dataset)
    assert first._fingerprint == again._fingerprint != other._fingerprint


# Tables and templates


def test_templates():
    assert load_templates("default") == ["a photo of a {}."]
    templates = load_templates("imagenet")
    assert len(templates) == 80
    assert load_templates() == templates
    assert all(template.count("{}") == 1 for template in templates)
    with pytest.raises(ValueError, match="Unknown templates 'clip': choose one of default, imagenet"):
        load_templates("clip")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.json", '["hot dog", "dog"]'),
        ("table.json", '[{"name": "hot dog", "synonyms": ["frankfurter"]}, {"name": "dog"}]'),
        ("mapping.JSON", '\ufeff{"hot dog": ["frankfurter"], "dog": []}'),
        ("names.yaml", "- hot dog\n- dog\n"),
        ("table.yml", "- name: hot dog\n  synonyms: [frankfurter]\n- name: dog\n"),
        ("mapping.yaml", "hot dog: [frankfurter]\ndog:\n"),
    ],
)
def test_from_file(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    labeler = CaptionLabeler.from_file(tmp_path / name)
    assert labeler.class_names == ["hot dog", "dog"]
    assert labeler(["hot dogs", "frankfurters"]).tolist() == [[1, 0], [int("frank" in content), 0]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.json", "{", "bad.json' is not valid JSON: .*line 1"),
        ("bad.yaml", "a: [b", "bad.yaml' is not valid YAML: .*line 1"),
        ("number.json", "3", "number.json' must hold a list of classes or a mapping"),
        ("empty.yaml", "", "empty.yaml' must hold a list of classes or a mapping"),
        ("none.json", "[]", "none.json': The list of classes is empty"),
        ("norway.yaml", "- 'yes'\n- no\n", "norway.yaml': The name of class 1 is False, .*put it in quotes"),
        ("keys.json", '[{"label": "dog"}]', "keys.json': Class 0 is .* keys must be 'name', 'synonyms' and 'parent'"),
        ("twice.yaml", "- dog\n- DOG\n", "twice.yaml': Class name 'DOG' is duplicated, at 0 and at 1"),
        ("lost.json", '{"dog": ["pup"], "dog": ["hound"]}', "lost.json' has 'dog' twice: write all its synonyms"),
        ("lost.yaml", "dog: [pup]\ndog: [hound]\n", "lost.yaml' has 'dog' twice: write all its synonyms"),
        ("config.json", '{"id2label": {"0": "dog"}}', "config.json': The synonyms of class 'id2label' are"),
        ("table.txt", "dog", r"table.txt' must end in \.json, \.yaml or \.yml"),
    ],
)
def test_malformed_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        CaptionLabeler.from_file(tmp_path / name)


def test_missing_and_binary_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no class table '.*nowhere\.json'"):
        CaptionLabeler.from_file(tmp_path / "nowhere.json")
    (tmp_path / "latin.json").write_bytes(b'["caf\xe9"]')
    with pytest.raises(ValueError, match=r"latin\.json' is not UTF-8 text"):
        CaptionLabeler.from_file(tmp_path / "latin.json")


def test_yaml_without_pyyaml_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "names.yaml").write_text("- dog\n", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"names\.yaml' needs PyYAML: run `pip install pyyaml`"):
        CaptionLabeler.from_file(tmp_path / "names.yaml")


# Errors


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ([], ValueError, "The list of classes is empty"),
        ({}, ValueError, "The list of classes is empty"),
        (["dog", "cat", "Dog"], ValueError, "Class name 'Dog' is duplicated, at 0 and at 2"),
        ({"dog": ["pet"], "cat": ["Pet"]}, ValueError, "Synonym 'pet' is claimed by two classes, 'dog' and 'cat'"),
        ({"dog": ["cat"], "cat": []}, ValueError, "Synonym 'cat' is claimed by two classes, 'dog' and 'cat'"),
        ({"hot dog": [], "wurst": ["hot  DOG"]}, ValueError, "Synonym 'hot dog' is claimed by two classes"),
        ({"dog": ["pup", " "]}, ValueError, "A synonym of class 'dog' is empty"),
        (["dog", ""], ValueError, "A synonym of class '' is empty"),
        (["dog", "\u200b"], ValueError, "holds no word"),
        (["dog", "-"], ValueError, "A synonym of class '-' is empty"),
        ({"dog": ["?!"]}, ValueError, "A synonym of class 'dog' is empty: '\\?!' holds no word"),
        ({"dog": [3]}, TypeError, "Synonym 3 of class 'dog' is not a string"),
        ({"dog": "pup"}, TypeError, "The synonyms of class 'dog' are 'pup', but they must be a list"),
        (["dog", 3], TypeError, "The name of class 1 is 3"),
        ([{"name": "dog", "parent": ["animal"]}], TypeError, "parent of class 'dog' is .* must be a word"),
        ([{"name": "dog", "parent": " "}], TypeError, "parent of class 'dog' is"),
        ([{"name": "dog", "synonym": []}], TypeError, "Class 0 is .* keys must be 'name', 'synonyms' and 'parent'"),
        ("dog", TypeError, r"The classes are one string, 'dog': give a list of names, as \['dog'\]"),
        (None, TypeError, "The classes are None: give a list"),
    ],
)
def test_bad_class_tables(classes, error, message):
    with pytest.raises(error, match=message):
        CaptionLabeler(classes)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (["a dog", None], "Caption 1 is not a string but NoneType: 'None'"),
        ([3], "Caption 0 is not a string but int: '3'"),
        (["x"] * 2000 + [b"dog"], "Caption 2000 is not a string but bytes"),
        ([["a dog"]], "Caption 0 is not a string but list"),
        (3, "The captions are of type 'int': give a data set, a frame, a list"),
        (b"dog", "The captions are of type 'bytes'"),
    ],
)
def test_bad_captions_name_their_index(coco, captions, message):
    with pytest.raises(TypeError, match=message):
        coco(captions)


def test_unknown_preset_and_method():
    with pytest.raises(ValueError, match="Unknown class table 'coco': choose one of coco80, voc20, nuswide81"):
        CaptionLabeler.from_preset("coco")
    with pytest.raises(ValueError, match="Unknown class table 'imagenet'"):
        load_class_table("imagenet")
    with pytest.raises(ValueError, match="Unknown labelling method 'spacy': choose one of forms, wordnet"):
        CaptionLabeler(["dog"], method="spacy")


# WordNet


@pytest.mark.parametrize(
    "call",
    [lambda: CaptionLabeler(["dog"], method="wordnet"), lambda: suggest_synonyms("dog")],
    ids=["label", "suggest"],
)
def test_missing_nltk_data_says_what_to_run(no_nltk_data, call):
    with pytest.raises(LookupError, match=r"run `python -m nltk\.downloader punkt_tab averaged_perceptron_tagger_eng"):
        call()


def test_missing_nltk_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    for call in (lambda: CaptionLabeler(["dog"], method="wordnet"), lambda: suggest_synonyms("dog")):
        with pytest.raises(ImportError, match="pip install nltk"):
            call()


@pytest.mark.shared
def test_suggest_synonyms(nltk_data):
    suggestions = suggest_synonyms("Dog")
    assert "domestic dog" in suggestions
    assert "dog" not in suggestions
    assert set(suggestions) < set(suggest_synonyms("dog", senses=3))
    assert "hotdog" in suggest_synonyms("hot dog", senses=2)
    assert suggest_synonyms("qwertyuiop") == []
    with pytest.raises(ValueError, match="senses is 0"):
        suggest_synonyms("dog", senses=0)
    with pytest.raises(ValueError, match="holds no word"):
        suggest_synonyms(" ")


@pytest.mark.shared
def test_wordnet_method_on_own_classes(nltk_data):
    labeler = CaptionLabeler(["man", "clouds", "hot dog", "dog", "person", "goose", "rubik's cube"], method="wordnet")
    assert named(labeler, "Two men under a cloud") == ["man", "clouds"]
    assert named(labeler, "Many clouds, hot dogs and a hotdog") == ["clouds", "hot dog"]
    assert named(labeler, "People feed three geese beside a Rubik's cube") == ["person", "goose", "rubik's cube"]
    with pytest.raises(TypeError, match="Caption 1 is not a string but int"):
        labeler(["a dog", 3])
    assert labeler(["", "\0dog"]).tolist() == [[0] * 7, [0, 0, 0, 1, 0, 0, 0]]


@pytest.mark.shared
@pytest.mark.parametrize("preset", ["coco80", "voc20"])
@pytest.mark.parametrize(("method", "bar"), [("forms", 0.99), ("wordnet", 0.999)])
def test_agrees_with_the_published_labels(shared, request, preset, method, bar):
    if method == "wordnet":
        request.getfixturevalue("nltk_data")
    path = shared / "reference" / f"caption_labels_{preset}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = CaptionLabeler.from_preset(preset, method=method)([row["caption"] for row in rows])  # (rows, classes)
    agreement = np.mean([np.flatnonzero(y).tolist() == row["labels"] for y, row in zip(found, rows, strict=True)])
    assert agreement >= bar


@pytest.mark.shared
def test_forms_are_far_faster_than_wordnet(nltk_data, coco):
    captions = [f"Two dogs and {i} people sit on a wooden bench near the old bus stop." for i in range(200)]

    def seconds(labeler, repeats):
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(repeats):
                labeler(captions)
            best = min(best, (time.perf_counter() - start) / repeats)
        return best

    wordnet = CaptionLabeler.from_preset("coco80", method="wordnet")
    assert seconds(wordnet, 1) > 50 * seconds(coco, 20)  # some 300 on an idle core
