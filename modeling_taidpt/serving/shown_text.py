"""Texts of any origin, as labels and file names, as a page shows them: nothing in them runs, is fetched or hides."""

from __future__ import annotations

import unicodedata

JOINERS = "\u200c\u200d"  # of letters and of emoji
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, formats, halves of characters, separators of lines


def visible_text(text: str, longest: int | None = None) -> str:
    """Text without control characters and without signs that are not seen or turn the direction of what follows.

    Args:
        text (`str`): the text.
        longest (`int`, *optional*): characters; the rest is cut off.

    Returns:
        `str`: a space in the place of each such sign.
    """
    if longest is not None and len(text) > longest:
        text = f"{text[: longest - 1]}…"
    return "".join(" " if unicodedata.category(sign) in UNSEEN and sign not in JOINERS else sign for sign in text)


def escape(text: str) -> str:
    """Text that Markdown and HTML show as it is written, bare addresses too."""
    return "".join(sign if sign.isalnum() or sign in " ,-·" else f"&#{ord(sign)};" for sign in visible_text(text))


__all__ = ["escape", "visible_text"]
