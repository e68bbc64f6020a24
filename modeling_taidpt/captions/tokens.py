"""How captions and names are split into words: lower case, punctuation apart, accents composed."""

from __future__ import annotations

import unicodedata

SEPARATOR = "\0"
# Bytes of the lower-cased UTF-8 text: control characters become spaces, punctuation becomes a comma (a token of its
# own, so that "hot, dog" is no hot dog), hyphens and underscores stay inside words as in NLTK's tokenizer.
_BYTE_TABLE = bytes(
    code
    if code == 0 or code > 126 or chr(code).isalnum() or chr(code) in "-_ "
    else ord(" ")
    if code < 33
    else ord(",")
    for code in range(256)
)
_APOSTROPHES = "\u02b9\u02bb\u02bc"  # letters to Unicode, apostrophes to people
_TYPOGRAPHIC = "\u2018\u2019\u201a\u201c\u201d\u201e\u2026\u2013\u2014\u00ab\u00bb"  # what NLTK's tokenizer knows


class Signs(dict):
    """A table for `str.translate` of characters beyond ASCII, filled by what Unicode says each one is.

    Punctuation becomes a comma; spaces and invisible characters become a space; other signs, as emoji and trademarks,
    become words of their own, so that they may be synonyms. Full-width characters become the plain ones.

    Args:
        kept (`str`, *optional*): punctuation that stays as it is.
    """

    def __init__(self, kept: str = "") -> None:
        super().__init__((ord(character), character) for character in kept)

    def __missing__(self, code: int) -> str:
        character, category = chr(code), unicodedata.category(chr(code))
        if code < 128:
            found = character
        elif 0xFF01 <= code <= 0xFF5E:
            found = chr(code - 0xFEE0).lower()
        elif character in "\u2010\u2011\ufe63":
            found = "-"
        elif character == "\u00ad" or 0xFE00 <= code <= 0xFE0F:  # hyphenation, and variants of the sign before
            found = ""
        elif category[0] == "P" or character in _APOSTROPHES:
            found = ","
        elif category[0] == "S" or category in ("No", "Me", "Co", "Cn", "Cs"):
            found = f" {character} "
        else:
            found = " " if category[0] in "ZC" else character
        self[code] = found
        return found


_PLAIN_SIGNS, _SEPARATED_SIGNS = Signs(), Signs(_TYPOGRAPHIC)


def normalize(text: str) -> str:
    """Lower-case a name, compose its accents and collapse its spaces."""
    return " ".join(unicodedata.normalize("NFC", text.lower()).replace(SEPARATOR, " ").split())


class Words:
    """How names and captions of a language are split; this is English, see `other_languages.py` for others."""

    def normalize(self, text: str) -> str:
        """Lower-case a name, compose its accents and collapse its spaces."""
        return normalize(text)

    def split(self, captions: list[str]) -> list[bytes]:
        """Split captions into words and punctuation, a separator token after each caption."""
        return split_captions(captions)

    def name_tokens(self, name: str) -> tuple[bytes, ...]:
        """Split a name as captions are split; empty if it holds no word."""
        tokens = tuple(self.split([name])[:-1])
        return () if all(token.strip(b",-_ ") == b"" for token in tokens) else tokens


ENGLISH_WORDS = Words()


def name_tokens(name: str) -> tuple[bytes, ...]:
    """Split an English name as captions are split; empty if it holds no word."""
    return ENGLISH_WORDS.name_tokens(name)


def separate_signs(caption: str) -> str:
    """A caption whose words end at signs that NLTK's tokenizer takes for letters, as emoji; ASCII stays as it is."""
    return caption if caption.isascii() else caption.translate(_SEPARATED_SIGNS)


def split_captions(captions: list[str]) -> list[bytes]:
    """Lower-case captions and split them into words and punctuation, a separator token after each caption."""
    if not all(map(str.isascii, captions)):  # only these captions pay for what other scripts need
        captions = [caption if caption.isascii() else _compose(caption) for caption in captions]
    text = f" {SEPARATOR} ".join(captions) + f" {SEPARATOR}"
    if text.count(SEPARATOR) != len(captions):
        text = f" {SEPARATOR} ".join(caption.replace(SEPARATOR, " ") for caption in captions) + f" {SEPARATOR}"
    encoded = text.lower().encode("utf-8", "surrogatepass").translate(_BYTE_TABLE)
    encoded = b" " + encoded.replace(b"--", b",").replace(b"__", b",").replace(b",", b" , ")
    for edge in (b" -", b"- ", b" _", b"_ "):  # at the ends of a word they are signs, as in "_dog_"
        encoded = encoded.replace(edge, b" , ")
    return encoded.split()


def _compose(caption: str) -> str:
    """Lower-case, compose accents and bring the signs of other scripts to the plain ones."""
    return unicodedata.normalize("NFC", caption.lower()).translate(_PLAIN_SIGNS)


__all__ = [
    "ENGLISH_WORDS",
    "SEPARATOR",
    "Signs",
    "Words",
    "name_tokens",
    "normalize",
    "separate_signs",
    "split_captions",
]
