"""Class tables, caption labelling and prompt templates: which classes a caption names.

Source: TaI-DPT (arXiv 2211.12739), section 3.1 (nouns of the captions filtered by the synonyms of each class) and the
published code's caption data sets, whose matching order depends on the hash seed; here it is fixed: compounds before
single words, longest first, then from left to right, and matched text is consumed.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import wordnet as wordnet_captions
from .word_forms import irregular_plurals, noun_forms, verb_forms

ASSETS = Path(__file__).parents[1] / "assets"
PRESETS = ("coco80", "voc20", "nuswide81")
METHODS = ("forms", "wordnet")

# "men" is a noun of its own to WordNet (a work force), so the published labels never count it as "man".
PUBLISHED_IGNORED_FORMS = ("men",)

CHUNK_SIZE = 1024  # captions matched at once: bounds memory, and the work per chunk hides the cost of numpy calls
MAX_INFLECTED_WORDS = 4  # names of more words are matched with their last word inflected only

_UNKNOWN = 0  # word id of a token that no class mentions, punctuation included
_END = 1  # word id of the separator between captions
_COMPLETE = -1  # key in the trie of compounds where one is complete; no word has this id

_SEPARATOR = "\0"
# Bytes of the lower-cased UTF-8 text: control characters become spaces, punctuation becomes a comma (a token of its
# own, so that "hot, dog" is no hot dog), hyphens and underscores stay inside words as in NLTK's tokeniser.
_BYTE_TABLE = bytes(
    code
    if code == 0 or code > 126 or chr(code).isalnum() or chr(code) in "-_ "
    else ord(" ")
    if code < 33
    else ord(",")
    for code in range(256)
)
_UNICODE_TABLE = {
    **dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u2026\u2013\u2014\u2015\u00ab\u00bb"), ","),
    **dict.fromkeys(map(ord, "\u3001\u3002\uff0c\uff01\uff1f\u00b7\u2022\u00a1\u00bf"), ","),
    **dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2009\u200a\u202f\u3000\u2028\u2029\u0085"), " "),
    **dict.fromkeys(map(ord, "\u2010\u2011"), "-"),
}


class _Class(NamedTuple):
    name: str
    synonyms: tuple[str, ...]  # normalised, without duplicates, the name among them


class CaptionLabeler:
    r"""Finds the classes that captions name, as a multi-hot matrix.

    A class is present when one of its synonyms stands in the caption, in any case, singular or plural. Compounds are
    matched before single words, longer ones first, and matched text is consumed: "hot dog" is no dog. A compound is
    also matched when it is written as one word ("hotdog"). Words end at spaces and punctuation; a hyphen joins
    ("man-made" names no man).

    Args:
        classes (`Sequence[str]`, `Sequence[Mapping]` or `Mapping[str, Sequence[str]]`):
            The classes in the order of the columns: names, or `{"name": ..., "synonyms": [...]}`, or a mapping from
            name to synonyms. The name is always one of its own synonyms.
        method (`str`, *optional*, defaults to `"forms"`):
            `"forms"`: the inflected forms of all synonyms are written out once and looked up in the text; fast,
            nothing to download. `"wordnet"`: the published procedure, NLTK's tokeniser, tagger and WordNet
            lemmatiser; needs `nltk` and its data.
        ignored_forms (`Iterable[str]`, *optional*, defaults to `()`):
            Inflected forms that count for no class. A synonym given literally always counts.

    Attributes:
        class_names (`list[str]`): Names of the classes, as given.
        method (`str`): The method.

    Raises:
        ValueError: If there is no class, a class name is there twice, a synonym is empty or claimed by two classes,
            or the method is unknown.
        TypeError: If a class is neither a name nor a mapping with a name, or a synonym is not a string.

    Example:
        >>> from modeling_taidpt.captions import CaptionLabeler
        >>> labeler = CaptionLabeler({"dog": ["puppy"], "hot dog": []})
        >>> labeler(["Two puppies share a hot dog.", "An empty street."])
        array([[1, 1],
               [0, 0]], dtype=uint8)
    """

    def __init__(
        self,
        classes: Sequence[str | Mapping[str, Any]] | Mapping[str, Sequence[str]],
        method: str = "forms",
        ignored_forms: Iterable[str] = (),
    ) -> None:
        """Check the class table and write out what is looked up."""
        if method not in METHODS:
            raise ValueError(f"Unknown labelling method {method!r}: choose one of {', '.join(METHODS)}.")
        self.method = method
        self.ignored_forms = tuple(ignored_forms)
        self._classes = _read_classes(classes)
        self.class_names = [entry.name for entry in self._classes]
        if method == "forms":
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
            ValueError: If the preset or the method is unknown.
        """
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
            ValueError: If the file is no class table; the message names the file and the entry.
            ImportError: If a YAML file is given and PyYAML is not installed.
        """
        table = _read_table_file(Path(path))
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

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    def __repr__(self) -> str:
        """Return the method and the number of classes."""
        return f"{type(self).__name__}({len(self)} classes, method={self.method!r})"

    def __call__(self, captions: str | Iterable[str]) -> np.ndarray:
        """Label captions.

        Args:
            captions (`Iterable[str]` or `str`): The captions; a single string is a batch of one.

        Returns:
            `np.ndarray` of shape `(captions, classes)`: uint8, 1 where the caption names the class.

        Raises:
            TypeError: If the captions are no list, or a caption is not a string; the message gives its index.
            LookupError: If the method is `"wordnet"` and NLTK's data is missing.
        """
        if not isinstance(captions, Iterable) or isinstance(captions, bytes):
            raise TypeError(f"The captions are {str(captions)[:80]!r}: give a list of strings.")
        captions = [captions] if isinstance(captions, str) else list(captions)
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
            return wordnet_captions.lemma_tokens(captions, _SEPARATOR)
        return _split(captions)

    def _index_forms(self, ranked: Iterable[tuple[int, int, tuple[bytes, ...]]]) -> None:
        """Build the lookup tables from (rank, class, tokens): a word table, the single words and a trie of compounds.

        The lowest rank wins where several classes have a form, then the first class.
        """
        claimed: dict[tuple[bytes, ...], int] = {}
        for _, column, tokens in sorted(ranked, key=lambda form: form[:2]):
            claimed.setdefault(tokens, column)
        words: dict[bytes, int] = {_SEPARATOR.encode(): _END}
        for tokens in claimed:
            for token in tokens:
                words.setdefault(token, len(words) + 1)
        single = np.full(len(words) + 1, -1, dtype=np.int64)  # (words,) class of a word, -1 for none
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


def load_class_table(preset: str) -> list[dict[str, Any]]:
    """Load a published class table.

    Args:
        preset (`str`): `"coco80"`, `"voc20"` or `"nuswide81"`.

    Returns:
        `list[dict]`: One `{"name": str, "synonyms": list[str]}` per class.

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
    normalized = _normalize(name)
    if not _tokens(normalized):
        raise ValueError(f"Class name {name!r} holds no word to look up.")
    found = (_normalize(lemma) for lemma in wordnet_captions.noun_lemmas(normalized, senses))
    return [lemma for lemma in dict.fromkeys(found) if lemma != normalized]


def _read_classes(classes: Any) -> list[_Class]:
    """Check a class table in any of its forms; see `CaptionLabeler` for what it accepts and raises."""
    if isinstance(classes, str):
        raise TypeError(f"The classes are one string, {classes!r}: give a list of names, as [{classes!r}].")
    if not isinstance(classes, Iterable):
        raise TypeError(f"The classes are {classes!r}: give a list of names, or a mapping from name to synonyms.")
    if isinstance(classes, Mapping):
        classes = [{"name": name, "synonyms": synonyms} for name, synonyms in classes.items()]
    table = [_read_class(index, entry) for index, entry in enumerate(classes)]
    if not table:
        raise ValueError("The list of classes is empty: give at least one class name.")
    names: dict[str, int] = {}
    owner: dict[tuple[bytes, ...], str] = {}
    for index, entry in enumerate(table):
        first = names.setdefault(_normalize(entry.name), index)
        if first != index:
            raise ValueError(f"Class name {entry.name!r} is there twice, at {first} and at {index}: keep one.")
    for entry in table:
        for synonym in entry.synonyms:
            other = owner.setdefault(_tokens(synonym), entry.name)
            if other != entry.name:
                raise ValueError(
                    f"Synonym {synonym!r} is claimed by two classes, {other!r} and {entry.name!r}: keep it in one."
                )
    return table


def _read_class(index: int, entry: Any) -> _Class:
    """Read one class: a name or a mapping with a name and, optionally, synonyms."""
    if isinstance(entry, Mapping):
        unknown = [key for key in entry if key not in ("name", "synonyms")]
        if unknown or "name" not in entry:
            raise TypeError(f"Class {index} is {dict(entry)!r}, but its keys must be 'name' and 'synonyms'.")
        name, synonyms = entry["name"], entry.get("synonyms")
    else:
        name, synonyms = entry, None
    if not isinstance(name, str):
        raise TypeError(f"The name of class {index} is {name!r}, but it must be a string (in YAML, put it in quotes).")
    synonyms = [] if synonyms is None else synonyms
    if isinstance(synonyms, str) or not isinstance(synonyms, Iterable):
        raise TypeError(f"The synonyms of class {name!r} are {synonyms!r}, but they must be a list of strings.")
    words = []
    for synonym in (name, *synonyms):
        if not isinstance(synonym, str):
            raise TypeError(f"Synonym {synonym!r} of class {name!r} is not a string (in YAML, put it in quotes).")
        if not _tokens(synonym):
            raise ValueError(f"A synonym of class {name!r} is empty: {synonym!r} holds no word.")
        words.append(_normalize(synonym))
    return _Class(name, tuple(dict.fromkeys(words)))


def _read_table_file(path: Path) -> Any:
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
            table = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"Class table {str(path)!r} is not valid JSON: {error}.") from error
    else:
        table = _read_yaml(path, text)
    if not isinstance(table, list | dict):
        raise ValueError(f"Class table {str(path)!r} must hold a list of classes or a mapping from name to synonyms.")
    return table


def _read_yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"Reading {str(path)!r} needs PyYAML: run `pip install pyyaml`, or use JSON.") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"Class table {str(path)!r} is not valid YAML: {reason}.") from error


def _check_captions(captions: Sequence[Any], error: Exception) -> None:
    """Raise the error that names the first caption that is no string, else the error that was met."""
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            kind = type(caption).__name__
            raise TypeError(f"Caption {index} is not a string but {kind}: {str(caption)[:80]!r}.") from error
    raise error


def _normalize(text: str) -> str:
    """Lower-case a name, compose its accents and collapse its spaces."""
    return " ".join(unicodedata.normalize("NFC", text.lower()).replace(_SEPARATOR, " ").split())


def _tokens(name: str) -> tuple[bytes, ...]:
    """Split a name as captions are split; empty if it holds no word."""
    tokens = tuple(_split([name])[:-1])
    return () if all(token == b"," for token in tokens) else tokens


def _split(captions: list[str]) -> list[bytes]:
    """Lower-case captions and split them into words and punctuation, a separator token after each caption."""
    if not all(map(str.isascii, captions)):  # only these captions pay for what other scripts need
        captions = [caption if caption.isascii() else _compose(caption) for caption in captions]
    text = f" {_SEPARATOR} ".join(captions) + f" {_SEPARATOR}"
    if text.count(_SEPARATOR) != len(captions):
        text = f" {_SEPARATOR} ".join(caption.replace(_SEPARATOR, " ") for caption in captions) + f" {_SEPARATOR}"
    encoded = text.lower().encode("utf-8", "surrogatepass").translate(_BYTE_TABLE)
    return encoded.replace(b"--", b",").replace(b",", b" , ").split()


def _compose(caption: str) -> str:
    """Lower-case, compose accents and bring punctuation of other scripts to the plain one."""
    return unicodedata.normalize("NFC", caption.lower()).translate(_UNICODE_TABLE)


def _expand_forms(table: Sequence[_Class], ignored: frozenset[str]) -> Iterable[tuple[int, int, tuple[bytes, ...]]]:
    """Write out the forms of all synonyms as (rank, class, tokens): as given, as one word, inflected, as a verb."""
    for column, entry in enumerate(table):
        for synonym in entry.synonyms:
            words = synonym.split()
            yield 0, column, _tokens(synonym)
            joined = "".join(words)
            if len(words) > 1:
                yield 1, column, _tokens(joined)
                yield 1, column, _tokens("-".join(words))
            before = [noun_forms(word) if len(words) <= MAX_INFLECTED_WORDS else (word,) for word in words[:-1]]
            forms = [(2, " ".join(form)) for form in itertools.product(*before, noun_forms(words[-1]))]
            forms += [(2, form) for form in noun_forms(joined)]
            forms += [(3, " ".join((*words[:-1], form))) for form in verb_forms(words[-1])]
            yield from ((rank, column, _tokens(form)) for rank, form in forms if form not in ignored)


def _expand_lemmas(table: Sequence[_Class], ignored: frozenset[str]) -> Iterable[tuple[int, int, tuple[bytes, ...]]]:
    """Write out what is looked up among lemmas, as (rank, class, lemmas).

    To what the published procedure looks up (the synonym as given and as one word) come the lemmas of names in the
    plural, which no lemma would meet otherwise, and irregular plurals: WordNet keeps "men", and the tagger often takes
    "geese" for an adjective, which then is not brought to its singular.
    """
    for column, entry in enumerate(table):
        for synonym in entry.synonyms:
            words = synonym.split()
            yield 0, column, tuple(word.encode() for word in words)
            yield 1, column, ("".join(words).encode(),)
            yield 2, column, tuple(lemma.encode() for lemma in wordnet_captions.name_lemmas(synonym))
            for form in irregular_plurals(words[-1]):
                if form not in ignored:
                    yield 3, column, tuple(word.encode() for word in (*words[:-1], form))
