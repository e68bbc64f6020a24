"""The published labelling procedure's use of NLTK: tokenise, tag, lemmatise with WordNet.

Source: the published code of TaI-DPT, `datasets/coco_distill.py` and its siblings. nltk is imported where it is used;
a missing package or missing data is one sentence that says what to run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .tokens import separate_signs

NLTK_DATA = ("punkt_tab", "averaged_perceptron_tagger_eng", "wordnet")

# First letter of a Penn Treebank tag -> WordNet's part of speech; every other tag is treated as a noun.
_PARTS_OF_SPEECH = {"J": "a", "V": "v", "N": "n", "R": "r"}


class MissingNltkDataError(LookupError, FileNotFoundError):
    """NLTK's tokenizer, tagger or WordNet is not on this machine."""


@contextmanager
def _nltk_errors() -> Iterator[None]:
    """Turn a missing nltk or missing NLTK data into an error of one sentence that says what to run."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "nltk":
            raise
        raise ImportError("Reading WordNet needs NLTK: run `pip install nltk`, or use method='forms'.") from error
    except LookupError as error:
        if isinstance(error, KeyError | IndexError):
            raise
        raise MissingNltkDataError(
            f"NLTK's data is missing: run `python -m nltk.downloader {' '.join(NLTK_DATA)}`, or set NLTK_DATA to the "
            "folder that holds it, or use method='forms', which needs none."
        ) from error


def require_nltk() -> None:
    """Check that NLTK and the data of the procedure are there.

    Raises:
        ImportError: If nltk is not installed.
        LookupError: If its tokeniser, tagger or WordNet data is missing.
    """
    lemma_tokens(["two dogs"], "\0")


def lemma_tokens(captions: Sequence[str], separator: str) -> list[bytes]:
    """Tokenise and lemmatise captions.

    Args:
        captions (`Sequence[str]`): The captions.
        separator (`str`): A token to put after each caption.

    Returns:
        `list[bytes]`: UTF-8 lemmas of all captions, each caption followed by the separator.

    Raises:
        TypeError: If a caption is not a string.
        ImportError: If nltk is not installed.
        LookupError: If NLTK's data is missing.
    """
    tokens: list[bytes] = []
    with _nltk_errors():
        from nltk import pos_tag, word_tokenize
        from nltk.stem import WordNetLemmatizer

        lemmatize = WordNetLemmatizer().lemmatize
        for caption in captions:
            words = word_tokenize(separate_signs(str.lower(caption).replace(separator, " ")))
            lemmas = (lemmatize(word, _PARTS_OF_SPEECH.get(tag[0], "n")) for word, tag in pos_tag(words))
            # A token may be lemmatised to several words; the published code joins and matches them at spaces.
            tokens += " ".join((*lemmas, separator)).encode("utf-8", "surrogatepass").split()
    return tokens


def name_lemmas(name: str) -> list[str]:
    """Return the noun lemmas of a class name, split as captions are ("rubik's cube": rubik, 's, cube)."""
    with _nltk_errors():
        from nltk import word_tokenize
        from nltk.stem import WordNetLemmatizer

        lemmatize = WordNetLemmatizer().lemmatize
        return [lemmatize(word, "n") for word in word_tokenize(name)]


def noun_lemmas(name: str, senses: int) -> list[str]:
    """Return the lemmas of the first senses of a noun.

    Args:
        name (`str`): The noun, of one or more words.
        senses (`int`): How many senses to read, most frequent first.

    Returns:
        `list[str]`: The lemmas with spaces for underscores, in WordNet's order; may hold duplicates.

    Raises:
        ImportError: If nltk is not installed.
        LookupError: If NLTK's WordNet is missing.
    """
    with _nltk_errors():
        from nltk.corpus import wordnet

        synsets = wordnet.synsets(name.replace(" ", "_"), pos=wordnet.NOUN)[:senses]
        return [lemma.replace("_", " ") for synset in synsets for lemma in synset.lemma_names()]


def noun_ancestors(name: str) -> list[list[str]]:
    """What the most frequent sense of a noun is a kind of.

    Args:
        name (`str`): a noun, as `"dog"` or `"traffic light"`.

    Returns:
        `list[list[str]]`: for each way up, the names of WordNet's synsets (`"animal.n.01"`) from the top down, its own
        left out; none where WordNet does not know the noun.

    Raises:
        ImportError: If nltk is not installed.
        LookupError: If WordNet is missing.
    """
    with _nltk_errors():
        from nltk.corpus import wordnet

        senses = wordnet.synsets(name.replace(" ", "_"), pos=wordnet.NOUN)[:1]
        return [[synset.name() for synset in path[:-1]] for sense in senses for path in sense.hypernym_paths()]


def names_below(name: str, candidates: Sequence[str]) -> list[str]:
    """Those of some nouns that stand below another one in WordNet; of each the most frequent sense counts.

    Args:
        name (`str`): a noun, as `"animal"`.
        candidates (`Sequence[str]`): nouns, as `"dog"` or `"traffic light"`.

    Returns:
        `list[str]`: in their order; none where WordNet does not know the noun.

    Raises:
        ImportError: If nltk is not installed.
        LookupError: If WordNet is missing.
    """
    with _nltk_errors():
        from nltk.corpus import wordnet

        def first_sense(noun: str) -> list:
            return wordnet.synsets(noun.replace(" ", "_"), pos=wordnet.NOUN)[:1]

        above = {
            noun: {found for sense in first_sense(noun) for found in sense.closure(lambda synset: synset.hypernyms())}
            for noun in candidates
        }
        return [noun for noun in candidates if above[noun] & set(first_sense(name))]
