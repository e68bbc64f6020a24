"""Descriptions of labels, "a small bicycle with training wheels": checked, gathered, and put into templates.

Source: descriptions in place of bare names in prompts, averaged: Menon and Vondrick, "Visual Classification via
Description from Large Language Models" (ICLR 2023, arXiv 2210.07183); Pratt et al., "What does a platypus look like?"
(ICCV 2023, arXiv 2209.03320). Nothing here writes texts: a person, a file or any generator of texts does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

LONGEST_DESCRIPTION = 400  # characters; the text tower's positions end before
DESCRIPTIONS = "descriptions"  # key of `config.templates`
ARTICLE = re.compile(r"(?:a|an|the) +", re.IGNORECASE)
ARTICLE_BEFORE_NAME = re.compile(r"\b(?:a|an|the) +\{\}", re.IGNORECASE)

DescriptionSource = Mapping[str, Iterable[str]] | Callable[[str], Iterable[str]] | str | Path


def check_descriptions(label: str, descriptions: Any) -> list[str]:
    """The descriptions of a label, without surrounding blanks, each once.

    Args:
        label (`str`): whose they are, for the message.
        descriptions (`Iterable[str]`): phrases or sentences.

    Returns:
        `list[str]`: at least one.

    Raises:
        ValueError: they are no list, an empty one, or one of them is no text, empty or too long.
    """
    if isinstance(descriptions, (str, bytes, Mapping)) or not isinstance(descriptions, Iterable):
        raise ValueError(f"The descriptions of {label!r} are {_short(descriptions)}: give a list of texts.")
    found = list(descriptions)
    if not found:
        raise ValueError(f"The list of descriptions of {label!r} is empty: give at least one, or leave the label out.")
    for text in found:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"A description of {label!r} is {_short(text)}: give a text.")
        if len(text) > LONGEST_DESCRIPTION:
            raise ValueError(
                f"A description of {label!r} has {len(text)} characters ({_short(text)}): give at most "
                f"{LONGEST_DESCRIPTION}."
            )
    return list(dict.fromkeys(" ".join(text.split()) for text in found))


def gather_descriptions(source: DescriptionSource, labels: Sequence[str]) -> dict[str, list[str]]:
    """Descriptions of labels from wherever they come.

    Args:
        source (`Mapping`, `Callable`, `str` or `Path`): a mapping from label to its descriptions, also as a JSON file;
            or a callable that is given a label and returns its descriptions, which any generator of texts can be.
            Labels that a mapping leaves out, or for which a callable returns nothing, have none.
        labels (`Sequence[str]`): the labels of the model.

    Returns:
        `dict[str, list[str]]`: in the order of the labels, those that have descriptions.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON of such a mapping, names other labels, or as [`check_descriptions`].
    """
    if isinstance(source, (str, Path)):
        source = _read_file(Path(source))
    if isinstance(source, Mapping):
        unknown = [label for label in source if label not in labels]
        if unknown:
            raise ValueError(f"There are descriptions of {_short(unknown[0])}, which is not one of the labels.")
        pairs = [(label, source[label]) for label in labels if label in source]
    elif callable(source):
        made = ((label, source(label)) for label in labels)
        pairs = [(label, texts) for label, texts in made if texts is not None and texts != []]
    else:
        raise ValueError(f"`descriptions` is {_short(source)}: give a mapping, a callable or a JSON file.")
    return {label: check_descriptions(label, texts) for label, texts in pairs}


def _read_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of descriptions {str(path)!r}: check the path.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The file of descriptions {str(path)!r} is not JSON: {error}.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"The file of descriptions {str(path)!r} must hold a mapping from label to a list of texts.")
    return content


def stored_descriptions(config: Any) -> dict[str, list[str]]:
    """The descriptions that a model's configuration holds, by label."""
    templates = config.templates
    return dict(templates.get(DESCRIPTIONS) or {}) if isinstance(templates, Mapping) else {}


def with_descriptions(templates: Any, descriptions: Mapping[str, list[str]]) -> Any:
    """The field `templates` of a configuration with other descriptions, or without any."""
    if isinstance(templates, Mapping):
        parts = {name: texts for name, texts in templates.items() if name != DESCRIPTIONS}
    else:
        parts = {} if templates is None else {"global": list(templates), "local": list(templates)}
    if descriptions:
        return parts | {DESCRIPTIONS: {label: list(texts) for label, texts in descriptions.items()}}
    return templates if not isinstance(templates, Mapping) or len(parts) == len(templates) else (parts or None)


def fill_template(template: str, phrase: str) -> str:
    """A template with a name or description in place of `{}`, and one article where both bring one."""
    if ARTICLE_BEFORE_NAME.search(template):
        phrase = ARTICLE.sub("", phrase, count=1) if ARTICLE.match(phrase) else phrase
    return template.replace("{}", phrase)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


__all__ = [
    "DescriptionSource",
    "check_descriptions",
    "fill_template",
    "gather_descriptions",
    "stored_descriptions",
    "with_descriptions",
]
