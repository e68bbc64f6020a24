"""What a caption names: ImageNet classes, the WordNet nouns above them and the classes of labelled photographs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modeling_taidpt import CaptionLabeler

# WordNet senses of the COCO classes where the first noun sense is another thing, or the name is not in WordNet.
CLASS_SYNSETS = {
    "banana": "banana.n.02", "bowl": "bowl.n.03", "broccoli": "broccoli.n.02", "cell phone": "cellular_telephone.n.01",
    "cow": "cattle.n.01", "dining table": "dining_table.n.01", "hair drier": "hand_blower.n.01", "boat": "vessel.n.02",
    "handbag": "bag.n.04", "hot dog": "frank.n.02", "keyboard": "computer_keyboard.n.01", "kite": "kite.n.03",
    "microwave": "microwave.n.02", "mouse": "mouse.n.04", "oven": "stove.n.01", "potted plant": "pot.n.04",
    "remote": "remote_control.n.01", "sports ball": "ball.n.01", "stop sign": "street_sign.n.01",
    "tennis racket": "racket.n.04", "tie": "necktie.n.01", "toaster": "toaster.n.02", "toilet": "toilet_seat.n.01",
    "tv": "television_receiver.n.01", "wine glass": "goblet.n.01", "sink": "washbasin.n.02", "book": "book.n.02",
}  # fmt: skip
EXTRA_SYNSETS = {  # ImageNet classes that show the class, or the scene it is seen in, but hang elsewhere in WordNet
    "airplane": ["warplane.n.01", "wing.n.02"], "baseball bat": ["ballplayer.n.01"], "bed": ["studio_couch.n.01"],
    "baseball glove": ["ballplayer.n.01"], "book": ["comic_book.n.01", "bookshop.n.01"], "bottle": ["water_jug.n.01"],
    "cow": ["water_buffalo.n.01"], "cup": ["coffee_mug.n.01", "espresso.n.01"], "donut": ["bagel.n.01"],
    "handbag": ["purse.n.03", "bag.n.04"], "hot dog": ["hotdog.n.02"], "kite": ["parachute.n.01"],
    "laptop": ["notebook.n.02"], "motorcycle": ["motor_scooter.n.01"], "oven": ["rotisserie.n.01", "stove.n.02"],
    "sandwich": ["cheeseburger.n.01"], "snowboard": ["ski.n.01", "alp.n.01"], "spoon": ["ladle.n.01"],
    "train": ["locomotive.n.01", "passenger_car.n.01", "freight_car.n.01"], "elephant": ["tusker.n.01"],
    "tv": ["monitor.n.04", "monitor.n.05", "screen.n.03", "television.n.02", "entertainment_center.n.01"],
    "wine glass": ["red_wine.n.01"],
}  # fmt: skip
AMBIGUOUS_NAMES = {  # nouns that captions mostly use as verbs, or for anything
    "watch", "cover", "fly", "stick", "piece", "bar", "bars", "can", "fan", "part", "feed", "peer", "medium", "drop",
    "location", "system", "material", "cricket", "spot", "plunge", "signal", "structure", "surface", "participant",
}  # fmt: skip
IGNORED_FORMS = ("dressed", "dressing", "shopped", "shopping", "fished", "fishing", "fenced", "fencing")
MAX_ROWS = 160  # a noun above more ImageNet classes than this ("object", "artifact") shows nothing in particular
IMAGENET_SYNSETS = Path(__file__).parent / "imagenet_synsets.txt"  # in classifier order; from timm, Apache-2.0


@dataclass
class Concept:
    """Something that captions name and images show.

    Args:
        name (`str`): its name.
        synonyms (`list[str]`): other names.
        rows (`set[int]`): the ImageNet classes that are it, or a kind of it.
    """

    name: str
    synonyms: list[str] = field(default_factory=list)
    rows: set[int] = field(default_factory=set)


def _compact(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def imagenet_below(wordnet: Any) -> dict[Any, set[int]]:
    """For every noun of WordNet at or above an ImageNet class, the classes at or below it (numbers of rows)."""
    below: dict[Any, set[int]] = {}
    for row, name in enumerate(IMAGENET_SYNSETS.read_text().split()):
        leaf = wordnet.synset_from_pos_and_offset("n", int(name[1:]))
        for synset in {leaf, *leaf.closure(lambda each: each.hypernyms() + each.instance_hypernyms())}:
            below.setdefault(synset, set()).add(row)
    return dict(sorted(below.items(), key=lambda item: item[0].offset()))


def class_synset(name: str, wordnet: Any) -> Any:
    """The WordNet noun of a class of labelled photographs, or None."""
    if name in CLASS_SYNSETS:
        return wordnet.synset(CLASS_SYNSETS[name])
    return next(iter(wordnet.synsets(name.replace(" ", "_"), "n")), None)


def build_concepts(labels: list[str], class_table: list[dict[str, Any]]) -> list[Concept]:
    """Lists all concepts: one per label, then the nouns of WordNet at or above ImageNet classes.

    A noun keeps a name only if it is the first sense of that name in WordNet, and nothing before it has the name.

    Args:
        labels (`list[str]`): the classes of labelled photographs.
        class_table (`list[dict]`): `name` and `synonyms` of each label, in the same order.

    Returns:
        `list[Concept]`: concepts, those of the labels first and in order.
    """
    from nltk.corpus import wordnet

    below, concepts, claimed, used = imagenet_below(wordnet), [], set(AMBIGUOUS_NAMES), set()
    for label, entry in zip(labels, class_table, strict=True):
        synset = class_synset(label, wordnet)
        extra = [wordnet.synset(name) for name in EXTRA_SYNSETS.get(label, [])]
        rows = set().union(*(below.get(each, set()) for each in (synset, *extra)))
        names = list(dict.fromkeys([label, entry["name"], *entry["synonyms"]]))
        concepts.append(Concept(label, names[1:], rows))
        claimed.update(_compact(name) for name in names)
        used.add(synset)
    for synset, rows in below.items():
        if synset in used or len(rows) > MAX_ROWS:
            continue
        first = [lemma for lemma in synset.lemma_names() if wordnet.synsets(lemma, "n")[:1] == [synset]]
        names = [lemma.replace("_", " ").lower() for lemma in first if _compact(lemma) not in claimed]
        if names:
            concepts.append(Concept(names[0], names[1:], rows))
            claimed.update(_compact(name) for name in names)
    return concepts


def find_mentions(captions: list[str], concepts: list[Concept]) -> list[list[int]]:
    """Numbers of the concepts that each caption names, rising."""
    table = [{"name": concept.name, "synonyms": concept.synonyms} for concept in concepts]
    labeler = CaptionLabeler(table, ignored_forms=IGNORED_FORMS)
    mentions: list[list[int]] = []
    for start in range(0, len(captions), 4096):  # a block at a time: the table has a column per concept
        block = labeler(captions[start : start + 4096])  # (captions, concepts)
        mentions.extend(row.nonzero()[0].tolist() for row in block)
    return mentions
