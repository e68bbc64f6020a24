"""Tables of classes: each a name and its synonyms, from Python values, a file, or a published table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .tokens import ENGLISH_WORDS, Words, name_tokens, normalize
from .wordnet import noun_lemmas

ASSETS = Path(__file__).parents[1] / "assets"
MOST_VALUES = 1_000_000  # of a file of classes or of a recipe, repeated parts counted
PRESETS = ("coco80", "voc20", "nuswide81")


class NamedClass(NamedTuple):
    """A class of a table.

    Attributes:
        name (`str`): as it was given.
        synonyms (`tuple[str, ...]`): normalized, without duplicates, the name among them.
        parent (`str`, *optional*): what it is a kind of, "animal" of a dog: a class of the table or another word.
        descriptions (`tuple[str, ...]`): what it looks like, "a small bicycle with training wheels"; captions do not
            look at them.
    """

    name: str
    synonyms: tuple[str, ...]
    parent: str | None = None
    descriptions: tuple[str, ...] = ()


def load_class_table(preset: str) -> list[dict[str, Any]]:
    """Load a published class table.

    Args:
        preset (`str`): `"coco80"`, `"voc20"` or `"nuswide81"`.

    Returns:
        `list[dict]`: One `{"name": str, "synonyms": list[str]}` per class; with `"parent": str` where its publisher
            gives a supercategory.

    Raises:
        ValueError: If there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"Unknown class table {preset!r}: choose one of {', '.join(PRESETS)}.")
    return json.loads((ASSETS / "class_synonyms.json").read_text(encoding="utf-8"))[preset]


def suggest_synonyms(name: str, senses: int = 1) -> list[str]:
    """Suggest synonyms of a class name from WordNet, to be read by a person before they are used.

    Args:
        name (`str`): A class name, as "hot dog".
        senses (`int`, *optional*, defaults to 1): How many senses of the noun to read, most frequent first.

    Returns:
        `list[str]`: Lower-case synonyms in WordNet's order, without the name itself; empty if WordNet has none.

    Raises:
        ValueError: If the name holds no word or `senses` is below 1.
        ImportError: If nltk is not installed.
        LookupError: If NLTK's WordNet is missing.
    """
    if senses < 1:
        raise ValueError(f"senses is {senses}, but at least 1 sense must be read.")
    normalized = normalize(name)
    if not name_tokens(normalized):
        raise ValueError(f"Class name {name!r} holds no word to look up.")
    found = (normalize(lemma) for lemma in noun_lemmas(normalized, senses))
    return [lemma for lemma in dict.fromkeys(found) if lemma != normalized]


def read_classes(classes: Any, words: Words = ENGLISH_WORDS) -> list[NamedClass]:
    """Check a class table in any of its forms; see `CaptionLabeler` for what it accepts and raises.

    Args:
        classes (`Sequence` or `Mapping`): the table.
        words ([`Words`], *optional*): how its language is split; English by default.
    """
    if isinstance(classes, str):
        raise TypeError(f"The classes are one string, {classes!r}: give a list of names, as [{classes!r}].")
    if not isinstance(classes, Iterable):
        raise TypeError(f"The classes are {classes!r}: give a list of names, or a mapping from name to synonyms.")
    if isinstance(classes, Mapping):
        classes = [{"name": name, "synonyms": synonyms} for name, synonyms in classes.items()]
    table = [_read_class(index, entry, words) for index, entry in enumerate(classes)]
    if not table:
        raise ValueError("The list of classes is empty: give at least one class name.")
    names: dict[str, int] = {}
    owner: dict[tuple[bytes, ...], str] = {}
    for index, entry in enumerate(table):
        first = names.setdefault(words.normalize(entry.name), index)
        if first != index:
            raise ValueError(f"Class name {entry.name!r} is duplicated, at {first} and at {index}: keep one.")
    for entry in table:
        for synonym in entry.synonyms:
            other = owner.setdefault(words.name_tokens(synonym), entry.name)
            if other != entry.name:
                raise ValueError(
                    f"Synonym {synonym!r} is claimed by two classes, {other!r} and {entry.name!r}: keep it in one."
                )
    return table


def _read_class(index: int, entry: Any, words: Words) -> NamedClass:
    """Read one class: a name or a mapping with a name and, optionally, synonyms and a parent."""
    if isinstance(entry, Mapping):
        unknown = [key for key in entry if key not in ("name", "synonyms", "parent", "descriptions")]
        if unknown or "name" not in entry:
            raise TypeError(
                f"Class {index} is {dict(entry)!r}, but its keys must be 'name', 'synonyms' and 'parent', or "
                "'descriptions'."
            )
        name, synonyms, parent = entry["name"], entry.get("synonyms"), entry.get("parent")
        descriptions = entry.get("descriptions")
    else:
        name, synonyms, parent, descriptions = entry, None, None, None
    if not isinstance(name, str):
        raise TypeError(f"The name of class {index} is {name!r}, but it must be a string (in YAML, put it in quotes).")
    if parent is not None and (not isinstance(parent, str) or not parent.strip()):
        raise TypeError(f"The parent of class {name!r} is {parent!r}, but it must be a word, as 'animal'.")
    synonyms = [] if synonyms is None else synonyms
    if isinstance(synonyms, (str, Mapping)) or not isinstance(synonyms, Iterable):
        raise TypeError(f"The synonyms of class {name!r} are {synonyms!r}, but they must be a list of strings.")
    texts = []
    for synonym in (name, *synonyms):
        if not isinstance(synonym, str):
            raise TypeError(f"Synonym {synonym!r} of class {name!r} is not a string (in YAML, put it in quotes).")
        if not words.name_tokens(synonym):
            raise ValueError(f"A synonym of class {name!r} is empty: {synonym!r} holds no word.")
        texts.append(words.normalize(synonym))
    described: tuple[str, ...] = ()
    if descriptions is not None:
        from ..class_descriptions import check_descriptions  # here, as the labeler works without the models

        described = tuple(check_descriptions(name, descriptions))
    return NamedClass(name, tuple(dict.fromkeys(texts)), parent, described)


def read_table_file(path: Path) -> Any:
    """Read a JSON or YAML file; raises the errors of `CaptionLabeler.from_file`."""
    if path.suffix.lower() not in (".json", ".yaml", ".yml"):
        raise ValueError(f"Class table {str(path)!r} must end in .json, .yaml or .yml.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no class table {str(path)!r}: check the path.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"Class table {str(path)!r} is not UTF-8 text: {error}.") from error
    if path.suffix.lower() == ".json":
        try:
            table = json.loads(text, object_pairs_hook=lambda pairs: _require_unique(path, pairs))
        except json.JSONDecodeError as error:
            raise ValueError(f"Class table {str(path)!r} is not valid JSON: {error}.") from error
        except RecursionError as error:
            raise ValueError(f"Class table {str(path)!r} is nested too deep.") from error
    else:
        table = _read_yaml(path, text)
    if not isinstance(table, list | dict):
        raise ValueError(f"Class table {str(path)!r} must hold a list of classes or a mapping from name to synonyms.")
    return table


def require_extent(value: Any) -> Any:
    """A value as it was read, or a `ValueError` where it unfolds to more than a file of that kind can hold.

    YAML may name a part and repeat it: some lines stand for any number of values, which a message would write out.
    """
    count, waiting = 0, [value]
    while waiting:
        count, part = count + 1, waiting.pop()
        if count > MOST_VALUES:
            raise ValueError(f"The YAML text unfolds to more than {MOST_VALUES:,} values: write them out.")
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return value


def _require_unique(path: Path, pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping, or a `ValueError` where a key is in it twice: all but the last value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        again = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise ValueError(f"Class table {str(path)!r} has {again!r} twice: write all its synonyms in one list.")
    return found


def _read_yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"Reading {str(path)!r} needs PyYAML: run `pip install pyyaml`, or use JSON.") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(root, yaml.MappingNode):
            _require_unique(path, [(key.value, value) for key, value in root.value if isinstance(key.value, str)])
        return require_extent(yaml.safe_load(text))
    except RecursionError as error:
        raise ValueError(f"Class table {str(path)!r} is nested too deep.") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"Class table {str(path)!r} is not valid YAML: {reason}.") from error


__all__ = [
    "PRESETS",
    "NamedClass",
    "load_class_table",
    "read_classes",
    "read_table_file",
    "require_extent",
    "suggest_synonyms",
]
