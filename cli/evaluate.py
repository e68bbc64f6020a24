"""`taidpt evaluate`: measures models on labelled photographs and writes a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    DEFAULT_MODEL,
    DeviceOption,
    JsonOption,
    TilesOption,
    load_model,
    make_table,
    print_json,
    read_settings,
    say,
    stdout,
    working,
)


def evaluate(
    images: Annotated[
        str,
        typer.Argument(
            help="Folder of VOC2007, COCO 2014, NUS-WIDE or own images with labels.json or labels.csv; or a data set "
            "on the Hub.",
            show_default=False,
        ),
    ],
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Checkpoint, by default the one that ships; several are runs of a method."),
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option("--compare", help="Another checkpoint to compare with; may be repeated.")
    ] = None,
    baselines: Annotated[
        list[str] | None,
        typer.Option("--baseline", help="template, templates (80), brackets or prototypes; may be repeated."),
    ] = None,
    captions: Annotated[str | None, typer.Option("--captions", "-c", help="Corpus of the prototypes.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for metrics.json, a CSV of the classes and plots.")
    ] = None,
    update_card: Annotated[
        bool, typer.Option("--update-card", help="Note the mAP in the card of the model, which must be a folder.")
    ] = False,
    dataset_name: Annotated[
        str | None,
        typer.Option("--dataset-name", help="What the card calls the images, instead of the folder's name."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="voc, coco, nuswide, folder or hub; else told by the files."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="NAME=VALUE", help="Option of the data set's loader, as split=test."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="No class without a label of the model.")] = False,
    resamples: Annotated[
        int, typer.Option(min=0, max=10**6, help="Bootstrap resamples over images; 0 for no intervals.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples and of the prototypes' captions.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 32,
    tiles: TilesOption = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure models on labelled images: mAP of every branch with bootstrap intervals, and differences of models.

    The classes of the data set are matched with the labels of the model by name. A class without a label gets the
    model's shared context or the template, which is said; with --strict it is an error.

    **Examples**

    - `taidpt evaluate photos --output report`
    - `taidpt evaluate photos --model runs/a --compare runs/b --baseline template --output report`
    - `taidpt evaluate photos --model runs/pets --baseline template --update-card`
    - `taidpt evaluate VOC2007 --model runs/seed0 --model runs/seed1 --model runs/seed2 --data split=test`
    """
    names = models or [DEFAULT_MODEL]
    for name in names if update_card else ():
        if not (Path(name) / "config.json").is_file():
            raise ValueError(f"--update-card writes into the model's folder, and {name!r} is none: save it in one.")
    with working(as_json):
        figures = _evaluate(
            _load(images, dataset, settings or [], names),
            names,
            compare or [],
            baselines or [],
            captions,
            output,
            {
                "strict": strict,
                "resamples": resamples,
                "seed": seed,
                "batch_size": batch_size,
                "device": device,
                "tiles": tiles,
            },
        )
        for name in names if update_card else ():
            _update_card(name, figures, images, dataset_name, settings or [])
    if as_json:
        print_json(figures)
        return
    _print_figures(figures)
    if output is not None:
        stdout().print(f"The report is in {output}.")


def _load(images: str, dataset: str | None, settings: list[str], names: list[str]) -> Any:
    """The data set; everything that can be wrong with the command is said before a model is loaded."""
    from modeling_taidpt.data.loaders import load_images

    if len(set(names)) < len(names):
        raise ValueError("A model is named twice in --model: name each run once.")
    options: dict[str, Any] = dict(read_settings(settings, "--data", "split=test"))
    if options:
        import yaml

        options = {name: yaml.safe_load(value) for name, value in options.items()}
    return load_images(images, dataset, **options)


def _evaluate(
    data: Any,
    names: list[str],
    compare: list[str],
    baselines: list[str],
    captions: str | None,
    output: Path | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    from modeling_taidpt.data.dataset import UNKNOWN, class_names_of, image_label_matrix
    from modeling_taidpt.evaluation.evaluate import baseline_models, evaluate_scores, score_images, with_classes
    from modeling_taidpt.evaluation.report import write_report

    classes = class_names_of(data)
    if classes is None:
        raise ValueError("The data set does not say the names of its classes: give them with --data class_names=.")
    labels = image_label_matrix(data)  # (images, classes)
    unknown = image_label_matrix(data, column=UNKNOWN) if UNKNOWN in data.column_names else None
    scoring = {"batch_size": options["batch_size"], "progress": sys.stderr.isatty()}
    runs: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name in dict.fromkeys([*names, *compare]):
        model = with_classes(load_model(name, options["device"]), classes, options["strict"])
        if options["tiles"]:
            model.config.multi_crop = "max"
        several = {name: model}
        if name == names[0] and baselines:
            several |= baseline_models(model, baselines, captions, seed=options["seed"])
        scores = score_images(several, data, **scoring)
        (runs if name in names else others)[name] = scores.pop(name)
        others.update(scores)
    figures = evaluate_scores(runs, labels, classes, others, unknown, options["resamples"], options["seed"])
    if output is not None:
        write_report(output, figures, runs | others, labels, unknown)
    return figures


def _update_card(name: str, figures: dict[str, Any], images: str, title: str | None, settings: list[str]) -> None:
    """Notes the merged mAP of a model in its folder: report and card."""
    from modeling_taidpt.model_card import record_in_folder

    on_the_hub = not Path(images).is_dir()
    called = " ".join([images if on_the_hub else Path(images).resolve().name, *settings])
    template = figures["models"].get("template")
    record_in_folder(
        Path(name),
        {
            "dataset_name": title or f"{called}, {figures['images']} images, {figures['classes']} classes",
            "dataset_type": images if on_the_hub else "images",
            "metric_name": "mAP, merged score",
            "metric_type": "mean_average_precision",
            "metric_value": round(figures["models"][name]["map"]["merged"], 2),
            "baseline": None if template is None else round(template["map"]["merged"], 2),
        },
    )


def _print_figures(figures: dict[str, Any]) -> None:
    table = make_table("model", "global", "local", "merged", "95 % interval", "CF1 top 3", "OF1 top 3")
    for name, model in figures["models"].items():
        interval = model["interval"]
        table.add_row(
            name,
            *(f"{model['map'][branch]:.1f}" for branch in ("global", "local", "merged")),
            f"{interval['low']:.1f} to {interval['high']:.1f}" if interval else "",
            f"{model['CF1_top3']:.1f}",
            f"{model['OF1_top3']:.1f}",
        )
    stdout().print(f"mAP in %, {figures['images']} images, {figures['classes']} classes")
    stdout().print(table)
    runs = figures["runs"]
    if runs["count"] > 1:
        mean, deviation = runs["mean"]["merged"], runs["deviation"]["merged"]
        stdout().print(f"{runs['count']} runs: merged {mean:.1f}, standard deviation {deviation:.1f}")
    for entry in figures["differences"]:
        interval = f" [{entry['low']:+.1f}, {entry['high']:+.1f}]" if "low" in entry else ""
        stdout().print(f"{entry['model']} - {entry['other']}: {entry['difference']:+.1f}{interval}")
    if figures["classes_without_positives"]:
        say(f"{len(figures['classes_without_positives'])} classes have no positive image and do not count.")


__all__ = ["evaluate"]
