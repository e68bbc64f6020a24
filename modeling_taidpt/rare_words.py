"""Which words of a label a small base has hardly seen, from the word counts that ship beside it."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping, Sequence

from .configuration_checks import check_word_counts, one_line
from .languages import UNSPACED
from .origins import Origin

# A letter of a script without spaces is a word: nobody knows where its words end.
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+(?:'[^\W_{UNSPACED}]+)?")
MINIMUM_COUNT = 20
MAX_BYTES = 64_000_000  # of word counts, unpacked


def count_words(texts: Sequence[str], counts: dict[str, int] | None = None) -> dict[str, int]:
    """Counts the lower-cased words of texts; in scripts without spaces, their letters.

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


def load_word_counts(sources: Sequence[Origin], file_name: str | None) -> Mapping[str, int] | None:
    """Reads word counts (gzipped JSON, word to count) beside the first source that has them.

    Args:
        sources (`Sequence[Origin]`): folders or repositories, tried in order.
        file_name (`str`, *optional*): bare name of the file; without one there are no counts.

    Returns:
        `Mapping[str, int]` or `None` where no source has the file.

    Raises:
        ValueError: the file is damaged, is something else, or unpacks to more than 64 MB.
    """
    path = find_word_counts(sources, file_name)
    if path is None:
        return None
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_BYTES + 1)  # some kB of zeros, packed, may be gigabytes
        counts = json.loads(content) if len(content) <= MAX_BYTES else None
    except (OSError, EOFError, ValueError, zlib.error, RecursionError) as error:
        raise ValueError(
            f"The word counts {path!r} cannot be read ({one_line(error)}): save the model again."
        ) from error
    if not isinstance(counts, dict) or not all(type(count) is int for count in counts.values()):
        raise ValueError(
            f"The word counts {path!r} are not a table of words and whole numbers of at most {MAX_BYTES:,} bytes: "
            "save the model again."
        )
    return counts


def find_word_counts(sources: Sequence[Origin], file_name: str | None) -> str | None:
    """Path of the word counts beside the first source that has them; arguments as of [`load_word_counts`]."""
    check_word_counts(file_name)
    found = (source.find(file_name) for source in sources) if file_name else ()
    return next((path for path in found if path is not None), None)


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
