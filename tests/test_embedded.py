"""The checkpoint that ships: tags real photographs offline, and is what its card says."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoImageProcessor, AutoTokenizer, pipeline

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "examples" / "images"
COCO80 = (ROOT / "examples" / "data" / "coco80.txt").read_text().split("\n")[:80]


@pytest.fixture(scope="module")
def tagger():
    return pipeline("multi-label-image-classification")  # no model named, no network


def test_is_small_and_complete():
    files = list(Path(DEFAULT_CHECKPOINT).iterdir())
    assert sum(file.stat().st_size for file in files) <= 28e6
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "README.md"} <= {
        file.name for file in files
    }
    # no path of the machine that made it
    assert "/" not in (Path(DEFAULT_CHECKPOINT) / "config.json").read_text()


def test_labels_are_those_of_coco(tagger):
    assert [tagger.model.config.id2label[index] for index in range(80)] == COCO80
    assert set(tagger.model.config.label_origin.values()) == {"learned"}
    assert tagger.model.dtype == torch.float32  # stored in half precision


@pytest.mark.parametrize(("image", "expected"), [("astronaut", "person"), ("cat", "cat"), ("coffee", "cup")])
def test_tags_the_photographs_that_ship(tagger, image, expected):
    results = tagger(str(IMAGES / f"{image}.jpg"), top_k=80)
    assert len(results) == 80
    assert expected == results[0]["label"]
    assert all(0 <= result["score"] <= 1 for result in results)


@pytest.mark.parametrize(
    ("image", "expected", "most"), [("astronaut", "person", 6), ("cat", "cat", 2), ("coffee", "cup", 10)]
)
def test_its_thresholds_keep_what_is_there(tagger, image, expected, most):
    results = tagger(str(IMAGES / f"{image}.jpg"), threshold="auto")
    assert expected in [result["label"] for result in results]
    assert len(results) <= most
    assert results[0]["label"] == expected


def test_its_scores_are_standardised_and_say_what_they_were_fitted_on(tagger):
    config = tagger.model.config
    assert config.image_standardization == "captions"
    assert tagger.model.caption_bank.features.shape == (config.caption_bank_size, 256)
    assert tagger.model.caption_bank.log_weights.exp().sum().item() == pytest.approx(1, abs=1e-2)
    assert len(config.score_scale) == len(config.score_bias) == len(config.score_thresholds) == 80
    assert config.score_calibration == "98 labelled images"


def test_own_labels_and_rare_words(tagger, caplog):
    logging.getLogger("transformers").propagate = True
    with caplog.at_level("WARNING"):
        results = tagger(str(IMAGES / "cat.jpg"), candidate_labels=["kitten", "airport", "zzyzx"])
    logging.getLogger("transformers").propagate = False
    assert results[0]["label"] == "kitten"
    assert "zzyzx" in caplog.text
    assert tagger.model.rare_words(["dog", "zzyzx dog"]) == {"zzyzx dog": ["zzyzx"]}


def test_any_word_encodes():
    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
    for text in ("naïve ☕ 猫", "qwxzkj"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
    assert tokenizer.model_max_length == 77
    assert max(tokenizer.get_vocab().values()) < 49408


def test_serves_as_a_base_that_any_machine_finds(tmp_path):
    model = TaiDptModel.from_clip(DEFAULT_CHECKPOINT, labels=["dog", "cat"])
    assert model.config.base_model_name_or_path == "taidpt-coco80"
    assert model.config.recommended_recipe["training"]
    model.save_pretrained(tmp_path, prompts_only=True)
    assert (tmp_path / "model.safetensors").stat().st_size < 200_000
    loaded = TaiDptModel.from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values=pixels).logits, model(pixel_values=pixels).logits)
    assert AutoImageProcessor.from_pretrained(DEFAULT_CHECKPOINT).crop_size["height"] == 256


def test_card_says_what_it_is():
    card = ModelCard.load(Path(DEFAULT_CHECKPOINT) / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.library_name == "transformers"
    assert card.data.eval_results
    assert (Path(DEFAULT_CHECKPOINT) / "README.md").read_text() == (ROOT / "hub_cards/taidpt-coco80.md").read_text()
    commands = ("examples/train_base.py", "examples/train.py", "examples/evaluate.py")
    for sentence in ("not OpenAI's CLIP", "seed", *commands):
        assert sentence in card.content
