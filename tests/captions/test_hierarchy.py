"""What labels are kinds of: the table's parents, the published ones, WordNet's."""

from __future__ import annotations

import pytest

from modeling_taidpt.captions import CaptionLabeler
from modeling_taidpt.captions.hierarchy import LabelHierarchy


def test_parents_of_a_table(tmp_path, no_nltk_data):
    table = tmp_path / "pets.yaml"
    table.write_text(
        "- {name: poodle, parent: dog}\n- {name: dog, parent: animal}\n- {name: cat, parent: house}\n- sky\n"
    )
    parents = CaptionLabeler.from_file(table).parents
    assert parents == {"poodle": "dog", "dog": "animal", "cat": "house"}
    hierarchy = LabelHierarchy(parents)
    assert hierarchy.path("poodle") == ("animal", "dog", "poodle")
    assert hierarchy.path("Cat") == ("house", "Cat")  # and not "animal", as in COCO
    assert hierarchy.path("sky") == ("sky",)
    assert LabelHierarchy({"a": "b", "b": "a"}).path("a") == ("b", "a")


@pytest.mark.parametrize(
    ("label", "path"),
    [
        ("dog", "animal|dog"),
        ("motorcycle", "vehicle|motorcycle"),
        ("motor bike", "vehicle|motor bike"),
        ("hair drier", "indoor|hair drier"),
        ("toothbrush", "indoor|toothbrush"),
        ("person", "person"),
    ],
)
def test_parents_of_the_published_tables_need_nothing(no_nltk_data, label, path):
    assert "|".join(LabelHierarchy().path(label)) == path


@pytest.mark.parametrize(
    ("label", "path"),
    [
        ("sparrow", "animal|bird|sparrow"),
        ("butterfly", "animal|insect|butterfly"),
        ("strawberry", "food|fruit|strawberry"),
        ("guitar", "musical instrument|guitar"),
        ("beach", "landscape|beach"),
        ("teacher", "person|teacher"),
        ("animal", "animal"),
        ("zzyzx", "zzyzx"),
    ],
)
def test_wordnet_where_it_is(nltk_data, label, path):
    assert "|".join(LabelHierarchy().path(label)) == path
