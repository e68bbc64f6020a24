"""`taidpt label` and `taidpt classes`: which classes captions name, and which classes there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    DEFAULT_MODEL,
    MOST,
    JsonOption,
    LanguageOption,
    find_source,
    make_table,
    print_json,
    read_settings,
    stdout,
    working,
)

CaptionDataOption = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="NAME=VALUE", help="Option of a data set on the Hub, as split=train."),
]
OUTPUT_SUFFIXES = (".jsonl", ".parquet")


def label(
    captions: Annotated[
        str,
        typer.Argument(
            help="Captions: .txt (one a line), .csv, .tsv, .json, .jsonl or .parquet; or a data set on the Hub.",
            show_default=False,
        ),
    ],
    labels: Annotated[
        str,
        typer.Option(
            "--labels", "-l", help="coco80, voc20, nuswide81, a file of labels or class table, or words with commas."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for captions with their labels: .jsonl or .parquet.")
    ] = None,
    column: Annotated[str, typer.Option("--column", help="Column of the captions.")] = "caption",
    settings: CaptionDataOption = None,
    method: Annotated[str, typer.Option("--method", help="forms, or the published wordnet.")] = "forms",
    language: LanguageOption = "en",
    max_captions: Annotated[
        int | None, typer.Option("--max-captions", min=1, max=MOST, help="Read the first ones only.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the labels that captions name, count them, and write them down if wanted.

    Look at the counts before you train: a label that no caption names learns nothing.

    **Examples**

    - `taidpt label captions.txt --labels labels.txt`
    - `taidpt label captions.jsonl --labels coco80 --output labelled.parquet`
    - `taidpt label captions.txt --labels table.json --language zh`
    """
    if output is not None and output.suffix.lower() not in OUTPUT_SUFFIXES:
        raise ValueError(f"The output file {str(output)!r} must end in {' or '.join(OUTPUT_SUFFIXES)}.")
    from modeling_taidpt.captions.corpus import read_captions
    from modeling_taidpt.captions.label_files import read_labels
    from modeling_taidpt.captions.labels import default_labeler, label_captions

    with working(as_json):
        names, labeler = read_labels(labels, method, language)
        labeler = labeler or default_labeler(names, names, method, language)
        corpus = open_corpus(captions, settings, column)
        texts = read_captions(corpus, column, max_captions=max_captions).captions
        matrix = label_captions(labeler, texts, names)  # (captions, classes)
        if output is not None:
            _write_labelled(output, texts, [[names[index] for index in row.nonzero()[0]] for row in matrix])
    counts = dict(zip(names, matrix.sum(axis=0).tolist(), strict=True))
    named = int(matrix.any(axis=1).sum())
    if as_json:
        print_json({"captions": len(texts), "captions_with_labels": named, "counts": counts})
        return
    table = make_table("label", "captions")
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        table.add_row(name, str(count))
    stdout().print(table)
    stdout().print(f"{named} of {len(texts)} captions name a label.")
    unnamed = sum(count == 0 for count in counts.values())
    if unnamed:
        stdout().print(f"{unnamed} labels are named by none: give them synonyms in a class table, or more captions.")
    if output is not None:
        stdout().print(f"The labelled captions are in {output}.")


def open_corpus(source: str, settings: Sequence[str] | None = None, column: str = "caption") -> Any:
    """Captions for [`read_captions`]: a file by its path, or a data set on the Hub.

    Args:
        source (`str`): the file, or the repository.
        settings (`Sequence[str]`, *optional*): NAME=VALUE texts of `--data`, as `split=train`.
        column (`str`, *optional*, defaults to `"caption"`): column of the captions.

    Returns:
        `str` or `Dataset`.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ValueError: options are given for a file, or the data set cannot be read.
    """
    from modeling_taidpt.data.loaders import is_repository

    options = read_settings(list(settings or ()), "--data", "split=train")
    if source.strip() and (is_repository(source) or Path(source).is_dir()):  # no text is the folder we are in
        from modeling_taidpt.data.captions import load_caption_dataset

        return load_caption_dataset(source, column, **options)
    if not Path(source).is_file():
        raise FileNotFoundError(f"There is no caption file {source!r}: check the path.")
    if options:
        raise ValueError(f"--data is for data sets on the Hub, and {source!r} is a file: leave it out.")
    return source


def _write_labelled(output: Path, captions: Sequence[str], labels: Sequence[list[str]]) -> None:
    from modeling_taidpt.atomic import staged_file

    rows = [{"caption": caption, "labels": names} for caption, names in zip(captions, labels, strict=True)]
    with staged_file(output) as staged:
        if output.suffix.lower() == ".jsonl":
            staged.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema({"caption": pa.string(), "labels": pa.list_(pa.string())})
        pq.write_table(pa.Table.from_pylist(rows, schema), staged)


def classes(
    source: Annotated[
        str,
        typer.Argument(help="Checkpoint (folder or Hub repository), or coco80, voc20, nuswide81, or a class table."),
    ] = DEFAULT_MODEL,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Add WordNet's synonyms, to be read before they are used.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the labels of a checkpoint, or the classes and synonyms of a table.

    For a checkpoint the origin says whether the prompts of a label were learned, shared with other labels, or are the
    template "a photo of a {}.".

    **Examples**

    - `taidpt classes`
    - `taidpt classes coco80 --json`
    - `taidpt classes labels.txt --suggest`
    """
    with working(as_json):
        rows = _read_classes(source)
        if suggest:
            from modeling_taidpt.captions.class_tables import suggest_synonyms

            for row in rows:
                row["suggested"] = suggest_synonyms(row["name"])
    if as_json:
        print_json(rows)
        return
    columns = list(rows[0])
    table = make_table(*(column if column == "name" else f" {column}" for column in columns))
    for row in rows:
        table.add_row(
            *(", ".join(row[column]) if isinstance(row[column], list) else row[column] for column in columns)
        )
    stdout().print(table)


def _read_classes(source: str) -> list[dict[str, Any]]:
    from modeling_taidpt.captions.class_tables import PRESETS, load_class_table
    from modeling_taidpt.captions.label_files import TABLE_SUFFIXES, read_labels

    if source in PRESETS:
        return load_class_table(source)
    if Path(source).suffix.lower() in TABLE_SUFFIXES or source.lower().endswith(".txt"):
        names, labeler = read_labels(source)
        synonyms = [[name] for name in names] if labeler is None else labeler.synonyms
        rows: list[dict[str, Any]] = [
            {"name": name, "synonyms": words} for name, words in zip(names, synonyms, strict=True)
        ]
        if labeler is not None and labeler.descriptions:
            rows = [row | {"descriptions": labeler.descriptions.get(row["name"], [])} for row in rows]
        return rows
    from modeling_taidpt.hub import is_prompts_config
    from modeling_taidpt.hub_errors import plain_errors

    with plain_errors(source):
        from transformers import AutoConfig

        import modeling_taidpt  # noqa: F401  (registers the configuration)

        config = AutoConfig.from_pretrained(find_source(source), trust_remote_code=False)
        if not is_prompts_config(config):
            raise ValueError(
                f"{source!r} is a `{config.model_type}` checkpoint, not a `taidpt` one: it has no labels."
            )
    columns: list[Any] = [config.labels, config.class_names, [config.label_origin[label] for label in config.labels]]
    return [dict(zip(("name", "prompt name", "origin"), row, strict=True)) for row in zip(*columns, strict=True)]


__all__ = ["CaptionDataOption", "classes", "label", "open_corpus"]
