"""Descriptions of labels: averaged in templates, kept with the model, from tables, files and callables."""

from __future__ import annotations

import json

import pytest
import torch

from modeling_taidpt import TaiDptConfig, TaiDptModel
from modeling_taidpt.captions import CaptionLabeler
from modeling_taidpt.class_descriptions import fill_template, gather_descriptions

from .conftest import make_clip

LABELS = ["bicycle", "dog", "traffic_light"]
DESCRIPTIONS = {
    "bicycle": ["a small bicycle with training wheels", "two wheels and a saddle"],
    "traffic_light": ["the lamp at a crossing"],
}
TEMPLATES = ["a photo of a {}.", "{} in a street"]


def plain(model, tokenizer, phrases):
    """Mean of normalized features of every template with every phrase, encoded one by one, normalized."""
    features = [
        torch.nn.functional.normalize(model.encode_captions(**tokenizer([text], return_tensors="pt"))[0][0], dim=0)
        for text in phrases
    ]
    return torch.nn.functional.normalize(torch.stack(features).mean(dim=0), dim=0)


WRITTEN = [
    [
        *("a photo of a bicycle.", "bicycle in a street"),
        *("a photo of a small bicycle with training wheels.", "a small bicycle with training wheels in a street"),
        *("a photo of a two wheels and a saddle.", "two wheels and a saddle in a street"),
    ],
    ["a photo of a dog.", "dog in a street"],
    [
        *("a photo of a traffic light.", "traffic light in a street"),
        *("a photo of a lamp at a crossing.", "the lamp at a crossing in a street"),
    ],
]


@torch.no_grad()
def test_zero_shot_equals_a_plain_computation_and_is_what_was_saved(tokenizer, tmp_path):
    clip = make_clip()
    model = TaiDptModel.zero_shot(clip, LABELS, TEMPLATES, tokenizer, descriptions=DESCRIPTIONS)
    expected = torch.stack([plain(model, tokenizer, texts) for texts in WRITTEN])
    for embeddings in model.encode_classes():
        torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    assert model.config.templates["descriptions"] == DESCRIPTIONS
    model.save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.encode_templates(TEMPLATES, tokenizer), expected, atol=1e-5, rtol=0)
    # fewer labels keep theirs, new ones get the templates
    other = loaded.with_labels(["dog", "cat", "bicycle"], tokenizer)
    torch.testing.assert_close(other.encode_classes()[0][2], expected[0], atol=1e-5, rtol=0)
    cat = plain(model, tokenizer, ["a photo of a cat.", "cat in a street"])
    torch.testing.assert_close(other.encode_classes()[0][1], cat, atol=1e-5, rtol=0)
    assert set(other.config.templates["descriptions"]) == {"bicycle"}


@torch.no_grad()
def test_labels_are_described_later_too(tokenizer):
    model = TaiDptModel.zero_shot(make_clip(), ["dog", "cat"], TEMPLATES, tokenizer)
    plain_model = model.with_labels(LABELS, tokenizer)
    described = model.with_labels({label: DESCRIPTIONS.get(label, []) for label in LABELS}, tokenizer)
    expected = torch.stack([plain(model, tokenizer, texts) for texts in WRITTEN])
    torch.testing.assert_close(described.encode_classes()[0], expected, atol=1e-5, rtol=0)
    assert torch.equal(
        plain_model.with_labels(dict.fromkeys(LABELS), tokenizer).class_embeddings_global,
        plain_model.class_embeddings_global,
    )
    assert model.config.templates == TEMPLATES  # the model that it was made of stays as it is


@torch.no_grad()
def test_learned_contexts_average_over_descriptions(tokenizer):
    model = TaiDptModel.from_clip(make_clip(), ["dog", "cat"], tokenizer, num_context_tokens=3)
    described = model.with_labels({"bicycle": DESCRIPTIONS["bicycle"], "dog": []}, tokenizer)
    spread = model.with_labels(["bicycle", *DESCRIPTIONS["bicycle"]], tokenizer).encode_classes()
    alone = model.with_labels(["bicycle", "dog"], tokenizer).encode_classes()
    for found, phrases, names in zip(described.encode_classes(), spread, alone, strict=True):
        torch.testing.assert_close(found[0], torch.nn.functional.normalize(phrases.mean(dim=0), dim=0))
        torch.testing.assert_close(found[1], names[1])
        assert not torch.allclose(found[0], names[0], atol=1e-3)


@torch.no_grad()
def test_a_learned_model_keeps_them_for_its_baselines(tokenizer, tmp_path):
    model = TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=3, descriptions=DESCRIPTIONS)
    plain_model = TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=3)
    assert model.encode_classes()[0].shape == plain_model.encode_classes()[0].shape
    model.save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path)
    expected = torch.stack([plain(model, tokenizer, texts) for texts in WRITTEN])
    torch.testing.assert_close(loaded.encode_templates(TEMPLATES, tokenizer), expected, atol=1e-5, rtol=0)
    assert len(TaiDptConfig().to_dict()) == len(model.config.to_dict())  # no field of their own


def test_an_article_is_written_once():
    assert fill_template("a photo of a {}.", "a small dog") == "a photo of a small dog."
    assert fill_template("a photo of the {}.", "An apple") == "a photo of the apple."
    assert fill_template("{} outside", "the small dog") == "the small dog outside"
    assert fill_template("a {}", "thermos") == "a thermos"


def test_they_come_from_mappings_files_and_callables(tmp_path):
    file = tmp_path / "texts.json"
    file.write_text(json.dumps(DESCRIPTIONS))
    made = gather_descriptions(lambda label: [f" a  {label} outside", f"a {label} outside"], ["dog"])
    assert made == {"dog": ["a dog outside"]}
    assert gather_descriptions(lambda label: [] if label == "dog" else None, ["dog", "cat"]) == {}
    for source in (DESCRIPTIONS, file, str(file)):
        assert gather_descriptions(source, LABELS) == DESCRIPTIONS


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"dog": []}, "The list of descriptions of 'dog' is empty: give at least one, or leave the label out."),
        ({"dog": "a small dog"}, "The descriptions of 'dog' are 'a small dog': give a list of texts."),
        ({"dog": ["small", 5]}, "A description of 'dog' is 5: give a text."),
        ({"dog": ["  "]}, "A description of 'dog' is '  ': give a text."),
        ({"dog": ["x" * 401]}, "A description of 'dog' has 401 characters"),
        ({"cow": ["a cow"]}, "There are descriptions of 'cow', which is not one of the labels."),
        (lambda label: "a dog", "The descriptions of 'dog' are 'a dog': give a list of texts."),
        (5, "`descriptions` is 5: give a mapping, a callable or a JSON file."),
    ],
)
def test_wrong_ones_are_one_sentence(source, sentence, tokenizer):
    with pytest.raises(ValueError) as error:
        TaiDptModel.zero_shot(make_clip(), ["dog"], tokenizer=tokenizer, descriptions=source)
    assert str(error.value).startswith(sentence) and "\n" not in str(error.value)


def test_too_many_tokens_and_damaged_files_are_named(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"The text 'a photo of a x x x.*' has \d+ tokens, the text tower takes"):
        TaiDptModel.zero_shot(make_clip(), ["dog"], tokenizer=tokenizer, descriptions={"dog": ["x " * 199]})
    for content, sentence in (("{", "is not JSON"), ("[]", "must hold a mapping")):
        (tmp_path / "texts.json").write_text(content)
        with pytest.raises(ValueError, match=sentence):
            gather_descriptions(tmp_path / "texts.json", ["dog"])
    with pytest.raises(FileNotFoundError, match=r"There is no file of descriptions 'none\.json'"):
        gather_descriptions("none.json", ["dog"])


def test_class_tables_hold_them_and_captions_do_not_look_at_them():
    table = [{"name": "dog", "descriptions": ["a furry animal"]}, {"name": "cat", "synonyms": ["kitten"]}]
    labeler = CaptionLabeler(table)
    assert labeler.descriptions == {"dog": ["a furry animal"]}
    assert labeler(["a furry animal", "a kitten"]).tolist() == [[0, 0], [0, 1]]
    with pytest.raises(ValueError, match="The list of descriptions of 'dog' is empty"):
        CaptionLabeler([{"name": "dog", "descriptions": []}])


def test_the_pipeline_takes_described_labels(tokenizer, tmp_path):
    from PIL import Image
    from transformers import CLIPImageProcessor, pipeline

    model = TaiDptModel.zero_shot(make_clip(), ["dog", "cat"], tokenizer=tokenizer)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tagger = pipeline("multi-label-image-classification", model=model, image_processor=processor, tokenizer=tokenizer)
    image = Image.linear_gradient("L").convert("RGB")
    described = {label: DESCRIPTIONS.get(label, []) for label in LABELS}
    expected = pipeline(
        "multi-label-image-classification",
        model=model.with_labels(described, tokenizer),
        image_processor=processor,
        tokenizer=tokenizer,
    )(image)
    assert tagger(image, candidate_labels=described) == expected != tagger(image, candidate_labels=LABELS)
    with pytest.raises(ValueError, match="The descriptions of 'dog' are 'furry': give a list of texts"):
        tagger(image, candidate_labels={"dog": "furry"})
