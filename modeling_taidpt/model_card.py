"""Model cards, rendered from what was measured; see `card_template.py` for the text."""

from __future__ import annotations

import importlib
import json
import math
import numbers
import os
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from .atomic import staged_file
from .card_template import CARD_TEMPLATE
from .configuration_taidpt import TaiDptConfig
from .languages import ENGLISH, default_template
from .origins import SHIPPED_BASES, Origin, own_origin
from .stored_weights import find_weight_files

CARD_NAME = "README.md"
REPORT_NAME = "training_report.json"
EXAMPLE_NAME = "example.jpg"  # a figure of what the model finds in a photograph
MARK = "<!-- Written by taidpt from what was measured. Remove this line before you edit, and your text stays. -->"
REPOSITORY_NAME = re.compile(r"[\w.-]+/[\w.-]+")
FIGURES = (  # of the trainer: name, baseline, what was measured on, its identifier
    ("caption_map", "zero_shot_caption_map", "held-out captions", "captions"),
    ("held_out_map", "zero_shot_held_out_map", "held-out images", "held-out images"),
    ("image_map", "zero_shot_image_map", "evaluation images", "images"),
)
LABELS_SHOWN = 200
MARKUP = re.compile(r"[\\`*_\[\]|~!#$&<>]")
# Escaped with a backslash these would still begin a formula, as `\\(` and `$` do where renderers know mathematics.
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": "&#92;", "$": "&#36;"}


def render_card(
    config: TaiDptConfig,
    report: dict[str, Any] | None,
    name: str,
    prompts_only: bool = False,
    has_example: bool = False,
    **metadata: Any,
) -> ModelCard:
    """Renders the card of a model.

    Args:
        config ([`TaiDptConfig`]): labels, prompts, base.
        report (`dict`, *optional*): what [`TaiDptTrainer`] noted and what was measured; without one the card says
            that the model was never evaluated.
        name (`str`): repository or folder of the model.
        prompts_only (`bool`, *optional*, defaults to `False`): whether the checkpoint leaves the CLIP out.
        has_example (`bool`, *optional*, defaults to `False`): whether `example.jpg` is beside the card, to be shown.
        **metadata: further fields of the header, as `license` and `language`, and `tags` that are added.

    Returns:
        `huggingface_hub.ModelCard`: with the figures as `model-index`.
    """
    report = clean_report(report or {})
    figures = _figures(report)
    base = config.base_model_name_or_path
    on_the_hub = bool(base) and REPOSITORY_NAME.fullmatch(base) is not None and not os.path.isdir(base)
    tags = ["multi-label-image-classification", "taidpt", "prompt-tuning", "clip"]
    extra_tags = metadata.pop("tags", None) or []
    known = config.language != ENGLISH or config.base_model_name_or_path in SHIPPED_BASES
    language = config.language if known else None
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        base_model=base if on_the_hub else None,
        tags=list(dict.fromkeys([*tags, *([extra_tags] if isinstance(extra_tags, str) else extra_tags)])),
        model_name=name.split("/")[-1],
        eval_results=[_result(figure) for figure in figures] or None,
        **{"license": _license(report.get("license")) or _base_license(base), "language": language} | metadata,
    )
    per_class = report.get("corpus", {}).get("per_class", {})
    facts = {
        "name": name,
        "text": plain_text,
        "code": code_text,
        "labels": [plain_text(label) for label in config.labels[:LABELS_SHOWN]],
        "more_labels": len(config.labels) - LABELS_SHOWN,
        "per_class": {plain_text(label): count for label, count in list(per_class.items())[:LABELS_SHOWN]},
        "config": config,
        "base": _place(base),
        "base_is_shipped": base in SHIPPED_BASES,
        "prompts_only": prompts_only,
        "example": EXAMPLE_NAME if has_example else None,
        "report": report,
        "figures": figures,
        "template": default_template(config.language),
        "synonyms": _synonyms(config),
        "held_out_for": "to choose the checkpoint" if _chose_checkpoint(report) else "to measure it",
        "origins": sorted({origin for origin in config.label_origin.values() if origin != "learned"}),
    }
    return ModelCard.from_template(data, template_str=CARD_TEMPLATE, mark=MARK, **facts)


def card_folder() -> Path:
    """The folder `hub_cards`, which is beside `pipelines` in the sources and in the installed package alike."""
    return Path(str(importlib.import_module(f"{__package__}.pipelines").__file__)).parents[1] / "hub_cards"


def write_card(model: PreTrainedModel, folder: Path, name: str, has_example: bool = False, **metadata: Any) -> None:
    """Writes the card of a model, and its training report if there is one, into a folder.

    A card that somebody wrote for exactly these prompts goes with them.

    Args:
        model ([`TaiDptModel`]): the model that was saved.
        folder (`Path`): where to.
        name (`str`): what the card calls the model.
        has_example (`bool`, *optional*, defaults to `False`): as of [`render_card`].
        **metadata: further fields of the header; see [`render_card`].
    """
    report = known_report(model)
    if report is not None:
        report = clean_report(report)
        _write(folder / REPORT_NAME, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    origin = own_origin(model.config)
    card = origin.find(CARD_NAME) if origin is not None and _holds_same_model(origin, model) else None
    if card is not None and has_edited_card(Path(card).parent):
        _write(folder / CARD_NAME, Path(card).read_text(encoding="utf-8"))
        return
    stored = TaiDptConfig.from_pretrained(folder) if (folder / "config.json").is_file() else model.config
    rendered = render_card(model.config, report, name, stored.prompts_only, has_example, **metadata)
    _write(folder / CARD_NAME, str(rendered))


def record_in_folder(folder: Path, figure: dict[str, Any]) -> None:
    """Notes a measured figure in the report and the card of a saved model.

    Of a card that was edited only the header changes; another is rendered anew.

    Args:
        folder (`Path`): holds the model.
        figure (`dict`): as of [`add_evaluation`].
    """
    config = TaiDptConfig.from_pretrained(folder)
    report = add_evaluation(_read_report(folder / REPORT_NAME) or {"labels": config.labels}, figure)
    _write(folder / REPORT_NAME, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if has_edited_card(folder):
        card = ModelCard.load(folder / CARD_NAME)
        result = _result(figure)
        others = [entry for entry in card.data.eval_results or [] if not result.is_equal_except_value(entry)]
        card.data.eval_results = [*others, result]
        card.data.model_name = card.data.get("model_name") or folder.resolve().name
        _write(folder / CARD_NAME, str(card))
    else:
        refresh_card(folder)


def refresh_card(folder: Path) -> None:
    """Renders the card of a saved model anew, from what is beside it; a card that was edited stays.

    Licence, language and tags of the earlier card are kept.
    """
    if has_edited_card(folder):
        return
    config, metadata = TaiDptConfig.from_pretrained(folder), {}
    if (folder / CARD_NAME).is_file():
        earlier = ModelCard.load(folder / CARD_NAME).data
        metadata = {name: earlier.get(name) for name in ("license", "language", "tags") if earlier.get(name)}
    report = _read_report(folder / REPORT_NAME)
    has_example = (folder / EXAMPLE_NAME).is_file()
    card = render_card(config, report, folder.resolve().name, config.prompts_only, has_example, **metadata)
    _write(folder / CARD_NAME, str(card))


def add_evaluation(report: dict[str, Any], figure: dict[str, Any]) -> dict[str, Any]:
    """A training report with one more measured figure; one of the same metric and data is replaced.

    Args:
        report (`dict`): the report.
        figure (`dict`): `dataset_name`, `dataset_type`, `metric_name`, `metric_type`, `metric_value` and, if wanted,
            `baseline`, the template's figure.

    Returns:
        `dict`: a new report.
    """
    same = ("dataset_name", "dataset_type", "metric_name", "metric_type")
    kept = [entry for entry in report.get("evaluations", []) if any(entry[key] != figure[key] for key in same)]
    return {**report, "evaluations": [*kept, figure]}


def add_tags(folder: Path, tags: list[str]) -> None:
    """Adds tags to the card in a folder."""
    card = ModelCard.load(folder / CARD_NAME)
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
    _write(folder / CARD_NAME, str(card))


def has_edited_card(folder: Path) -> bool:
    """Whether a folder holds a card that was not rendered here, or was edited since."""
    path = folder / CARD_NAME
    return path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace")


def known_report(model: Any) -> dict[str, Any] | None:
    """What is known of a model's training: noted on it, or stored beside the checkpoint that it is unchanged from."""
    if model.training_report is not None:
        return clean_report(model.training_report)
    origin = own_origin(model.config)
    path = None if origin is None else origin.find(REPORT_NAME)
    if origin is None or path is None or not _holds_same_model(origin, model):
        return None
    return _read_report(Path(path))


def _read_report(path: Path) -> dict[str, Any] | None:
    """A stored report; `None` where there is none that can be read."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return clean_report(report) if isinstance(report, dict) else None


def _write(path: Path, text: str) -> None:
    with staged_file(path) as staged:
        staged.write_text(text, encoding="utf-8")


def _holds_same_model(origin: Origin, model: PreTrainedModel) -> bool:
    """Whether a checkpoint has the labels and, bit for bit, the prompts of a model."""
    config = origin.find(CONFIG_NAME)
    files = find_weight_files(origin)
    if config is None or not files or TaiDptConfig.from_json_file(config).labels != model.config.labels:
        return False
    ours = {key: value for key, value in model.state_dict().items() if not key.startswith("clip.")}
    theirs: dict[str, torch.Tensor] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            theirs |= {key: file.get_tensor(key) for key in file.keys() if not key.startswith("clip.")}  # noqa: SIM118
    if any(value.is_meta for value in ours.values()):  # offloaded: they are not here to be compared
        return False
    return ours.keys() == theirs.keys() and all(
        ours[key].shape == theirs[key].shape and torch.equal(ours[key].cpu().float(), theirs[key].float())
        for key in ours
    )


def _figures(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that was measured, as arguments of `EvalResult` and with the template's figure as `baseline`."""
    metrics, held_out = report.get("metrics", {}), report.get("corpus", {}).get("held_out")
    figures = [
        {
            "dataset_name": f"{held_out} {what}" if held_out and what.startswith("held-out") else what,
            "dataset_type": kind,
            "metric_type": "mean_average_precision",
            "metric_name": "mAP, merged score",
            "metric_value": round(metrics[name], 1),
            "baseline": None if metrics.get(baseline) is None else round(metrics[baseline], 1),
        }
        for name, baseline, what, kind in FIGURES
        if metrics.get(name) is not None
    ]
    return figures + [{"baseline": None} | evaluation for evaluation in report.get("evaluations", [])]


def _result(figure: dict[str, Any]) -> EvalResult:
    arguments = {name: value for name, value in figure.items() if name != "baseline"}
    if arguments["dataset_type"] == "images":  # figures of one type would share the name of the first
        arguments["dataset_type"] = re.sub(r"\W+", "-", arguments["dataset_name"].lower()).strip("-") or "images"
    return EvalResult("image-classification", task_name="Multi-label image classification", **arguments)


def _base_license(base: str | None) -> str | None:
    """The licence of a model on the base that ships: that of the base."""
    return "apache-2.0" if base in SHIPPED_BASES else None


def _synonyms(config: TaiDptConfig) -> dict[str, list[str]]:
    """Words that captions were searched for beside each label, as texts of the card."""
    table = (config.class_table or {}).get("synonyms", {})
    own = {label: [word for word in words if word.casefold() != label.casefold()] for label, words in table.items()}
    named = [(label, words) for label, words in own.items() if words][:LABELS_SHOWN]
    return {plain_text(label): [plain_text(word) for word in words] for label, words in named}


def _chose_checkpoint(report: dict[str, Any]) -> bool:
    """Whether a training kept the checkpoint that was best on what was held out."""
    return bool(report.get("arguments", {}).get("load_best_model_at_end", True))


def _license(value: str | None) -> str | None:
    """An identifier of a licence, as the header has it; other texts are for the card alone."""
    return value if value and re.fullmatch(r"[a-zA-Z0-9.+-]{1,60}", value) else None


def _place(base: str | None) -> str | None:
    """A base as the card names it: of a folder of this machine its name alone."""
    return Path(base).name if base and (os.path.isabs(base) or os.path.isdir(base)) else base


def clean_report(report: Any) -> dict[str, Any]:
    """What of a report may be stored and shown: known entries of the right kinds, nothing else.

    Args:
        report (`dict`): of a trainer, or read beside a checkpoint of anybody.

    Returns:
        `dict`: a new one, ready for JSON.
    """
    report = report if isinstance(report, dict) else {}
    corpus, evaluations = report.get("corpus"), report.get("evaluations")
    clean: dict[str, Any] = {
        "labels": [label for label in _list(report.get("labels")) if isinstance(label, str)],
        "arguments": _entries(report.get("arguments"), (bool, int, float, str, list)),
        "metrics": _entries(report.get("metrics"), (int, float)),
        "versions": _entries(report.get("versions"), (str,)),
        "evaluations": [figure for entry in _list(evaluations) if (figure := _figure(entry)) is not None],
    }
    for name, kinds in (
        ("recipe", (str,)),
        ("license", (str,)),
        ("command", (str,)),
        ("seed", (int,)),
        ("steps", (int,)),
    ):
        if isinstance(report.get(name), kinds):
            clean[name] = report[name]
    if isinstance(corpus, dict):
        clean["corpus"] = {
            **{
                name: corpus[name]
                for name in ("captions", "corpus_captions", "images", "held_out")
                if isinstance(corpus.get(name), int)
            },
            **({"labeling": corpus["labeling"]} if isinstance(corpus.get("labeling"), str) else {}),
            "sources": [Path(source).name for source in _list(corpus.get("sources")) if isinstance(source, str)],
            "per_class": _entries(corpus.get("per_class"), (int,)),
        }
    return {name: value for name, value in clean.items() if value not in ([], {})}


def _figure(entry: Any) -> dict[str, Any] | None:
    """A measured figure with all that a card says of it; `None` of something else."""
    texts = ("dataset_name", "dataset_type", "metric_name", "metric_type")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in texts):
        return None
    numbers = {name: _number(entry.get(name)) for name in ("metric_value", "baseline")}
    return None if numbers["metric_value"] is None else {name: entry[name] for name in texts} | numbers


def _number(value: Any) -> float | None:
    """A finite number as JSON has it, of NumPy's kinds too."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _entries(value: Any, kinds: tuple[type, ...]) -> dict[str, Any]:
    entries = value.items() if isinstance(value, dict) else ()
    return {
        name: entry
        for name, entry in entries
        if isinstance(name, str)
        and isinstance(entry, kinds)
        and (not isinstance(entry, float) or math.isfinite(entry))
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def plain_text(value: Any) -> str:
    """A text that Markdown and HTML take for nothing but text, on one line."""
    text = " ".join("".join(c if c.isprintable() or c.isspace() else "" for c in str(value)).split())
    text = MARKUP.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), text)
    text = re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", text)  # at the start of a line it would begin a list
    # renderers make links of bare addresses
    return text.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def code_text(value: Any) -> str:
    """A text between backticks or in a block of code, which it cannot end, on one line."""
    return " ".join("".join(c for c in str(value) if c.isprintable() or c.isspace()).split()).replace("`", "'")


__all__ = [
    "EXAMPLE_NAME",
    "MARK",
    "add_evaluation",
    "add_tags",
    "card_folder",
    "clean_report",
    "code_text",
    "has_edited_card",
    "known_report",
    "plain_text",
    "record_in_folder",
    "refresh_card",
    "render_card",
    "write_card",
]
