"""Chinese and German on the command line: captions are labelled, learned from, and photographs tagged."""

# ruff: noqa: RUF001 (signs of other scripts)
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ChineseCLIPConfig, ChineseCLIPModel, PreTrainedTokenizerFast

from modeling_taidpt import TaiDptModel, baseline_models, calibrate_without_labels, fit_caption_bank, with_hypernyms
from modeling_taidpt.features.images import ImageFeatures
from modeling_taidpt.languages import default_template

from ..conftest import make_clip
from .test_app import fails, run

TABLES = {"zh": {"狗": ["小狗"], "热狗": [], "猫": ["猫咪"]}, "de": {"Hund": ["Hunde"], "Straße": [], "Katze": []}}
PLACES = {"zh": ("公园里", "沙发上"), "de": ("auf der STRASSE", "im Garten", "vor dem Haus", "am See")}
NAMES = {"zh": ("狗", "小狗", "猫咪", "猫"), "de": ("Hund", "Katze")}
COLORS = ("一只黑", "两只黑", "一只白色的", "两只白色的")
CAPTIONS = {
    "zh": [f"{place}有{color}{name}。" for place in PLACES["zh"] for color in COLORS for name in NAMES["zh"]],
    "de": [
        f"{word} {name} {place}." for word in ("Ein", "Kein", "Dein") for name in NAMES["de"] for place in PLACES["de"]
    ],
}
CAPTIONS["zh"] += ["桌上放着一个热狗", "他在吃热狗！"]
CAPTIONS["de"] += ["Hunde", "die Straße"]
COUNTS = {"zh": {"狗": 16, "热狗": 2, "猫": 16}, "de": {"Hund": 13, "Straße": 7, "Katze": 12}}


def chinese_clip():
    """A small random Chinese-CLIP whose tokens are characters, framed as BERT frames texts."""
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**tower, "vocab_size": 120, "max_position_embeddings": 52, "pad_token_id": 0}
    config = ChineseCLIPConfig(
        text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=24
    )
    letters = sorted(set("".join(CAPTIONS["zh"]) + "照片中有车。."))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    options = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return ChineseCLIPModel(config).eval(), PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=52, **options
    )


@pytest.fixture(params=["zh", "de"])
def place(request, tmp_path):
    """A language, and a folder with a tiny base, a class table, captions and a photograph."""
    clip, tokenizer = chinese_clip() if request.param == "zh" else (make_clip(), None)
    clip.save_pretrained(tmp_path / "base")
    if tokenizer is not None:
        tokenizer.save_pretrained(tmp_path / "base")
    table = json.dumps(TABLES[request.param], ensure_ascii=False)
    (tmp_path / "table.json").write_text(table, encoding="utf-8")
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS[request.param]), encoding="utf-8")
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "1.png")
    return request.param, tmp_path


def test_label_train_and_tag(place):
    language, folder = place
    labels = ["--labels", str(folder / "table.json"), "--language", language]
    found = run("label", folder / "captions.txt", *labels, "--json")
    assert json.loads(found.stdout)["counts"] == COUNTS[language], found.stderr
    command = ["train", *labels, "--captions", folder / "captions.txt", "--base", folder / "base", "--json"]
    command += ["--output", folder / "m", "--steps", "2", "--batch-size", "8", "--context-tokens", "2"]
    command += ["--set", f"feature_cache_dir={folder / 'cache'}"]
    trained = run(*map(str, command))
    assert trained.exit_code == 0, trained.stderr
    config = json.loads((folder / "m" / "config.json").read_text())
    assert config["class_table"]["language"] == language
    header = (folder / "m" / "README.md").read_text(encoding="utf-8").partition("\n---\n")[0]
    assert f"language: {language}" in header
    tags = json.loads(run("predict", folder / "photos" / "1.png", "--model", folder / "m", "--json").stdout)
    assert {entry["label"] for entry in tags[0]["labels"]} == set(TABLES[language])
    # calibration by captions looks for the same words
    arguments = ("calibrate", folder / "m", folder / "photos", "--captions", folder / "captions.txt", "--json")
    calibrated = run(*map(str, arguments))
    assert calibrated.exit_code == 0, calibrated.stderr
    model = TaiDptModel.from_pretrained(folder / "m")
    assert model.config.language == language and model.config.score_thresholds is not None
    assert default_template(language) in (folder / "m" / "README.md").read_text(encoding="utf-8")


def test_prompts_and_templates_are_of_the_language(place):
    language, folder = place
    labels, other = list(TABLES[language]), {"zh": "车", "de": "Auto"}[language]
    options = {"language": language, "recipe": {"model": {"context_init": "a photo of a"}}}  # as a base recommends
    model = TaiDptModel.from_clip(str(folder / "base"), labels, class_specific_context=True, **options)
    assert model.config.class_table == {"language": language}
    template = default_template(language)
    zero_shot = TaiDptModel.zero_shot(str(folder / "base"), [*labels, other], language=language)
    written = zero_shot.encode_texts([template.replace("{}", label) for label in [*labels, other]])
    torch.testing.assert_close(zero_shot.class_embeddings_global, written)
    torch.testing.assert_close(model.encode_templates(), written[:-1])
    # untrained, the contexts are the words before a label: the prompts are the template, also of another label
    torch.testing.assert_close(model.encode_classes()[0], written[:-1], rtol=1e-4, atol=1e-5)
    wider = model.with_labels([other])
    torch.testing.assert_close(wider.encode_classes()[0], written[-1:], rtol=1e-4, atol=1e-5)
    assert wider.config.language == language
    with pytest.raises(ValueError, match=r"strict=True out for the template .*\{\}"):
        model.with_labels([other], strict=True)
    model.save_pretrained(folder / "saved")
    assert TaiDptModel.from_pretrained(folder / "saved").config.language == language
    assert set(baseline_models(model, ["template", "templates", "brackets"])) == {"template", "templates", "brackets"}


def test_a_language_without_a_template_has_the_bare_name():
    model = TaiDptModel.from_clip(make_clip(), ["kissa"], language="fi", class_specific_context=True)
    wider = model.with_labels(["kissa", "koira"])
    expected = model.encode_texts(["koira."])
    torch.testing.assert_close(wider.encode_classes()[0][1:], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        TaiDptModel.zero_shot(make_clip(), ["koira"], language="fi").class_embeddings_global, expected
    )


def test_what_is_english_alone_is_said(tmp_path):
    model = TaiDptModel.zero_shot(make_clip(), ["Hund", "Katze"], language="de")
    with pytest.raises(ValueError, match="give captions of that language"):
        fit_caption_bank(model)
    with pytest.raises(ValueError, match="WordNet is English"):
        with_hypernyms(model, ["Tier"])
    assert with_hypernyms(model, {"Tier": ["Hund", "Katze"]}).config.labels[-1] == "Tier"
    assert "give its code in ISO 639" in fails("label", __file__, "--labels", "Hund", "--language", "German")
    assert "is English" in fails("train", "-l", "coco80", "--language", "de", "-o", tmp_path / "m", "-c", __file__)
    with pytest.raises(ValueError, match="give synonyms, ignored_forms and language"):
        TaiDptModel.from_clip(make_clip(), ["Hund"], class_table={"idioma": "de"})
    images = [{"image": Image.new("RGB", (32, 32), color)} for color in ("red", "blue")]
    features = ImageFeatures.encode(model, images, label_column=None, cache_dir=tmp_path / "cache")
    figures = calibrate_without_labels(model, features, captions=["ein Hund", "eine Katze", "Hund und Katze"])
    assert figures["expected_labels_per_image"] > 0
