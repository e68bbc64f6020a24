"""Which labels are kept where nobody says it: one rule for pipeline, command, tagging and page."""

from __future__ import annotations

import json

import pytest
from transformers import (
    ImageClassificationPipeline,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from modeling_taidpt.pipelines.results import BEST_LABELS, default_selection
from modeling_taidpt.serving.formats import read_results
from modeling_taidpt.serving.photograph_tagger import PhotographTagger
from modeling_taidpt.serving.tagging import tag_images

from ..cli.test_app import CAT, run
from .conftest import LABELS, new_pipe, picture


@pytest.fixture
def pipe(model, processor, tokenizer):
    return new_pipe(model, processor, tokenizer)


def test_the_thresholds_of_a_checkpoint_are_the_default(pipe, monkeypatch):
    image = picture()
    everything = pipe(image, threshold=0)
    assert len(everything) == len(LABELS)
    thresholds = [1.0 if label == everything[0]["label"] else 0.0 for label in LABELS]
    monkeypatch.setattr(pipe.model.config, "score_thresholds", thresholds)
    assert pipe(image) == pipe([image])[0] == pipe(image, threshold="auto") == everything[1:]
    assert pipe(image, top_k=2) == everything[:2]  # a number of labels alone: thresholds do not count
    assert len(pipe(image, candidate_labels="zebra, cow")) == 2  # that were asked for


def test_without_thresholds_the_best_labels_are_kept(pipe):
    many = [f"thing {number}" for number in range(9)]
    own = new_pipe(pipe.model.with_labels(many, tokenizer=pipe.tokenizer), pipe.image_processor)
    assert len(own(picture())) == BEST_LABELS and len(own(picture(), threshold=0)) == 9
    assert len(pipe(picture(), candidate_labels=many)) == 9
    assert default_selection(own.model.config) == {"top_k": 5, "threshold": None}


def test_all_that_tags_shows_the_same_labels(tmp_path):
    shown = [row["label"] for row in json.loads(run("predict", CAT, "--json").stdout)[0]["labels"]]
    assert 0 < len(shown) < 20
    report = json.loads(run("tag", CAT, "--output", tmp_path / "tags", "--json").stdout)
    assert report["selection"] == {"top_k": None, "threshold": "auto"}
    (row,) = read_results(tmp_path / "tags")
    assert list(row.labels) == shown and report["summary"]["labels"] == len(shown)
    page = PhotographTagger()
    (tagged,), _ = page.tag([str(CAT)], "")
    whole = [entry["label"] for entry in page.tagger(str(CAT), center_crop=False)]  # which the page looks at
    tags = tagged.tags
    assert [tag.label for tag in tags if tag.present] == whole and len(tags) > len(whole)
    assert [entry["label"] for entry in page.tagger(str(CAT))] == shown
    everything = json.loads(run("predict", CAT, "--top-k", "0", "--json").stdout)[0]["labels"]
    assert len(everything) == len(tags)


def test_the_default_is_noted_with_a_run(pipe, tmp_path, monkeypatch):
    image = tmp_path / "a.png"
    picture().save(image)
    assert tag_images(image, tmp_path / "tags", pipe, progress=False).selection["top_k"] == BEST_LABELS
    monkeypatch.setattr(pipe.model.config, "score_thresholds", 0.5)
    with pytest.raises(ValueError, match="output of another run"):
        tag_images(image, tmp_path / "tags", pipe, progress=False)


def test_image_classification_gives_the_same_probabilities(pipe, monkeypatch):
    config = pipe.model.config
    monkeypatch.setattr(config, "score_scale", 3.0)
    monkeypatch.setattr(config, "score_bias", [0.5 * index - 1 for index in range(len(LABELS))])
    theirs = pipeline("image-classification", model=pipe.model, image_processor=pipe.image_processor)
    expected = pipe(picture(), threshold=0)[:2]
    assert theirs(picture(), top_k=2) == [
        {"label": row["label"], "score": pytest.approx(row["score"], abs=1e-6)} for row in expected
    ]


def test_image_classification_of_other_models_is_that_of_transformers():
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
    model = ViTForImageClassification(config)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    registered = pipeline("image-classification", model=model, image_processor=processor)
    plain = ImageClassificationPipeline(model=model, image_processor=processor)
    assert registered(picture()) == plain(picture())
    assert sum(row["score"] for row in registered(picture())) == pytest.approx(1)  # a softmax
