"""The pipeline with labels that the model did not learn: scores, warnings, what is kept."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from transformers.utils import logging as transformers_logging

from modeling_taidpt import TaiDptModel

from ..conftest import make_clip
from .conftest import LABELS, assert_same, new_pipe, picture


@pytest.fixture
def warned():
    """The warnings of the pipeline, as a list that fills."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = transformers_logging.get_logger("modeling_taidpt.pipelines.multi_label_image_classification")
    previous = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(previous)


def test_candidate_labels_equal_a_model_for_them(model, processor, tokenizer):
    pipe = new_pipe(model, processor, tokenizer)
    wanted = ["zebra", "dog", "hot air balloon"]
    expected = new_pipe(model.with_labels(wanted, tokenizer=tokenizer), processor)(picture(), return_heatmaps=True)
    for labels in (wanted, tuple(wanted), "zebra, dog,hot air balloon,", ["zebra", "dog", "hot air balloon", "zebra"]):
        assert_same(pipe(picture(), candidate_labels=labels, return_heatmaps=True), expected, tolerance=1e-7)
    assert [entry["label"] for entry in pipe(picture(), candidate_labels=wanted, top_k=1)] == [expected[0]["label"]]
    batched = pipe([picture(), picture(seed=1)], candidate_labels=wanted, batch_size=2)
    assert_same(batched[0], [{k: v for k, v in entry.items() if k != "heatmap"} for entry in expected])
    assert {entry["label"] for entry in pipe(picture())} == set(LABELS)  # the model's own labels are back


@pytest.mark.parametrize("kind", ["learned", "templates"])
def test_threads_with_labels_of_their_own_do_not_disturb_each_other(kind, model, processor, tokenizer):
    if kind == "templates":
        model = TaiDptModel.zero_shot(model.clip, labels=LABELS, tokenizer=tokenizer)
    pipe = new_pipe(model, processor, tokenizer)
    sets = [[f"thing {number}", "zebra", *LABELS[: number % 3]] for number in range(140)]
    image = picture()

    def tag(labels):
        return {entry["label"]: entry["score"] for entry in pipe(image, candidate_labels=labels)}

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(tag, sets))
    for labels, results in zip(sets[::20], found[::20], strict=True):
        assert results == pytest.approx(tag(labels), abs=1e-6)
    assert all(set(results) == set(labels) for labels, results in zip(sets, found, strict=True))


def test_labels_that_were_not_learned_are_named_once(model, processor, tokenizer, warned):
    pipe = new_pipe(model, processor, tokenizer)
    pipe([picture(), picture()])
    assert warned == []
    pipe(picture(), candidate_labels="zebra, dog")
    pipe(picture(), candidate_labels="zebra, dog")
    pipe([picture(), picture()], candidate_labels="dog, zebra")
    assert warned == ["These scores are less sure: no prompts were learned for 'zebra'."]
    pipe(picture(), candidate_labels=[f"thing {number}" for number in range(14)])
    assert len(warned) == 2
    assert "'thing 9' and 4 more" in warned[1] and "thing 10" not in warned[1]


def test_nothing_is_said_of_labels_that_nobody_asked_for(processor, tokenizer, warned):
    pipe = new_pipe(TaiDptModel.zero_shot(make_clip(), labels=LABELS, tokenizer=tokenizer), processor)
    pipe(picture())
    assert warned == []


def test_rare_words_are_named_once(model, processor, tokenizer, warned, monkeypatch):
    def rare_words(self, labels):
        return {label: ["okapi"] for label in labels if "okapi" in label}

    monkeypatch.setattr(TaiDptModel, "rare_words", rare_words, raising=False)
    pipe = new_pipe(model, processor, tokenizer)
    for _ in range(2):
        pipe(picture(), candidate_labels="baby okapi, dog")
    assert warned == [
        "These scores are less sure: no prompts were learned for 'baby okapi', and the CLIP hardly saw the word "
        "'okapi' in its training."
    ]


def test_a_threshold_for_scores_that_only_rank_is_told_once(model, processor, warned, monkeypatch):
    pipe = new_pipe(model, processor)
    pipe(picture(), top_k=1)
    assert warned == []
    for _ in range(2):
        pipe(picture(), threshold=0.5)
    assert len(warned) == 1 and "only rank labels" in warned[0]
    monkeypatch.setattr(model.config, "score_calibration", "40 labelled images")
    new_pipe(model, processor)(picture(), threshold=0.5)
    assert len(warned) == 1
