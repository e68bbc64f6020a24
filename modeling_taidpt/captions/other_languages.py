"""How captions and names of other languages than English are split into words.

Nothing is inflected: a synonym is found in the forms that are given. In scripts without spaces (Chinese, Japanese,
Thai, Lao, Khmer, Burmese) every letter with its vowels and marks is a token, so that words are found inside of text,
the longest first; a space or a sign between two letters ends a word there as well.

What is written alike is made equal: compatibility forms (NFKC: full-width and half-width letters, ligatures), case
(German ß is ss; in Turkish and Azerbaijani I is the capital of ı, and İ of i), and in Arabic and Hebrew script vowel
points, the stretching tatweel, hamza on an alef, and the Arabic and Persian forms of yeh and kaf; in Cyrillic script
the mark of stress. Umlauts and other accents tell words apart and stay.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from ..languages import ENGLISH, UNSPACED
from .tokens import ENGLISH_WORDS, SEPARATOR, Signs, Words

DOTLESS_I = ("az", "tr")
_SPACE = " "  # between two letters of scripts without spaces
_LETTERS = [
    chr(code)
    for first, last in re.findall("(.)-(.)", UNSPACED)
    if ord(last) < 0x1E00 or 0xA900 < ord(first) < 0xAB00  # Chinese and Japanese have no marks
    for code in range(ord(first), ord(last) + 1)
]
# Of Thai and Lao, vowels that are written before the consonant that they belong to, and after it.
_BEFORE, _AFTER = "\u0e40-\u0e44\u0ec0-\u0ec4", "\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3"
_MARKS = "".join(letter for letter in _LETTERS if unicodedata.category(letter)[0] == "M") + _AFTER
_JOINS = "\u17d2\u1039"  # Khmer and Burmese: the next consonant is written below this one
_LETTER = f"[{_BEFORE}]?[{UNSPACED}][{_MARKS}]*(?:(?<=[{_JOINS}])[{UNSPACED}][{_MARKS}]*)*"
_WORD = rf"[^\s,\0{UNSPACED}]+"
_TOKEN = re.compile(rf"\0|{_LETTER}|,|{_WORD}|(?<=[{UNSPACED}])\s+(?=[{UNSPACED}])")
# Characters without width: where a line may break, inside of Indic words, variants of a Chinese character.
_WIDTHLESS = re.compile(
    rf"(?<=[{UNSPACED}])[\u200b\u2060]+(?=[{UNSPACED}])|(?<=[\u0900-\u0dff])[\u200c\u200d]|[\U000e0100-\U000e01ef]"
)
_POINTS = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed]"
    "|(?<=[\u0430-\u045f])\u0301"  # of Cyrillic letters that have an accent of their own, NFKC made one
)
_ARABIC = str.maketrans("أإآٱىیک", "ااااييك")


class _Characters(Signs):
    """As [`Signs`], with the punctuation of ASCII, which becomes a comma as well."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if code > 126:
            found = super().__missing__(code)
        elif character.isalnum() or character in f"-_ {SEPARATOR}":
            found = character
        else:
            found = _SPACE if code < 33 else ","
        self[code] = found
        return found


_CHARACTERS = _Characters()


class OtherWords(Words):
    """Splits captions of a language that is not English.

    Args:
        language (`str`): its code.
    """

    def __init__(self, language: str) -> None:
        self.language = language

    def normalize(self, text: str) -> str:
        """As [`Words.normalize`]."""
        return " ".join(unicodedata.normalize("NFC", self._lower(text)).replace(SEPARATOR, " ").split())

    def split(self, captions: list[str]) -> list[bytes]:
        """As [`Words.split`]."""
        text = "".join(caption.replace(SEPARATOR, " ") + SEPARATOR for caption in captions)
        text = _WIDTHLESS.sub("", text).translate(_CHARACTERS)  # before NFKC, which makes letters of ™
        text = unicodedata.normalize("NFKC", self._lower(unicodedata.normalize("NFKC", text)).casefold())
        text = text.translate(_CHARACTERS)  # of full-width signs NFKC made plain ones
        text = _POINTS.sub("", text.replace("i\u0307", "i")).translate(_ARABIC)
        text = text.replace("--", ",").replace("__", ",")
        tokens: list[bytes] = []
        for token in _TOKEN.findall(text):
            if token[0] in "-_" or token[-1] in "-_":  # at the ends of a word they are signs, as in "_hund_"
                bare = token.strip("-_")
                tokens += [b","] if not bare else [b",", bare.encode("utf-8", "surrogatepass"), b","]
            else:
                tokens.append(_SPACE.encode() if token.isspace() else token.encode("utf-8", "surrogatepass"))
        return tokens

    def _lower(self, text: str) -> str:
        if self.language in DOTLESS_I:
            text = text.replace("I\u0307", "i").replace("\u0130", "i").replace("I", "\u0131")
        return text.lower()


@cache
def words_of(language: str) -> Words:
    """How captions of a language are split.

    Args:
        language (`str`): its code.

    Returns:
        [`Words`].
    """
    return ENGLISH_WORDS if language == ENGLISH else OtherWords(language)


__all__ = ["OtherWords", "words_of"]
