"""What depends on the language of labels and captions: the words around a label, and where words end.

English is the paper's. For other languages the words of the template are the user's to give; those of the languages
below are here so that a first run needs none.
"""

from __future__ import annotations

import re

ENGLISH = "en"
_ISO_639_1 = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el "
    "en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu "
    "ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na "
    "nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn "
    "so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
CODES = frozenset(_ISO_639_1.split())  # so that a country ("cn", "jp") is not taken for a language
# The words before a label, as in "a photo of a dog.", by language.
CONTEXTS = {
    "ar": "صورة",
    "de": "ein Foto von",
    "en": "a photo of a",
    "es": "una foto de",
    "fr": "une photo de",
    "hi": "तस्वीर में",
    "id": "foto",
    "it": "una foto di",
    "ja": "写真に写っている",
    "ko": "사진 속의",
    "nl": "een foto van",
    "pl": "na zdjęciu",
    "pt": "uma foto de",
    "ru": "на фото",
    "sv": "ett foto av",
    "th": "ภาพถ่ายของ",
    "tr": "fotoğrafta bir",
    "uk": "на фото",
    "vi": "một bức ảnh về",
    "zh": "照片中有",
}
STOPS = {"hi": "।", "ja": "。", "km": "។", "lo": "", "my": "။", "th": "", "zh": "。"}  # "." elsewhere
# Letters and marks of scripts that are written without spaces between words: Thai, Lao, Burmese, Khmer, kana and
# Chinese characters. Ranges of a character class.
UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e50-\u0e59"
    "\u0e80-\u0eff"
    "\u1000-\u1049\u1050-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\u1780-\u17d3\u17d7\u17dc-\u17e9"
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b"
    "\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\uff66-\uff9f"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(f"[{UNSPACED}]")
_CODE = re.compile(r"([A-Za-z]{2,3})([-_][A-Za-z0-9]{1,8})*")


def read_language(language: str) -> str:
    """The code of a language.

    Args:
        language (`str`): a code, as `"de"`, `"zh"` or `"pt-BR"`, of which the country and the script do not count.

    Returns:
        `str`: of ISO 639, in lower case.

    Raises:
        ValueError: it is none.
    """
    found = _CODE.fullmatch(language.strip()) if isinstance(language, str) else None
    code = found[1].lower() if found else ""
    if not found or (len(code) == 2 and code not in CODES):
        raise ValueError(
            f"Unknown language {str(language)[:40]!r}: give its code in ISO 639, as 'de' for German, 'zh' for Chinese "
            "or 'ja' for Japanese."
        )
    return code


def context_words(language: str) -> str:
    """The words before a label in the template of a language, as "a photo of a"; none of a language without."""
    return CONTEXTS.get(language, "")


def full_stop(language: str) -> str:
    """What ends a sentence of a language; no character where nothing does."""
    return STOPS.get(language, ".")


def default_template(language: str = ENGLISH) -> str:
    """The template of a language, as "a photo of a {}."; of a language without, the label and a full stop."""
    words = context_words(language)
    space = "" if not words or is_unspaced(words[-1]) else " "
    return f"{words}{space}{{}}{full_stop(language)}"


def is_unspaced(text: str) -> bool:
    """Whether a text has a letter of a script that is written without spaces between words."""
    return _UNSPACED.search(text) is not None


__all__ = [
    "ENGLISH",
    "UNSPACED",
    "context_words",
    "default_template",
    "full_stop",
    "is_unspaced",
    "read_language",
]
