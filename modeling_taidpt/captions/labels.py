"""Labels of captions as a multi-hot matrix: from a labeler, or from a column that holds them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers.utils import logging

from ..languages import ENGLISH, read_language
from .class_tables import PRESETS, load_class_table
from .corpus import caption_texts
from .labeler import CaptionLabeler

logger = logging.get_logger(__name__)


def default_labeler(
    labels: Sequence[str], class_names: Sequence[str], method: str = "forms", language: str = ENGLISH
) -> CaptionLabeler:
    """A labeler for the labels of a model.

    Labels that are all of a published table's classes (by name or synonym), or some of them (by name), get that
    table's synonyms; otherwise every label and the name that its prompt uses are looked for.

    Args:
        labels (`Sequence[str]`): the labels.
        class_names (`Sequence[str]`): what the prompt says for each label.
        method (`str`, *optional*, defaults to `"forms"`): `"forms"` or `"wordnet"`.
        language (`str`, *optional*, defaults to `"en"`): code of their language; published tables are English.

    Returns:
        [`CaptionLabeler`]: of the table's classes, or of the labels.
    """
    for preset in PRESETS if read_language(language) == ENGLISH else ():
        if preset_columns(labels, preset) is not None:
            logger.info(f"Captions are labelled with the synonyms of the class table {preset!r}.")
            return CaptionLabeler.from_preset(preset, method=method)
    pairs = zip(labels, class_names, strict=True)
    classes = [{"name": label.replace("_", " "), "synonyms": [name.replace("_", " ")]} for label, name in pairs]
    return CaptionLabeler(classes, method=method, language=language)


def model_labeler(config: Any, method: str = "forms") -> CaptionLabeler:
    """The labeler that a model's captions were labelled with: that of its class table, if it keeps one.

    Args:
        config ([`TaiDptConfig`]): `class_table` holds the synonyms of the labels that were trained with a table of
            one's own; without it as [`default_labeler`]. Labels that the table lacks are looked for by their names.
        method (`str`, *optional*, defaults to `"forms"`): `"forms"` or `"wordnet"`.

    Returns:
        [`CaptionLabeler`]: of the model's labels.
    """
    labels, table = config.labels, config.class_table
    if not table or not table.get("synonyms"):
        return default_labeler(labels, config.class_names, method, config.language)
    stored = table["synonyms"]
    names = {name.casefold() for label in labels if label not in stored for name in (label, label.replace("_", " "))}
    classes = [
        {"name": label, "synonyms": [word for word in stored[label] if word.casefold() not in names]}
        if label in stored
        else {"name": label, "synonyms": [name.replace("_", " ")]}
        for label, name in zip(labels, config.class_names, strict=True)
    ]
    return CaptionLabeler(classes, method, table.get("ignored_forms", ()), config.language)


def class_table(labeler: Any, config: Any) -> dict[str, Any] | None:
    """What a configuration keeps of a labeler, so that later captions are labelled alike.

    Args:
        labeler ([`CaptionLabeler`] or `Callable`): what labels the captions of a training.
        config ([`TaiDptConfig`]): of the model that is trained.

    Returns:
        `dict`, *optional*: `synonyms`, a list for each label, `ignored_forms`, and the `language` if it is not
        English, ready for JSON; `None` where [`default_labeler`] finds the same by the labels alone, or nothing is
        known of the labeler.
    """
    if not isinstance(labeler, CaptionLabeler):
        return None if config.language == ENGLISH else {"language": config.language}
    columns = match_columns(labeler.class_names, config.labels)
    synonyms = {label: labeler.synonyms[column] for label, column in zip(config.labels, columns, strict=True)}
    if labeler.language != ENGLISH:
        table = {"synonyms": synonyms, "ignored_forms": list(labeler.ignored_forms)}
        return table | {"language": labeler.language}
    default = default_labeler(config.labels, config.class_names)
    found = match_columns(default.class_names, config.labels)
    usual = {label: default.synonyms[column] for label, column in zip(config.labels, found, strict=True)}
    if (synonyms, labeler.ignored_forms) == (usual, default.ignored_forms):
        return None
    return {"synonyms": synonyms, "ignored_forms": list(labeler.ignored_forms)}


def preset_columns(labels: Sequence[str], preset: str) -> list[int] | None:
    """Columns of a published class table that belong to the labels, or `None` if it does not fit them."""
    table = load_class_table(preset)
    names = {compact_name(entry["name"]): column for column, entry in enumerate(table)}
    columns = [names.get(compact_name(label)) for label in labels]
    if len(labels) == len(table) and None in columns:
        synonyms = {compact_name(word): column for column, entry in enumerate(table) for word in entry["synonyms"]}
        columns = [names.get(compact_name(label), synonyms.get(compact_name(label))) for label in labels]
    found = [column for column in columns if column is not None]
    return found if len(found) == len(columns) == len(set(found)) else None


def label_captions(labeler: Callable[[list[str]], Any], captions: Any, labels: Sequence[str]) -> np.ndarray:
    """Labels captions with the columns in the order of the model's labels.

    Args:
        labeler (`Callable`): a [`CaptionLabeler`], or any function from captions to a multi-hot matrix. One that has
            `class_names` may have more classes than the model and any order.
        captions (`list[str]` or what [`read_captions`] reads): the captions.
        labels (`Sequence[str]`): the labels of the model.

    Returns:
        `np.ndarray` of shape `(captions, classes)`: uint8.

    Raises:
        ValueError: If the labeler lacks a label or gives a matrix of another shape.
    """
    captions = caption_texts(captions)
    matrix = np.asarray(labeler(captions))  # (captions, labeler's classes)
    names = getattr(labeler, "class_names", None)
    count = len(labels) if names is None else len(names)
    if matrix.shape != (len(captions), count):
        raise ValueError(f"The labeler gave a matrix {matrix.shape} for {len(captions)} captions of {count} classes.")
    columns = range(count) if names is None else match_columns(list(names), labels)
    return np.ascontiguousarray(matrix[:, list(columns)] != 0).astype(np.uint8)  # (captions, classes)


def match_columns(names: Sequence[str], labels: Sequence[str], owner: str = "the labeler") -> list[int]:
    """Finds the labels of a model among other class names, also under the synonyms of a published class table.

    Args:
        names (`Sequence[str]`): the class names to look in.
        labels (`Sequence[str]`): the labels of the model.
        owner (`str`, *optional*, defaults to `"the labeler"`): whose names they are, for the error.

    Returns:
        `list[int]`: for each label its index among `names`.

    Raises:
        ValueError: If a label is missing; it is named.
    """
    matched = match_labels(labels, names)
    missing = [label for label, name in zip(labels, matched, strict=True) if name is None]
    if missing:
        raise ValueError(
            f"There is no class {missing[0]!r} in {owner} ({len(missing)} of the model's {len(labels)} labels are "
            "missing): name its classes as the model's labels."
        )
    places = {name: column for column, name in enumerate(names)}
    return [places[name] for name in matched if name is not None]


def match_labels(names: Sequence[str], labels: Sequence[str]) -> list[str | None]:
    """Which label of a model is meant by each class of a data set.

    Spelling aside ("dining table", "diningtable"), the names must be equal, or be synonyms in a published class table
    ("aeroplane", "airplane"). No label serves two classes.

    Args:
        names (`Sequence[str]`): classes of the data set.
        labels (`Sequence[str]`): labels of the model.

    Returns:
        `list[str | None]`: a label for each class, `None` where the model has none.
    """
    free = {compact_name(label): label for label in labels}
    found = [free.pop(compact_name(name), None) for name in names]
    for preset in PRESETS if None in found else ():
        for entry in load_class_table(preset):
            words = {compact_name(word) for word in (entry["name"], *entry["synonyms"])}
            for place, name in enumerate(names):
                if found[place] is None and compact_name(name) in words:
                    found[place] = next((free.pop(word) for word in sorted(words & free.keys())), None)
    return found


def compact_name(name: str) -> str:
    """A name as it is compared: without case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name.casefold())


__all__ = [
    "class_table",
    "compact_name",
    "default_labeler",
    "label_captions",
    "match_columns",
    "match_labels",
    "model_labeler",
    "preset_columns",
]
