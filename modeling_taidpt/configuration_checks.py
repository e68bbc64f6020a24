"""What a configuration may hold: plausible numbers, names that are no paths, one value for each class.

A configuration may come from anywhere, so all of it is checked before anything is allocated or opened.
"""

from __future__ import annotations

import inspect
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

from transformers import PreTrainedConfig

from .class_descriptions import gather_descriptions
from .languages import read_language

MAX_LAYERS = 1_000
MAX_SIZE = 10_000_000  # of any whole number of a tower: widths, vocabularies, images
MAX_LABELS = 1_000_000
LONGEST_LABEL = 1_000  # characters
BLANKS = frozenset(
    "\u115f\u1160\u2800\u3164\uffa0"
)  # letters and a sign that are drawn as nothing: fillers of Hangul, Braille
MAX_DEPTH = 20  # of what is nested in a tower's configuration
NUMBERS: dict[str, tuple[type, float, float]] = {  # kind, least and largest value of fields with one number
    "num_context_tokens": (int, 1, 1_000),
    "logit_scale": (float, 1e-6, 1e6),
    "text_spatial_scale": (float, 0, 1e6),
    "image_spatial_scale": (float, 0, 1e6),
    "local_weight": (float, 0, 1),
    "caption_bank_size": (int, 0, 1_000_000),
    "caption_bank_temperature": (float, 1e-6, 1e6),
}
SCORES: dict[str, tuple[float, float]] = {  # fields of one number, or of one for each class
    "score_scale": (0, 1e6),
    "score_bias": (-1e6, 1e6),
    "score_thresholds": (0, 1),
}
FLAGS = (
    *("class_specific_context", "shared_context", "flip", "pool_with_positions"),
    *("baked", "linear_head", "prompts_only"),
)
TEXTS = ("score_calibration", "base_model_name_or_path", "base_model_revision", "word_counts")
PER_CLASS = ("class_names", "class_input_ids", "context_lengths", "context_positions")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "period_token_id", "pad_token_id")
# How attention and experts are computed: transformers takes a name with a slash for code on the Hub, and runs it.
CODE_FIELDS = tuple(
    f"{start}{name}_implementation{end}"
    for name in ("attn", "experts")
    for start in ("", "_")
    for end in ("", "_internal")
)
PLAIN_WORD = re.compile(r"\w{1,40}")
# What a base may recommend for a training: what is learned and how, never where files are or go.
RECIPE_FORBIDDEN = re.compile(
    r"(^|_)(dir|path|file|files|token|hub|push|log|logging|report|resume|deepspeed|fsdp|accelerator|url|cache|run"
    r"|project|trackio|base_model|word_counts)(_|$)"
)
LAYER_NAMES = re.compile(r"layers|depths?|blocks|num_stages")
SURROGATES = re.compile("[\ud800-\udfff]")  # how Python reads bytes that are not UTF-8, and JSON half a character
REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
WORD_COUNTS = ".json.gz"  # the ending of a file of them
BARE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")


def check_labels(labels: Sequence[str]) -> None:
    """Raises a `ValueError` that names the first label that is empty, not a text, or repeated."""
    if isinstance(labels, str) or len(labels) == 0:
        raise ValueError(f"`labels` is {labels!r}: give a list with at least one label, as ['dog', 'cat'].")
    if len(labels) > MAX_LABELS:
        raise ValueError(f"There are {len(labels)} labels: at most {MAX_LABELS} are possible.")
    seen: dict[str, int] = {}
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not is_visible(label):
            raise ValueError(
                f"Label {index} is {_short(label)}: a label is a text with at least one visible character."
            )
        if len(label) > LONGEST_LABEL:
            raise ValueError(
                f"Label {index} has {len(label)} characters: give a word or a few, {LONGEST_LABEL} at most."
            )
        if SURROGATES.search(label):
            raise ValueError(
                f"Label {index} is {_short(label)}: it is not Unicode text, which no file could hold; write it anew."
            )
        if label in seen:
            raise ValueError(f"The label {label!r} is duplicated in `labels` ({seen[label]} and {index}): remove one.")
        seen[label] = index


def check_label_count(count: Any, id2label: Any = None) -> None:
    """Raises a `ValueError` where a number of labels is not one, or is not that of the labels at hand."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_LABELS:
        raise ValueError(f"`num_labels` is {_short(count)}: give a whole number from 1 to {MAX_LABELS}.")
    if id2label is not None and len(id2label) != count:
        raise ValueError(
            f"{count} labels were asked for and there are {len(id2label)}: load the model without `num_labels` and "
            "`id2label`, then choose its labels with `model.with_labels([...])`."
        )


def numbered_labels(id2label: Any) -> dict[int, str]:
    """Labels by number, as they are set on a configuration; numbers may be written as text.

    Raises:
        ValueError: they are not a dictionary, or a key is not a number.
    """
    try:
        return {int(key): label for key, label in id2label.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"`id2label` is {_short(id2label)}: give a dictionary from number to label.") from error


def is_visible(text: str) -> bool:
    """Whether a text has a character that is drawn by itself: no space, mark, filler or control character."""
    return any(unicodedata.category(character)[0] not in "CMZ" and character not in BLANKS for character in text)


def check_numbers(config: Any) -> None:
    """Raises a `ValueError` where a number of a [`TaiDptConfig`] is not one, not finite or not plausible."""
    for name, (kind, least, most) in NUMBERS.items():
        _check_number(name, getattr(config, name), kind, least, most)
    for name, (least, most) in SCORES.items():
        value = getattr(config, name)
        if isinstance(value, (list, tuple)):
            for index, entry in enumerate(value):
                _check_number(f"{name}[{index}]", entry, float, least, most)
        elif value is not None or name != "score_thresholds":
            _check_number(name, value, float, least, most)
    for name in FLAGS:
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"`{name}` is {_short(getattr(config, name))}: give true or false.")
    if not isinstance(config.multi_crop, bool) and config.multi_crop != "max":
        raise ValueError(f"`multi_crop` is {_short(config.multi_crop)}: give true, false or 'max'.")
    for name, values in _mapping("score_statistics", config.score_statistics).items():
        if name == "visual_photographs":
            _check_number("score_statistics['visual_photographs']", values, int, 1, math.inf)
        elif name != "source":
            for index, value in enumerate(_sequence(f"score_statistics[{name!r}]", values)):
                # the standard deviation of a class divides its scores
                least = 1e-9 if name.endswith("_std") else -1e6
                _check_number(f"score_statistics[{name!r}][{index}]", value, float, least, 1e6)


def check_texts(config: Any) -> None:
    """Raises a `ValueError` where a text of a [`TaiDptConfig`] is not one, or a name of a file is a path."""
    for name in TEXTS:
        value = getattr(config, name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"`{name}` is {_short(value)}: give a text.")
    check_word_counts(config.word_counts)
    check_bare_name("transformers_weights", getattr(config, "transformers_weights", None))
    check_base(config.base_model_name_or_path)
    if config.base_model_revision is not None and not REVISION.fullmatch(config.base_model_revision):
        raise ValueError(f"`base_model_revision` is {config.base_model_revision!r}: give a branch, tag or commit.")
    for label, origin in _mapping("label_origin", config.label_origin).items():
        if not isinstance(label, str) or not isinstance(origin, str):
            raise ValueError(f"`label_origin` holds {_short(label)}: {_short(origin)}, which are not both texts.")
    check_class_table(config.class_table)
    check_recipe(config.recommended_recipe)


def check_class_table(table: Any) -> None:
    """Raises a `ValueError` where a class table is not what a training leaves: synonyms of labels, ignored forms."""
    parts = _mapping("class_table", table)
    if not parts:
        return
    if set(parts) - {"synonyms", "ignored_forms", "language"} or not {"synonyms", "language"} & set(parts):
        raise ValueError(
            f"`class_table` holds {_short(sorted(map(str, parts)))}: give synonyms, ignored_forms and language."
        )
    if "language" in parts and read_language(parts["language"]) != parts["language"]:
        raise ValueError(f"`class_table['language']` is {_short(parts['language'])}: give its code in lower case.")
    lists = dict(_mapping("class_table['synonyms']", parts.get("synonyms", {})))
    lists |= {"": parts.get("ignored_forms", [])}
    for label, words in lists.items():
        name = f"class_table['synonyms'][{label!r}]" if label else "class_table['ignored_forms']"
        texts = _sequence(name, words)
        if not isinstance(label, str) or not all(isinstance(word, str) and word for word in texts):
            raise ValueError(f"`{name}` is {_short(words)}: give a list of texts.")


def check_bare_name(field: str, value: Any) -> None:
    """Raises a `ValueError` where the name of a file beside the configuration is a path, an address or hidden."""
    if value is not None and (not isinstance(value, str) or not BARE_NAME.fullmatch(value)):
        raise ValueError(f"`{field}` is {_short(value)}: give the bare name of a file beside the configuration.")


def check_word_counts(value: Any) -> None:
    """Raises a `ValueError` where the name of a file of word counts is a path, or that of another kind of file.

    The file is copied and replaced under its name: it must not be that of weights, code or a person's own work.
    """
    check_bare_name("word_counts", value)
    if value is not None and not value.endswith(WORD_COUNTS):
        raise ValueError(f"`word_counts` is {_short(value)}: give the name of a file that ends in {WORD_COUNTS}.")


def check_base(value: str | None) -> None:
    """Raises a `ValueError` where a base is neither the name of a repository nor a folder with a plain path."""
    if value is None:
        return
    parts = re.split(r"[/\\]", value)
    if not value.strip() or "://" in value or ".." in parts or not value.isprintable() or value.startswith("~"):
        raise ValueError(
            f"`base_model_name_or_path` is {_short(value)}: give the name of a repository, as 'org/clip', or the full "
            "path of a folder."
        )


def check_recipe(recipe: Any) -> None:
    """Raises a `ValueError` where a recommended recipe says more than what is learned and how.

    Args:
        recipe (`dict`, *optional*): `{"name": ..., "model": {...}, "training": {...}}`.
    """
    recipe = _mapping("recommended_recipe", recipe)
    for part in ("model", "training"):
        for name, value in _mapping(f"recommended_recipe[{part!r}]", recipe.get(part)).items():
            where = f"recommended_recipe[{part!r}][{name!r}]"
            if not isinstance(name, str) or RECIPE_FORBIDDEN.search(name):
                raise ValueError(f"`{where}` is not for a recipe: it says what is learned, not where files are or go.")
            for entry in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(entry, str):
                    if re.search(r"[/\\]|\.\.", entry) or not entry.isprintable():
                        raise ValueError(f"`{where}` is {_short(entry)}: a recipe holds no paths and no addresses.")
                elif isinstance(entry, float) and not math.isfinite(entry):
                    raise ValueError(f"`{where}` is {entry}: give a finite number.")
                elif not (entry is None or isinstance(entry, (bool, int, float))):
                    raise ValueError(f"`{where}` is {_short(entry)}: give a number, a word, or a list of them.")


def check_classes(config: Any) -> None:
    """Raises a `ValueError` where a field with an entry for each class has another number of them, or wrong ones."""
    check_labels(config.labels)
    if set(config.id2label) != set(range(len(config.labels))):
        raise ValueError(f"`id2label` has the keys {_short(sorted(config.id2label))}: number the labels from 0 on.")
    count = len(config.labels)
    for name in (*PER_CLASS, *SCORES):
        values = getattr(config, name)
        if values is None or (name in SCORES and not isinstance(values, (list, tuple))):
            continue
        if len(_sequence(name, values)) != count:
            raise ValueError(f"`{name}` has {len(values)} entries for {count} labels: give one each.")
    for name, values in _mapping("score_statistics", config.score_statistics).items():
        if name in ("source", "visual_photographs"):
            continue
        if len(_sequence(f"score_statistics[{name!r}]", values)) != count:
            raise ValueError(f"`score_statistics` has {len(values)} values of {name} for {count} labels.")
    for index, name in enumerate(config.class_names):
        if not isinstance(name, str) or not is_visible(name):
            raise ValueError(f"`class_names[{index}]` is {_short(name)}: give a text.")
    for index, length in enumerate(config.context_lengths or ()):
        _check_number(f"context_lengths[{index}]", length, int, 0, config.num_context_tokens)
    if isinstance(config.templates, Mapping) and "descriptions" in config.templates:
        gather_descriptions(_mapping("templates['descriptions']", config.templates["descriptions"]), config.labels)
    for template in _templates(config.templates):
        if not isinstance(template, str) or "{}" not in template:
            raise ValueError(
                f"`templates` holds {_short(template)}, which has no {{}} for the class name: write "
                "'a photo of a {}.', for example."
            )


def check_token_ids(config: Any) -> None:
    """Raises a `ValueError` where a token id is not one of the text tower's vocabulary."""
    most = config.clip_config.text_config.vocab_size - 1
    for name in TOKEN_IDS:
        if getattr(config, name) is not None:
            _check_number(name, getattr(config, name), int, -1 if name == "pad_token_id" else 0, most)
    for index, ids in enumerate(config.class_input_ids or ()):
        for position, token in enumerate(_sequence(f"class_input_ids[{index}]", ids)):
            _check_number(f"class_input_ids[{index}][{position}]", token, int, 0, most)


def check_keys(fields: Any, kind: type) -> None:
    """Raises a `ValueError` where a stored field would take the place of what the class computes.

    Args:
        fields (`Mapping`): as stored.
        kind (`type`): class of the configuration.
    """
    for key in map(str, fields):
        found = inspect.getattr_static(kind, key, None)
        is_computed = isinstance(found, (FunctionType, classmethod, staticmethod))
        is_computed |= isinstance(found, property) and found.fset is None
        if is_computed or key.startswith("__"):
            raise ValueError(f"`{key[:80]}` is not a field that can be stored: take it out.")


def check_code(fields: Any) -> None:
    """Raises a `ValueError` where a stored configuration chooses code of others, as kernels that the Hub holds.

    Args:
        fields: as stored, with all that is nested in them. Who loads a model may still choose such code.
    """
    waiting = [fields]
    while waiting:
        part = waiting.pop()
        entries = list(part.items()) if isinstance(part, Mapping) else []
        waiting += [value for _, value in entries] if entries else list(part) if isinstance(part, list) else []
        for name, value in entries:
            chosen = list(value.values()) if isinstance(value, Mapping) else [value]
            if name in CODE_FIELDS and not all(one is None or PLAIN_WORD.fullmatch(str(one)) for one in chosen):
                raise ValueError(
                    f"`{name}` is {_short(value)}: a stored configuration names no code of others, as eager or sdpa; "
                    "choose other kernels when you load the model."
                )


def check_towers(value: Any, where: str = "clip_config", depth: int = 0) -> None:
    """Raises a `ValueError` where a number in the configuration of a CLIP is not finite or not plausible.

    Args:
        value: a configuration as nested dictionaries, lists and numbers.
        where (`str`): its name, for the message.
        depth (`int`): how deep it is nested.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"`{where}` is nested deeper than {MAX_DEPTH} levels: no CLIP has such a configuration.")
    if isinstance(value, Mapping):
        check_keys(value, PreTrainedConfig)
        for name, entry in value.items():
            check_towers(entry, f"{where}.{name}", depth + 1)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "patch_size"):
            entry = value.get(name)
            if isinstance(entry, (int, float)) and entry < 1:
                raise ValueError(f"`{where}.{name}` is {entry}: give a whole number of at least 1.")
    elif isinstance(value, (list, tuple)):
        if len(value) > MAX_SIZE:
            raise ValueError(f"`{where}` has {len(value)} entries: no CLIP has so many.")
        for index, entry in enumerate(value):
            check_towers(entry, f"{where}[{index}]", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{where}` is {value}: give a finite number.")
    elif isinstance(value, int) and not isinstance(value, bool):
        name = where.rpartition(".")[2]
        most = MAX_LAYERS if LAYER_NAMES.search(name) else MAX_LABELS if name == "num_labels" else MAX_SIZE
        if abs(value) > most:
            raise ValueError(f"`{where}` is {value}: no CLIP has more than {most}.")


def _templates(templates: Any) -> list[Any]:
    """All templates of a zero-shot model, of both branches where they differ."""
    if isinstance(templates, Mapping):
        branches = [name for name in templates if name != "descriptions"]
        if set(branches) not in ({"global", "local"}, set()):
            raise ValueError(f"`templates` has the keys {_short(sorted(map(str, templates)))}: give global and local.")
        return [text for name in branches for text in _sequence(f"templates[{name!r}]", templates[name])]
    return list(_sequence("templates", [] if templates is None else templates))


def _check_number(name: str, value: Any, kind: type, least: float, most: float) -> None:
    allowed = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not least <= value <= most:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"`{name}` is {_short(value)}: give {what} from {least:g} to {most:g}.")


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"`{name}` is {_short(value)}: give a dictionary.")
    return value or {}


def _sequence(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"`{name}` is {_short(value)}: give a list.")
    return value


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{text or 'it is damaged'} ({type(error).__name__})."


def _short(value: Any) -> str:
    """A value as a message shows it, on one line and not too long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


__all__ = [
    "check_bare_name",
    "check_base",
    "check_classes",
    "check_code",
    "check_keys",
    "check_label_count",
    "check_labels",
    "check_numbers",
    "check_recipe",
    "check_texts",
    "check_token_ids",
    "check_towers",
    "check_word_counts",
    "is_visible",
    "numbered_labels",
    "one_line",
]
