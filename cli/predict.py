"""`taidpt predict`: tags images."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    BAD_INPUT_CODE,
    DEFAULT_MODEL,
    BackendOption,
    CenterCropOption,
    DeviceOption,
    FlipOption,
    ImageSizeOption,
    JsonOption,
    ModelOption,
    MultiCropOption,
    OwnLabelsOption,
    SecondLookOption,
    ThresholdOption,
    TilesOption,
    TopKOption,
    load_tagger,
    make_table,
    one_sentence,
    print_json,
    read_selection,
    read_views,
    say,
    stdout,
    working,
)
from .quick import open_quick_tagger

MOST_PATH = 1000  # characters; base64 text of an image is longer
MOST_CHARACTERS = 100  # of a file name; base64 text is taken for an image too


def predict(
    images: Annotated[list[str], typer.Argument(help="Image files or URLs.", show_default=False)],
    model: ModelOption = DEFAULT_MODEL,
    labels: OwnLabelsOption = None,
    top_k: TopKOption = None,
    threshold: ThresholdOption = None,
    image_size: ImageSizeOption = None,
    center_crop: CenterCropOption = None,
    flip: FlipOption = None,
    multi_crop: MultiCropOption = None,
    tiles: TilesOption = False,
    second_look: SecondLookOption = False,
    save_figure: Annotated[
        Path | None,
        typer.Option(
            "--save-figure", "-f", help="Draw scores and heatmaps: a .png, .jpg, .svg or .pdf file, or a folder."
        ),
    ] = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tag images with every label that fits.

    Works offline at once, with the checkpoint that ships with the package. An image that cannot be read is named, the
    others are tagged all the same, and the exit code is 2.

    **Examples**

    - `taidpt predict photo.jpg`
    - `taidpt predict photo.jpg --labels "cup, spoon, newspaper"`
    - `taidpt predict photo.jpg --threshold auto`
    - `taidpt predict photo.jpg --image-size 256 --no-center-crop --flip`
    - `taidpt predict photo.jpg --save-figure photo_tags.png`
    - `taidpt predict *.jpg --model runs/pets --threshold 0.5 --json > tags.json`
    """
    folder = next((image for image in images if len(image) < MOST_PATH and Path(image).is_dir()), None)
    if folder is not None:
        raise ValueError(f"{folder!r} is a folder: `taidpt tag {folder} --output tags` tags all images in it.")
    options = read_views(image_size, center_crop, flip, multi_crop, tiles, second_look)
    options |= read_selection(top_k, threshold)
    with working(as_json):
        tagger: Any = None
        if labels is None and save_figure is None:
            tagger = open_quick_tagger(model, options, backend, device)
        has_probabilities = tagger is not None and tagger.has_probabilities
        if tagger is None:
            if labels is not None:
                from modeling_taidpt.captions.label_files import read_candidates

                options["candidate_labels"] = read_candidates(labels)[0]
            tagger = load_tagger(model, device, backend)
            has_probabilities = tagger.model.config.score_calibration is not None
        # with both given the pipeline says it itself
        if (labels is None or threshold is None) and not has_probabilities:
            say("Scores of this checkpoint only rank labels: make them probabilities with `taidpt calibrate`.")
        figures = _figure_files(images, save_figure) if save_figure is not None else [None] * len(images)
        rows = [_tag(tagger, image, options, figure) for image, figure in zip(images, figures, strict=True)]
    if as_json:
        print_json(rows)
    else:
        _print_rows(rows)
    if any("error" in row for row in rows):
        raise typer.Exit(BAD_INPUT_CODE)


def _figure_files(images: list[str], figure: Path) -> list[Path]:
    """A file for each image: the one that was named, or, in a folder, one by the name of the image.

    A number follows where several images, of other folders or suffixes, are called alike.
    """
    if len(images) == 1 and figure.suffix:
        return [figure]
    files: dict[str, Path] = {}  # by what a file system that ignores case takes for equal
    for image in images:
        stem = Path(image).stem[:MOST_CHARACTERS] or "image"
        names = itertools.chain([f"{stem}.png"], (f"{stem}_{number}.png" for number in itertools.count(2)))
        name = next(name for name in names if name.casefold() not in files)
        files[name.casefold()] = figure / name
    return list(files.values())


def _tag(tagger: Any, image: str, options: dict[str, Any], figure: Path | None) -> dict[str, Any]:
    try:
        results = tagger(image, **options) if figure is None else tagger(image, return_heatmaps=True, **options)
    except ValueError as error:
        if "cannot read image" not in str(error):
            raise
        say(f"taidpt: {one_sentence(error)}")
        return {"image": image, "labels": [], "error": one_sentence(error)}
    row = {"image": image, "labels": [{name: result[name] for name in ("label", "score")} for result in results]}
    if figure is not None:
        from modeling_taidpt.serving.plots import save_figure

        row["figure"] = str(save_figure(image, results, figure))
    return row


def _print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if "error" in row:
            continue
        table = make_table("label", "score", title=row["image"])
        for result in row["labels"]:
            table.add_row(result["label"], f"{result['score']:.3f}")
        if not row["labels"]:
            table.add_row("none reaches its threshold: --top-k 5 shows the best ones", "")
        stdout().print(table)


__all__ = ["predict"]
