"""Which classes a caption names.

Source: TaI-DPT (arXiv 2211.12739), section 3.1 (nouns of the captions filtered by the synonyms of each class) and the
published code's caption data sets, whose matching order depends on the hash seed; here it is fixed: compounds before
single words, longest first, then from left to right, and matched text is consumed.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..languages import ENGLISH, is_unspaced, read_language
from . import wordnet as wordnet_captions
from .class_tables import NamedClass, load_class_table, read_classes, read_table_file
from .corpus import read_captions
from .other_languages import words_of
from .tokens import SEPARATOR, Words, name_tokens
from .word_forms import irregular_plurals, noun_forms, verb_forms

logger = logging.getLogger(__name__)

METHODS = ("forms", "wordnet")

# "men" is a noun of its own to WordNet (a work force), so the published labels never count it as "man".
PUBLISHED_IGNORED_FORMS = ("men",)

CHUNK_SIZE = 1024  # captions matched at once: bounds memory, and the work per chunk hides the cost of numpy calls
MAX_INFLECTED_WORDS = 4  # names of more words are matched with their last word inflected only

_UNKNOWN = 0  # word id of a token that no class mentions, punctuation included
_END = 1  # word id of the separator between captions
_NO_CLASS = -1  # column of what is consumed and counts for no class
_COMPLETE = -1  # key in the trie of compounds where one is complete; no word has this id


class CaptionLabeler:
    r"""Finds the classes that captions name, as a multi-hot matrix.

    A class is present when one of its synonyms is in the caption, in any case, singular or plural. Compounds are
    matched before single words, longer ones first, and matched text is consumed: "hot dog" is no dog. A compound is
    also matched when it is written as one word ("hotdog"). Words end at spaces and punctuation; a hyphen joins
    ("man-made" names no man).

    Other languages are matched in the forms that are given, nothing is inflected; in scripts without spaces inside of
    text ("一只黑狗" names 狗), longer ones first, consumed ("热狗" is no 狗). `other_languages.py` says what is taken
    as equal.

    Args:
        classes (`Sequence[str]`, `Sequence[Mapping]` or `Mapping[str, Sequence[str]]`):
            The classes in the order of the columns: names, or `{"name": ..., "synonyms": [...]}`, or a mapping from
            name to synonyms. The name is always one of its own synonyms. An entry may have a `"parent"`, what the
            class is a kind of; captions do not look at it, hierarchical keywords do; and `"descriptions"`, a list of
            what it looks like, for prompts.
        method (`str`, *optional*, defaults to `"forms"`):
            `"forms"`: the inflected forms of all synonyms are written out once and looked up in the text; fast,
            nothing to download. `"wordnet"`: the published procedure, NLTK's tokenizer, tagger and WordNet
            lemmatiser; needs `nltk` and its data.
        ignored_forms (`Iterable[str]`, *optional*, defaults to `()`):
            Inflected forms that count for no class. A synonym given literally always counts. In other languages than
            English they are words that hold a synonym and mean another thing: `("马路",)`, a road, beside 马, a horse.
        language (`str`, *optional*, defaults to `"en"`):
            Code of the language of captions and classes, as `"de"` or `"zh"`.

    Attributes:
        class_names (`list[str]`): Names of the classes, as given.
        method (`str`): The method.
        language (`str`): Code of the language.

    Raises:
        ValueError: If there is no class, a class name is duplicated, a synonym is empty or claimed by two classes,
            or the method or the language is unknown, or `"wordnet"` is asked for another language than English.
        TypeError: If a class is neither a name nor a mapping with a name, or a synonym is not a string.

    Example:
        >>> from modeling_taidpt.captions import CaptionLabeler
        >>> labeler = CaptionLabeler({"dog": ["puppy"], "hot dog": []})
        >>> labeler(["Two puppies share a hot dog.", "An empty street."])
        array([[1, 1],
               [0, 0]], dtype=uint8)
        >>> CaptionLabeler(["狗", "热狗"], language="zh")(["公园里有一只黑狗。", "桌上有热狗"])
        array([[1, 0],
               [0, 1]], dtype=uint8)
    """

    def __init__(
        self,
        classes: Sequence[str | Mapping[str, Any]] | Mapping[str, Sequence[str]],
        method: str = "forms",
        ignored_forms: Iterable[str] = (),
        language: str = ENGLISH,
    ) -> None:
        """Check the class table and write out what is looked up."""
        if method not in METHODS:
            raise ValueError(f"Unknown labelling method {method!r}: choose one of {', '.join(METHODS)}.")
        self.method, self.language = method, read_language(language)
        if method == "wordnet" and self.language != ENGLISH:
            raise ValueError(f"WordNet is English and the language is {self.language!r}: use method='forms'.")
        self.ignored_forms = tuple(ignored_forms)
        self._language_words = words_of(self.language)
        self._classes = read_classes(classes, self._language_words)
        words = [word for entry in self._classes for word in entry.synonyms if is_unspaced(word)]
        self._missed = words[0] if words and self.language == ENGLISH else None
        self.class_names = [entry.name for entry in self._classes]
        if self.language != ENGLISH:
            ranked = _expand_given(self._classes, self.ignored_forms, self._language_words)
        elif method == "forms":
            ranked = _expand_forms(self._classes, frozenset(self.ignored_forms))
        else:
            wordnet_captions.require_nltk()
            ranked = _expand_lemmas(self._classes, frozenset(self.ignored_forms))
        self._index_forms(ranked)

    @classmethod
    def from_preset(cls, preset: str, method: str = "forms", **kwargs: Any) -> CaptionLabeler:
        """Build the labeler of a published class table.

        Args:
            preset (`str`): `"coco80"`, `"voc20"` or `"nuswide81"`.
            method (`str`, *optional*, defaults to `"forms"`): `"forms"` or `"wordnet"`.
            **kwargs: Arguments of the constructor. `ignored_forms` is `("men",)` here, as in the published labels,
                where WordNet keeps "men" apart from "man"; give `ignored_forms=()` to count men as persons.

        Returns:
            `CaptionLabeler`: The labeler, its columns in the order of the table.

        Raises:
            ValueError: If the preset or the method is unknown, or another language than English is asked for.
        """
        if read_language(kwargs.get("language", ENGLISH)) != ENGLISH:
            raise ValueError(f"The class table {preset!r} is English: give a table with your words for its classes.")
        kwargs.setdefault("ignored_forms", PUBLISHED_IGNORED_FORMS)
        return cls(load_class_table(preset), method=method, **kwargs)

    @classmethod
    def from_file(cls, path: str | Path, method: str = "forms", **kwargs: Any) -> CaptionLabeler:
        """Build the labeler of a class table in a JSON or YAML file.

        Args:
            path (`str` or `Path`): File ending in .json, .yaml or .yml that holds a list of names, a list of
                `{"name": ..., "synonyms": [...]}` or a mapping from name to synonyms. UTF-8.
            method (`str`, *optional*, defaults to `"forms"`): `"forms"` or `"wordnet"`.
            **kwargs: Arguments of the constructor.

        Returns:
            `CaptionLabeler`: The labeler.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a class table; the message names the file and the entry.
            ImportError: If a YAML file is given and PyYAML is not installed.
        """
        table = read_table_file(Path(path))
        try:
            return cls(table, method=method, **kwargs)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Class table {str(path)!r}: {error}") from error

    @property
    def labels(self) -> list[str]:
        """Names of the classes in the order of the columns, a copy."""
        return list(self.class_names)

    @property
    def synonyms(self) -> list[list[str]]:
        """What is looked for in captions for each class, lower-case, the name among them; a copy."""
        return [list(entry.synonyms) for entry in self._classes]

    @property
    def parents(self) -> dict[str, str]:
        """What the classes are kinds of, by name, as the table says; those without a parent are left out."""
        return {entry.name: entry.parent for entry in self._classes if entry.parent is not None}

    @property
    def descriptions(self) -> dict[str, list[str]]:
        """What the classes look like, by name, as the table says; those without descriptions are left out."""
        return {entry.name: list(entry.descriptions) for entry in self._classes if entry.descriptions}

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    def __repr__(self) -> str:
        """Return the method, the number of classes, and the language if it is not English."""
        language = "" if self.language == ENGLISH else f", language={self.language!r}"
        return f"{type(self).__name__}({len(self)} classes, method={self.method!r}{language})"

    def __call__(self, captions: Any) -> np.ndarray:
        """Label captions.

        Args:
            captions (`list[str]`, `str` or what [`read_captions`] reads): The captions; a single string is a batch of
                one, not a file.

        Returns:
            `np.ndarray` of shape `(captions, classes)`: uint8, 1 where the caption names the class.

        Raises:
            TypeError: If the captions are no list, or a caption is not a string; the message gives its index.
            LookupError: If the method is `"wordnet"` and NLTK's data is missing.
        """
        if isinstance(captions, str):
            captions = [captions]
        elif not isinstance(captions, list) or (captions and isinstance(captions[0], Mapping)):
            captions = read_captions(captions).captions
        if self._missed is not None:
            logger.warning(
                f"{self._missed!r} is written without spaces, and captions are labelled as English: name their "
                "language, as language='zh'."
            )
            self._missed = None  # said once
        multi_hot = np.zeros((len(captions), len(self)), dtype=np.uint8)  # (captions, classes)
        for start in range(0, len(captions), CHUNK_SIZE):
            chunk = captions[start : start + CHUNK_SIZE]
            try:
                tokens = self._tokenize(chunk)
            except (TypeError, AttributeError) as error:
                _check_captions(captions, error)
            rows, columns = self._match(tokens)
            multi_hot[rows + start, columns] = 1
        return multi_hot

    def map(
        self,
        dataset: Any,
        caption_column: str = "caption",
        label_column: str = "labels",
        num_proc: int | None = None,
        drop_unlabelled: bool = False,
    ) -> Any:
        """Add a column of multi-hot labels to a data set.

        Args:
            dataset (`datasets.Dataset`, `datasets.IterableDataset` or a dict of them): Data with a caption column.
            caption_column (`str`, *optional*, defaults to `"caption"`): The column to read.
            label_column (`str`, *optional*, defaults to `"labels"`): The column to write, one list of 0 and 1
                `(classes,)` per row.
            num_proc (`int`, *optional*): Processes to label with; one by default. Not for streams.
            drop_unlabelled (`bool`, *optional*, defaults to `False`): Whether to leave out captions without a class,
                as the paper does.

        Returns:
            The data set with the new column.

        Raises:
            ValueError: If the caption column is missing.
        """
        columns = dataset.column_names or []
        columns = set().union(*columns.values()) if isinstance(columns, dict) else set(columns)
        if columns and caption_column not in columns:
            present = ", ".join(sorted(columns))
            raise ValueError(f"The data set has no column {caption_column!r} to label: it has {present}.")
        options: dict[str, Any] = {"batched": True, "batch_size": CHUNK_SIZE}
        if num_proc is not None:
            options["num_proc"] = num_proc
        dataset = dataset.map(_LabelColumn(self, label_column), input_columns=[caption_column], **options)
        if drop_unlabelled:
            dataset = dataset.filter(_any_label, input_columns=[label_column], **options)
        return dataset

    def _tokenize(self, captions: list[str]) -> list[bytes]:
        """Split captions into tokens (bytes), a separator token after each caption."""
        if self.method == "wordnet":
            return wordnet_captions.lemma_tokens(captions, SEPARATOR)
        return self._language_words.split(captions)

    def _index_forms(self, ranked: Iterable[tuple[int, int, tuple[bytes, ...]]]) -> None:
        """Build the lookup tables from (rank, class, tokens): a word table, the single words and a trie of compounds.

        What belongs to no class, `_NO_CLASS`, is only consumed. The lowest rank wins where several classes have a
        form, then the first class.
        """
        claimed: dict[tuple[bytes, ...], int] = {}
        for _, column, tokens in sorted(ranked, key=lambda form: form[:2]):
            claimed.setdefault(tokens, column)
        words: dict[bytes, int] = {SEPARATOR.encode(): _END}
        for tokens in claimed:
            for token in tokens:
                words.setdefault(token, len(words) + 1)
        single = np.full(len(words) + 1, _NO_CLASS, dtype=np.int64)  # (words,) class of a word, -1 for none
        begins = np.zeros(len(words) + 1, dtype=bool)  # (words,) whether a compound begins with the word
        trie: dict[int, Any] = {}  # word id -> the rest of the compounds; _COMPLETE -> class
        for tokens, column in claimed.items():
            ids = [words[token] for token in tokens]
            if len(ids) == 1:
                single[ids[0]] = column
                continue
            begins[ids[0]] = True
            node = trie
            for word_id in ids:
                node = node.setdefault(word_id, {})
            node[_COMPLETE] = column
        self._words, self._single, self._begins, self._trie = words, single, begins, trie

    def _match(self, tokens: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (captions) and columns (classes) of the matches, each `(matches,)`."""
        lookup = map(self._words.get, tokens, itertools.repeat(_UNKNOWN))
        ids = np.fromiter(lookup, dtype=np.int64, count=len(tokens))  # (tokens,)
        ends = np.flatnonzero(ids == _END)  # (captions,)
        starts = np.flatnonzero(self._begins[ids])  # (candidates,)
        where, found = self._match_compounds(ids, starts) if len(starts) else ([], [])
        classes = self._single[ids]  # (tokens,), consumed tokens are unknown by now
        singles = np.flatnonzero(classes >= 0)
        positions = np.concatenate([np.asarray(where, dtype=np.int64), singles])  # (matches,)
        columns = np.concatenate([np.asarray(found, dtype=np.int64), classes[singles]])  # (matches,)
        return np.searchsorted(ends, positions), columns

    def _match_compounds(self, ids: np.ndarray, starts: np.ndarray) -> tuple[list[int], list[int]]:
        """Find the compounds, longest first, then from the left, and set their tokens in `ids` to unknown."""
        candidates = []
        for start in starts.tolist():
            position, node = start, self._trie.get(int(ids[start]))
            while node is not None:  # the last token is a separator: no overrun
                position += 1
                if _COMPLETE in node:
                    candidates.append((start - position, start, node[_COMPLETE]))
                node = node.get(int(ids[position]))
        where, found = [], []
        for negative_length, start, column in sorted(candidates):
            span = ids[start : start - negative_length]
            if span.all():  # no token of it is consumed
                span[:] = _UNKNOWN
                if column != _NO_CLASS:
                    where.append(start)
                    found.append(column)
        return where, found


class _LabelColumn:
    """A function for `datasets.map` that can be pickled and hashed alike in every run."""

    def __init__(self, labeler: CaptionLabeler, label_column: str) -> None:
        self.labeler, self.label_column = labeler, label_column

    def __call__(self, captions: list[str]) -> dict[str, np.ndarray]:
        return {self.label_column: self.labeler(captions)}  # (captions, classes)


def _any_label(labels: list[Sequence[int]]) -> list[bool]:
    return [any(row) for row in labels]


def _check_captions(captions: Sequence[Any], error: Exception) -> None:
    """Raise the error that names the first caption that is not a string, else the error that was met."""
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            kind = type(caption).__name__
            raise TypeError(f"Caption {index} is not a string but {kind}: {str(caption)[:80]!r}.") from error
    raise error


def _expand_forms(
    table: Sequence[NamedClass], ignored: frozenset[str]
) -> Iterable[tuple[int, int, tuple[bytes, ...]]]:
    """Write out the forms of all synonyms as (rank, class, tokens): as given, as one word, inflected, as a verb."""
    for column, entry in enumerate(table):
        for synonym in entry.synonyms:
            yield 0, column, name_tokens(synonym)
            for words in _readings(synonym):
                joined = ["".join(words), "-".join(words), "_".join(words)] if len(words) > 1 else list(words)
                yield from ((1, column, name_tokens(form)) for form in (" ".join(words), *joined))
                before = [noun_forms(word) if len(words) <= MAX_INFLECTED_WORDS else (word,) for word in words[:-1]]
                inflected = list(itertools.product(*before, noun_forms(words[-1])))
                forms = [(2, mark.join(form)) for form in inflected for mark in (" -_" if before else " ")]
                forms += [(2, form) for form in noun_forms("".join(words))]
                forms += [(3, " ".join((*words[:-1], form))) for form in verb_forms(words[-1])]
                yield from ((rank, column, name_tokens(form)) for rank, form in forms if form not in ignored)


def _expand_given(
    table: Sequence[NamedClass], ignored: Sequence[str], words: Words
) -> Iterable[tuple[int, int, tuple[bytes, ...]]]:
    """Write out synonyms as (rank, class, tokens): as given, and with spaces, hyphens or nothing between words."""
    for column, entry in enumerate(table):
        for synonym in entry.synonyms:
            yield 0, column, words.name_tokens(synonym)
            for parts in _readings(synonym):
                for mark in (" ", "-", "_", "") if len(parts) > 1 else (" ",):
                    yield 1, column, words.name_tokens(mark.join(parts))
    for form in ignored:
        if tokens := words.name_tokens(form):
            yield 2, _NO_CLASS, tokens


def _readings(synonym: str) -> list[list[str]]:
    """The words of a synonym: as it is written, and with spaces where it has hyphens or underscores."""
    written, spaced = synonym.split(), re.sub("[_-]+", " ", synonym).split()
    return [written] if written == spaced or not spaced else [written, spaced]


def _expand_lemmas(
    table: Sequence[NamedClass], ignored: frozenset[str]
) -> Iterable[tuple[int, int, tuple[bytes, ...]]]:
    """Write out what is looked up among lemmas, as (rank, class, lemmas).

    To what the published procedure looks up (the synonym as given and as one word) come the lemmas of names in the
    plural, which no lemma would meet otherwise, and irregular plurals: WordNet keeps "men", and the tagger often takes
    "geese" for an adjective, which then is not brought to its singular.
    """
    for column, entry in enumerate(table):
        for synonym in entry.synonyms:
            words = synonym.split()
            yield 0, column, tuple(word.encode() for word in words)
            for reading in _readings(synonym):
                yield 1, column, tuple(word.encode() for word in reading)
                yield 1, column, ("".join(reading).encode(),)
            yield 2, column, tuple(lemma.encode() for lemma in wordnet_captions.name_lemmas(synonym))
            for form in irregular_plurals(words[-1]):
                if form not in ignored:
                    yield 3, column, tuple(word.encode() for word in (*words[:-1], form))


__all__ = ["METHODS", "CaptionLabeler"]
