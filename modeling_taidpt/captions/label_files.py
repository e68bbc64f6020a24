"""Labels as a person gives them: words, a file, or the name of a published class table."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..configuration_taidpt import check_labels
from ..languages import ENGLISH
from .class_tables import PRESETS
from .labeler import CaptionLabeler

TABLE_SUFFIXES = (".json", ".yaml", ".yml")
OTHER_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx", ".xml", ".names", ".md")  # files, not words
COMMAS = re.compile("[,\uff0c\u3001\u060c]")  # full-width, ideographic and Arabic ones, too


def read_labels(
    source: str | Path, method: str = "forms", language: str = ENGLISH
) -> tuple[list[str], CaptionLabeler | None]:
    """Reads labels.

    Args:
        source (`str` or `Path`): `"coco80"`, `"voc20"` or `"nuswide81"`; a text file (.txt, or any path of
            a file with a slash) with one label a line; a class table (.json, .yaml), a list of names or a mapping
            from name to synonyms; or labels with commas between, also those of Chinese, Japanese and Arabic.
        method (`str`, *optional*, defaults to `"forms"`): how the labeler works; see [`CaptionLabeler`].
        language (`str`, *optional*, defaults to `"en"`): code of their language, for the labeler.

    Returns:
        `tuple[list[str], CaptionLabeler | None]`: the labels in their order, and a labeler where the source gives
        synonyms.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no label, or one is duplicated, or a file cannot be read; the message names it.
    """
    text = str(source)
    if text in PRESETS:
        labeler = CaptionLabeler.from_preset(text, method, language=language)
        return labeler.labels, labeler
    suffix = Path(text).suffix.lower()
    if suffix in TABLE_SUFFIXES:
        labeler = CaptionLabeler.from_file(text, method, language=language)
        return labeler.labels, labeler
    if suffix in OTHER_SUFFIXES:
        raise ValueError(
            f"The label file {text!r} must end in .txt (one label a line), {', '.join(TABLE_SUFFIXES[:-1])} or "
            f"{TABLE_SUFFIXES[-1]}."
        )
    # a path is never the word for what is in an image, whatever its suffix
    is_file = suffix == ".txt" or (os.sep in text and os.path.exists(text))
    lines = _read_lines(Path(text)) if is_file else COMMAS.split(text)
    labels = [line.strip() for line in lines if line.strip()]
    where = f"the label file {text!r}" if is_file else f"the labels {text[:80]!r}"
    if not labels:
        raise ValueError(f"There is no label in {where}: give words, one a line in a file or with commas between.")
    try:
        check_labels(labels)
    except ValueError as error:
        raise ValueError(f"In {where}: {error}") from error
    return labels, None


def read_candidates(source: str | Path) -> tuple[list[str] | dict[str, list[str]], CaptionLabeler | None]:
    """Reads labels as the pipeline and `with_labels` take them: with their descriptions where a class table has some.

    Args:
        source (`str` or `Path`): as for [`read_labels`].

    Returns:
        `tuple[list[str] | dict[str, list[str]], CaptionLabeler | None]`: the labels, or a mapping from each to its
        descriptions; and a labeler as of [`read_labels`].

    Raises:
        FileNotFoundError, ValueError: as [`read_labels`].
    """
    labels, labeler = read_labels(source)
    described = {} if labeler is None else labeler.descriptions
    return {label: list(described.get(label, [])) for label in labels} if described else labels, labeler


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"The label file {str(path)!r} {what}: give the path of a file.")
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The label file {str(path)!r} is not UTF-8 text (byte {error.start}: {error.reason}): convert it first."
        ) from error


__all__ = ["read_candidates", "read_labels"]
