"""Synthetic captions: what they mention, who writes them, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from modeling_taidpt import TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments, make_captions
from modeling_taidpt.captions.labeler import CaptionLabeler

from ..conftest import make_clip

LABELS = ["dog", "cat", "car"]


def test_synthetic_captions_name_what_they_were_asked_for():
    labels = ["dog", "hot_dog", "orange", "traffic light"]
    data = make_captions(labels, 200, seed=4)
    assert data.column_names == ["caption", "labels"]
    found = CaptionLabeler([label.replace("_", " ") for label in labels])(data["caption"])
    for row, names in zip(found, data["labels"], strict=True):
        assert {labels[column] for column in np.flatnonzero(row)} == set(names)
    firsts = found.sum(axis=0)
    assert firsts.min() >= 50
    assert {len(names) for names in data["labels"]} == {1, 2, 3, 4}
    assert data["caption"] == make_captions(labels, 200, seed=4)["caption"]
    assert data["caption"] != make_captions(labels, 200, seed=5)["caption"]


def test_synthetic_captions_follow_the_cooccurrence():
    data = make_captions(["fork", "knife", "car"], 90, cooccurrence={"fork": {"knife": 1}, "knife": {"fork": 2}})
    sets = {frozenset(names) for names in data["labels"]}
    assert sets == {frozenset(["fork"]), frozenset(["knife"]), frozenset(["fork", "knife"]), frozenset(["car"])}
    assert all("car" not in text or "fork" not in text for text in data["caption"])


def test_a_text_generator_writes_the_captions():
    asked = []

    def generate(sets):
        asked.extend(sets)
        return [f"  Here is  {' plus '.join(names)}. " for names in sets]

    data = make_captions(["dog", "hot_dog"], 70, text_generator=generate)
    assert len(asked) == 70
    assert set(data["caption"]) == {f"Here is {' plus '.join(names)}." for names in asked}
    for wrong, words in ((lambda sets: ["x"], "gave 1 texts for 32"), (lambda sets: [None] * len(sets), "not a text")):
        with pytest.raises(ValueError, match=words):
            make_captions(["dog", "hot_dog"], 70, text_generator=wrong)


def test_synthetic_captions_are_a_training_set(tmp_path, tokenizer):
    model = TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=2)
    args = TaiDptTrainingArguments(
        str(tmp_path / "made"), max_steps=1, per_device_train_batch_size=8, use_cpu=True, report_to="none"
    )
    trainer = TaiDptTrainer(model, args, train_dataset=make_captions(LABELS, 60))
    assert trainer.train().global_step == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["dog"], 0), "at least 1"),
        (([], 5), "label"),
        ((["dog", "cat"], 5, 0, np.ones((3, 3))), "2 rows of 2 numbers"),
        ((["dog", "cat"], 5, 0, {"dog": {"cow": 1}}), "'cow', which is none of the 2 labels"),
    ],
)
def test_bad_arguments_of_synthetic_captions(arguments, words):
    with pytest.raises(ValueError, match=words):
        make_captions(*arguments)
