"""Captions in other languages than English: forms as given, scripts without spaces, what is taken as equal.

The captions were written for these tests.
"""

# ruff: noqa: RUF001 (signs of other scripts)
from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest

from modeling_taidpt.captions import CaptionLabeler
from modeling_taidpt.captions.label_files import read_labels
from modeling_taidpt.captions.labels import class_table, default_labeler, model_labeler
from modeling_taidpt.captions.synthetic import template_sentences


def named(labeler, captions):
    """The classes that each caption names."""
    matrix = labeler(captions)
    return [[labeler.class_names[column] for column in row.nonzero()[0]] for row in matrix]


CHINESE = {"狗": ["小狗", "狗狗"], "热狗": [], "猫": ["猫咪"], "汽车": ["轿车", "车"], "自行车": ["单车"], "T恤": []}
JAPANESE = {"犬": ["いぬ", "子犬"], "猫": ["ネコ", "ねこ"], "バス": [], "バスケットボール": [], "自転車": [], "車": []}
GERMAN = {"Hund": ["Hunde"], "Straße": [], "Hot Dog": ["Hot Dogs"], "Fahrrad": ["Fahrräder"], "Bär": [], "Bar": []}
ARABIC = {"كلب": ["كلاب", "الكلب"], "سيارة": ["السيارة"], "إشارة مرور": [], "قطة": []}
THAI = {"หมา": ["สุนัข"], "แมว": [], "แมวน้ำ": [], "รถ": [], "รถไฟ": [], "คน": ["ผู้ชาย"]}


@pytest.mark.parametrize(
    ("language", "classes", "captions"),
    [
        (
            "zh",
            CHINESE,
            {
                "公园里有一只黑狗在追一辆自行车。": ["狗", "自行车"],  # 车 inside of 自行车 is consumed
                "桌上放着两个热狗，旁边坐着一只猫咪": ["热狗", "猫"],  # and 狗 inside of 热狗
                "一只狗看着热狗！": ["狗", "热狗"],
                "街上停满了轿车和单车": ["汽车", "自行车"],
                "猫🐱狗": ["狗", "猫"],
                "他穿着一件 T 恤": ["T恤"],  # as typographers write it
                "他穿着一件Ｔ恤": ["T恤"],
                "一 只 热狗": ["热狗"],
                "太热，狗在树下睡觉": ["狗"],  # no word goes across a sign
                "天气很热 狗在树下睡觉": ["狗"],  # or a space
                "空荡荡的房间": [],
                "": [],
            },
        ),
        (
            "ja",
            JAPANESE,
            {
                "赤いバスの前に子犬がいます。": ["犬", "バス"],
                "バスケットボールをする人たち": ["バスケットボール"],
                "ネコと自転車": ["猫", "自転車"],
                "ﾊﾞｽ停で待つ犬": ["犬", "バス"],  # half-width
                "「猫」が窓辺で寝ている": ["猫"],
                "駐車場": ["車"],
                "海辺の夕日": [],
            },
        ),
        (
            "de",
            GERMAN,
            {
                "Zwei Hunde laufen über die Strasse.": ["Hund", "Straße"],
                "EIN HUND AUF DER STRASSE": ["Hund", "Straße"],
                "Der Hundehalter isst einen Hotdog.": ["Hot Dog"],  # words are not taken apart
                "Drei Hot-Dogs, bitte!": ["Hot Dog"],
                "Fahrra\u0308der lehnen an der Bar": ["Fahrrad", "Bar"],  # decomposed
                "ein Bär": ["Bär"],
                "des Hundes": [],  # no inflection
                "Hund🐕Fahrrad": ["Hund", "Fahrrad"],
            },
        ),
        (
            "ar",
            ARABIC,
            {
                "كَلْبٌ يَجْرِي فِي الْحَدِيقَةِ": ["كلب"],  # with vowel points
                "كـــلب نائم": ["كلب"],  # with tatweel
                "الكلب بجانب السيارة": ["كلب", "سيارة"],
                "اشارة مرور حمراء": ["إشارة مرور"],  # without hamza
                "قطة، كلب؟": ["كلب", "قطة"],
                "كلبي": [],
                "ﻛﻠﺐ": ["كلب"],  # presentation forms
            },
        ),
        (
            "th",
            THAI,
            {
                "แมวสองตัวนอนอยู่บนรถ": ["แมว", "รถ"],
                "แมวน้ำว่ายน้ำในทะเล": ["แมวน้ำ"],
                "ผู้ชายจูงสุนัขขึ้นรถไฟ": ["หมา", "รถไฟ", "คน"],
                "คนกับหมา": ["หมา", "คน"],
                "ท้องฟ้าสีคราม": [],
            },
        ),
        ("tr", {"ışık": [], "incir": []}, {"IŞIK": ["ışık"], "İNCİR ve ışık": ["ışık", "incir"], "isik": []}),
        ("km", {"ឆ្កែ": []}, {"ឆ្កែខ្មៅមួយក្បាល": ["ឆ្កែ"], "សត្វ\u200bឆ្កែ": ["ឆ្កែ"]}),
        ("my", {"ခွေး": [], "ကား": []}, {"ခွေးလေးတစ်ကောင်": ["ခွေး"], "ကားအနီ": ["ကား"]}),
        ("lo", {"ແມວ": []}, {"ແມວນອນຢູ່ເທິງຕຽງ": ["ແມວ"]}),
        ("fr", {"auto": [], "feu_rouge": []}, {"L’auto attend au feu-rouge.": ["auto", "feu_rouge"]}),
        ("uk", {"м'яч": []}, {"Червоний м’яч на траві": ["м'яч"]}),
        (
            "ru",
            {"собака": ["собаки"], "ёлка": [], "чай": [], "ќе": []},
            {
                "СОБА\u0301КИ — «ёлка»": ["собака", "ёлка"],
                "елка": [],
                "ча\u0301и": [],
                "чаи\u0306": ["чай"],
                "к\u0301е": ["ќе"],
            },
        ),
        (
            "ko",
            {"고양이": ["고양이가"], "개": ["강아지"], "자전거": []},
            {"고양이가 잔다.": ["고양이"], "번개": [], "「강아지」와 자전거": ["개", "자전거"], "개🐕": ["개"]},
        ),
        (
            "zh",
            {"狗": [], "dog": [], "собака": [], "كلب": [], "🐕": [], "iPhone 15": []},
            {
                "我的dog和狗🐕在Москве собака كلب": ["狗", "dog", "собака", "كلب", "🐕"],
                "dogs，ｉＰｈｏｎｅ１５！": ["iPhone 15"],
            },
        ),
        ("hi", {"कुत्ता": []}, {"एक काला कुत्ता।": ["कुत्ता"]}),
        ("he", {"כלב": []}, {"כֶּלֶב רץ": ["כלב"]}),
    ],
)
def test_captions_of_a_language(language, classes, captions):
    labeler = CaptionLabeler(classes, language=language)
    assert dict(zip(captions, named(labeler, list(captions)), strict=True)) == captions
    again = CaptionLabeler(dict(zip(labeler.class_names, labeler.synonyms, strict=True)), language=language)
    np.testing.assert_array_equal(again(list(captions)), labeler(list(captions)))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(labeler))(list(captions)), labeler(list(captions)))


def test_words_that_hold_a_synonym_and_mean_something_else_are_ignored():
    classes = {"หมา": [], "马": []}
    captions = ["หมายเลขสิบ", "หมาสองตัว", "马路上没有人", "一匹马"]
    assert named(CaptionLabeler(classes, language="th"), captions)[0] == ["หมา"]
    labeler = CaptionLabeler(classes, language="zh", ignored_forms=["หมาย", "马路"])
    assert named(labeler, captions) == [[], ["หมา"], [], ["马"]]
    assert named(CaptionLabeler({"马路": [], "马": []}, language="zh", ignored_forms=["马路"]), captions[2:]) == [
        ["马路"],  # a synonym that is given counts
        ["马"],
    ]


def test_signs_of_emoji_and_full_width_punctuation_end_words():
    labeler = CaptionLabeler({"狗": [], "🐱": [], "hund": []}, language="zh")
    assert named(labeler, ["狗！猫？", "🐱🐱", "ｈｕｎｄ，", "hund™", "hund狗", "Hund！", "（hund）", "⑴hund"]) == [
        *(["狗"], ["🐱"], ["hund"], ["hund"], ["狗", "hund"], ["hund"], ["hund"], ["hund"]),
    ]


def test_case_and_compatible_forms_do_not_make_two_classes():
    with pytest.raises(ValueError, match="claimed by two classes, 'Straße' and 'Weg'"):
        CaptionLabeler({"Straße": [], "Weg": ["STRASSE"]}, language="de")
    with pytest.raises(ValueError, match="duplicated"):
        CaptionLabeler(["Hund", "hund"], language="de")
    with pytest.raises(ValueError, match="holds no word"):
        CaptionLabeler(["狗", "！？"], language="zh")


def test_the_language_is_a_code():
    assert CaptionLabeler(["Hund"], language="de-AT").language == "de"
    assert repr(CaptionLabeler(["Hund"], language="DE")) == "CaptionLabeler(1 classes, method='forms', language='de')"
    for wrong in ("cn", "Chinese", "", None):
        with pytest.raises(ValueError, match="give its code in ISO 639"):
            CaptionLabeler(["狗"], language=wrong)
    with pytest.raises(ValueError, match="WordNet is English"):
        CaptionLabeler(["Hund"], method="wordnet", language="de")
    with pytest.raises(ValueError, match="'coco80' is English"):
        CaptionLabeler.from_preset("coco80", language="de")


def test_english_is_as_it_was(caplog):
    """No form of another language is made equal, and who forgets the language is told."""
    english, german = CaptionLabeler(["Hund", "Straße"]), CaptionLabeler(["Hund", "Straße"], language="de")
    captions = ["two hunds", "Strasse", "ein Hund"]
    assert named(english, captions) == [["Hund"], [], ["Hund"]]
    assert named(german, captions) == [[], ["Straße"], ["Hund"]]
    labeler = CaptionLabeler({"狗": []})
    with caplog.at_level(logging.WARNING):
        assert not labeler(["一只黑狗"]).any() and not labeler(["两只狗"]).any()
    assert [record.message for record in caplog.records] == [
        "'狗' is written without spaces, and captions are labelled as English: name their language, as language='zh'."
    ]


def test_labels_of_a_file_or_with_commas_of_any_script(tmp_path):
    (tmp_path / "table.json").write_text('{"狗": ["小狗"], "猫": []}', encoding="utf-8")
    labels, labeler = read_labels(tmp_path / "table.json", language="zh")
    assert labels == ["狗", "猫"] and labeler.language == "zh"
    assert read_labels("狗，猫、鸟", language="zh") == (["狗", "猫", "鸟"], None)
    assert read_labels("كلب، قطة")[0] == ["كلب", "قطة"]
    with pytest.raises(ValueError, match="'voc20' is English"):
        read_labels("voc20", language="zh")


def test_words_of_scripts_without_spaces_are_counted_by_letter():
    """A base that ships the counts of its Chinese words knows 狗, which never stands alone."""
    from modeling_taidpt import count_words
    from modeling_taidpt.rare_words import find_rare_words

    counts = count_words(["一只黑狗在公园里", "Eine Straße, Straße", "don't", "รถสีแดง", "the café"] * 20)
    assert counts["狗"] == counts["don't"] == counts["café"] == 20 and counts["straße"] == 40
    labels = ["黑狗", "狗猫", "Straße", "Bär", "รถ", "dog", "Café"]
    assert find_rare_words(labels, counts) == {"狗猫": ["猫"], "Bär": ["bär"], "dog": ["dog"]}


def test_parents_of_labels_in_other_languages_are_those_that_are_given():
    """ "Gift" is poison in German, not a present."""
    from modeling_taidpt.captions.hierarchy import LabelHierarchy

    assert LabelHierarchy({"Pudel": "Hund"}, "de").path("Pudel") == ("Hund", "Pudel")
    assert LabelHierarchy(language="de").path("dog") == ("dog",)
    assert LabelHierarchy().path("dog") == ("animal", "dog")


class Config:
    """What is looked at of a `TaiDptConfig`."""

    def __init__(self, labels, class_table=None):
        self.labels = self.class_names = labels
        self.class_table = class_table

    @property
    def language(self):
        return (self.class_table or {}).get("language", "en")


def test_a_configuration_keeps_the_language_and_labels_alike():
    captions = ["EINE STRASSE", "zwei hunde"]
    labeler = CaptionLabeler({"Hund": ["Hunde"], "Straße": []}, language="de")
    table = class_table(labeler, Config(["Straße", "Hund"]))
    assert table["language"] == "de" and table["synonyms"]["Hund"] == ["hund", "hunde"]
    again = model_labeler(Config(["Straße", "Hund", "Bär"], table))
    assert named(again, [*captions, "ein Bär"]) == [["Straße"], ["Hund"], ["Bär"]]
    bare = model_labeler(Config(["Hund"], {"language": "de"}))
    assert bare.language == "de" and named(bare, ["zwei Hunds", "Hund"]) == [[], ["Hund"]]
    assert class_table(lambda captions: captions, Config(["Hund"], {"language": "de"})) == {"language": "de"}
    # published tables are English: "person" in German is no "people"
    assert not default_labeler(["person"], ["person"], language="de")(["people"]).any()


def test_template_sentences_of_a_language():
    sentences, labels = template_sentences(["狗", "猫"], "zh")
    assert sentences[0] == "照片中有狗。" and "猫。" in sentences and labels.sum(axis=0).tolist() == [11, 11]
    assert len(template_sentences(["dog"])[0]) == 89
    assert set(template_sentences(["Kissa"], "fi")[0]) == {"Kissa."}  # of a language without a template
