"""Cells of CSV files: text of any origin that no spreadsheet computes, and lists of labels in one cell."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What a spreadsheet takes for a formula, its full-width forms and what some pass over before it included (OWASP, "CSV
# Injection"). Quotes before it are those of earlier escapes, so that every text comes back as it was.
_FORMULA = re.compile(r"'*(?:[\t\r\n]|[\s\0\u200b-\u200f\u2060\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20])")


def harmless_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: what begins like one gets a quote before it.

    So does what follows a semicolon, at which spreadsheets of many countries cut cells.
    """
    return ";".join(f"'{part}" if _FORMULA.match(part) else part for part in text.split(";"))


def plain_cell(cell: str) -> str:
    """The text that [`harmless_cell`] made a cell of."""
    return ";".join(part.removeprefix("'") if _FORMULA.match(part) else part for part in cell.split(";"))


def join_cell(labels: Sequence[str]) -> str:
    r"""Labels as one cell: `cat; dog`. A semicolon or backslash in a label gets a backslash before it."""
    return "; ".join(harmless_cell(re.sub(r"([\\;])", r"\\\1", label)) for label in labels)


def split_cell(cell: str) -> list[str]:
    """The labels that [`join_cell`] made a cell of.

    Args:
        cell (`str`): the cell.

    Returns:
        `list[str]`: the labels; none of an empty cell.
    """
    parts = re.findall(r"(?:[^\\;]|\\.)+", cell, re.DOTALL)  # between semicolons without a backslash
    parts = parts[:1] + [part.removeprefix(" ") for part in parts[1:]]
    return [re.sub(r"\\(.)", r"\1", plain_cell(part), flags=re.DOTALL) for part in parts]


__all__ = ["harmless_cell", "join_cell", "plain_cell", "split_cell"]
