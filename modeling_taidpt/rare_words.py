"""Which words of a label a small base has hardly seen, from the word counts that ship beside it."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence

from .hub import find_optional_file

WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
MINIMUM_COUNT = 20


def count_words(texts: Sequence[str], counts: dict[str, int] | None = None) -> dict[str, int]:
    """Counts the lower-cased words of texts.

    Args:
        texts (`Sequence[str]`): any texts.
        counts (`dict[str, int]`, *optional*): counts to add to.

    Returns:
        `dict[str, int]`: occurrences of each word.
    """
    counts = {} if counts is None else counts
    for text in texts:
        for word in WORD.findall(text.lower()):
            counts[word] = counts.get(word, 0) + 1
    return counts


def load_word_counts(sources: Sequence[str | None], file_name: str | None) -> Mapping[str, int] | None:
    """Reads word counts (gzipped JSON, word to count) beside the first source that has them.

    Args:
        sources (`Sequence[str | None]`): folders or repositories, tried in order.
        file_name (`str`, *optional*): name of the file; without one there are no counts.

    Returns:
        `Mapping[str, int]` or `None` where no source has the file.
    """
    path = find_word_counts(sources, file_name)
    if path is None:
        return None
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


def find_word_counts(sources: Sequence[str | None], file_name: str | None) -> str | None:
    """Path of the word counts beside the first source that has them; arguments as of [`load_word_counts`]."""
    for source in filter(None, sources if file_name else ()):
        path = find_optional_file(source, str(file_name))
        if path is not None:
            return path
    return None


def find_rare_words(
    labels: Sequence[str], counts: Mapping[str, int], minimum: int = MINIMUM_COUNT
) -> dict[str, list[str]]:
    """Words of each label that were counted fewer than `minimum` times.

    Args:
        labels (`Sequence[str]`): labels or class names.
        counts (`Mapping[str, int]`): occurrences of each lower-cased word.
        minimum (`int`, *optional*, defaults to 20): occurrences from which a word counts as known.

    Returns:
        `dict[str, list[str]]`: the labels that have such words, with the words.
    """
    rare = {label: [w for w in WORD.findall(label.lower()) if counts.get(w, 0) < minimum] for label in labels}
    return {label: words for label, words in rare.items() if words}


__all__ = ["count_words", "find_rare_words", "find_word_counts", "load_word_counts"]
