"""Rows of figures as a Markdown table."""

from __future__ import annotations

from typing import Any


def as_markdown(rows: list[dict[str, Any]], digits: int = 2) -> str:
    """A table whose columns are the keys of the rows, in the order in which they come first.

    Args:
        rows (`list[dict]`): a value is a text, a number, a difference with its interval (a list of three), or `None`.
        digits (`int`, *optional*, defaults to 2): after the point.

    Returns:
        `str`: lines of Markdown.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(row.get(column), digits) for column in columns)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        difference, low, high = value
        return f"{difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


__all__ = ["as_markdown"]
