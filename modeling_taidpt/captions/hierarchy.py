"""What labels are kinds of, for hierarchical keywords: `animal|dog`.

The parents of a class table come first, then those of the published tables (COCO's and VOC's supercategories), then
WordNet where NLTK has it. WordNet's own ways up are too long for an album (`organism|animal|chordate|...`): of them
those are kept that people name albums by.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..languages import ENGLISH, read_language
from .class_tables import PRESETS, load_class_table
from .labels import compact_name
from .tokens import normalize
from .wordnet import noun_ancestors

# WordNet's synsets that are albums, by the word for them.
ALBUMS = {
    "person.n.01": "person",
    "animal.n.01": "animal",
    "bird.n.01": "bird",
    "fish.n.01": "fish",
    "insect.n.01": "insect",
    "reptile.n.01": "reptile",
    "dog.n.01": "dog",
    "plant.n.02": "plant",
    "tree.n.01": "tree",
    "flower.n.01": "flower",
    "fungus.n.01": "fungus",
    "food.n.01": "food",
    "food.n.02": "food",
    "edible_fruit.n.01": "fruit",
    "vegetable.n.01": "vegetable",
    "dish.n.02": "dish",
    "beverage.n.01": "drink",
    "vehicle.n.01": "vehicle",
    "public_transport.n.01": "vehicle",
    "aircraft.n.01": "aircraft",
    "vessel.n.02": "ship",
    "furniture.n.01": "furniture",
    "clothing.n.01": "clothing",
    "footwear.n.02": "footwear",
    "jewelry.n.01": "jewelry",
    "musical_instrument.n.01": "musical instrument",
    "weapon.n.01": "weapon",
    "tool.n.01": "tool",
    "plaything.n.01": "toy",
    "home_appliance.n.01": "appliance",
    "computer.n.01": "computer",
    "game_equipment.n.01": "sports equipment",
    "sports_equipment.n.01": "sports equipment",
    "container.n.01": "container",
    "building.n.01": "building",
    "room.n.01": "room",
    "road.n.01": "road",
    "sport.n.01": "sport",
    "social_event.n.01": "event",
    "weather.n.01": "weather",
    "body_of_water.n.01": "water",
    "geological_formation.n.01": "landscape",
}
LONGEST_PATH = 10  # parents of parents that are followed


class LabelHierarchy:
    """Finds what labels are kinds of.

    Args:
        parents (`Mapping[str, str]`, *optional*): parents by label, as [`CaptionLabeler`] has them of its table.
        language (`str`, *optional*, defaults to `"en"`): code of the labels' language; the published tables and
            WordNet are English, labels of another one have the parents of `parents` alone.

    Example:
        >>> LabelHierarchy({"poodle": "dog", "dog": "animal"}).path("poodle")
        ('animal', 'dog', 'poodle')
    """

    def __init__(self, parents: Mapping[str, str] | None = None, language: str = ENGLISH) -> None:
        self._own = {normalize(label): parent for label, parent in (parents or {}).items()}
        is_english = read_language(language) == ENGLISH
        self._published = _published_parents() if is_english else {}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._wordnet = is_english

    def path(self, label: str) -> tuple[str, ...]:
        """What a label is a kind of, from the top down.

        Args:
            label (`str`): the label.

        Returns:
            `tuple[str, ...]`: it ends with the label; nothing else is in it where no parent is known.
        """
        if label not in self._paths:
            above = self._from_table(label) or self._published.get(compact_name(label)) or self._from_wordnet(label)
            self._paths[label] = (*above, label)
        return self._paths[label]

    def _from_table(self, label: str) -> list[str]:
        seen: set[str] = {normalize(label)}
        above: list[str] = []
        parent = self._own.get(normalize(label))
        while parent is not None and normalize(parent) not in seen and len(above) < LONGEST_PATH:
            seen.add(normalize(parent))
            above.insert(0, parent.strip())
            parent = self._own.get(normalize(parent))
        return above

    def _from_wordnet(self, label: str) -> list[str]:
        if not self._wordnet:
            return []
        try:
            ways = noun_ancestors(normalize(label))
        except (ImportError, LookupError):  # not on this machine: labels without a parent are keywords all the same
            self._wordnet = False
            return []
        albums = [list(dict.fromkeys(ALBUMS[name] for name in way if name in ALBUMS)) for way in ways]
        return [album for album in max(albums, key=len, default=[]) if album != normalize(label)]


def _published_parents() -> dict[str, list[str]]:
    """Parents of the published tables by name and synonym, without spaces; names count before synonyms."""
    tables = [entry for preset in PRESETS for entry in load_class_table(preset) if "parent" in entry]
    synonyms = {compact_name(word): [entry["parent"]] for entry in reversed(tables) for word in entry["synonyms"]}
    return synonyms | {compact_name(entry["name"]): [entry["parent"]] for entry in reversed(tables)}


__all__ = ["LabelHierarchy"]
