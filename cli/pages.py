"""`taidpt gallery` and `taidpt demo`: pages to look at, of what was tagged and to tag with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .common import DEFAULT_MODEL, DeviceOption, JsonOption, ModelOption, load_tagger, print_json, say, working


def gallery(
    results: Annotated[
        Path, typer.Argument(help="Folder or file that `taidpt tag` wrote.", show_default=False, metavar="RESULTS")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the page; RESULTS_gallery by default.", show_default=False),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images", "-i", help="What was tagged, where it is not files: archives, Parquet. May be repeated."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", "-t", min=0, max=1, help="Where the slider is at first; 0.5 by default."),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Heading of the page.", show_default=False)] = None,
    image_column: Annotated[str, typer.Option(help="Column of the images in Parquet files.")] = "image",
    as_json: JsonOption = False,
) -> None:
    """Make a page of what `tag` found, that opens from disk: labels, scores, filters.

    The folder holds thumbnails and a page; it needs no server and no network, and can be moved or sent as it is.
    Images that cannot be read are in a group of their own. A run that was stopped goes on where it was.

    **Examples**

    - `taidpt gallery tags`
    - `taidpt gallery tags.csv --output summer --title "Summer 2024"`
    - `taidpt gallery tags --images shards/1.tar --images shards/2.tar`
    """
    from modeling_taidpt.serving.gallery import write_gallery
    from modeling_taidpt.serving.summary import LEAST_SCORE

    with working(as_json):
        report = write_gallery(
            results,
            output,
            images,
            threshold=LEAST_SCORE if threshold is None else threshold,
            title=title,
            image_column=image_column,
            progress=sys.stderr.isatty(),
        )
    if as_json:
        print_json(vars(report))
        return
    say(f"{report.images} images in the gallery, {report.errors} could not be read.")
    say(f"Open it in a browser: {report.index}")


def demo(
    model: ModelOption = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 serves other machines.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; the first free one by default.")] = None,
    device: DeviceOption = None,
) -> None:
    """Serve a web page that tags photographs, until Ctrl-C: several at once, your labels, heatmaps, CSV.

    Needs `pip install "taidpt[demo]"`. Works offline with the checkpoint that ships with the package.

    **Examples**

    - `taidpt demo`
    - `taidpt demo --model runs/pets --port 7860`
    """
    from modeling_taidpt.serving.demo import launch_demo

    launch_demo(load_tagger(model, device), server_name=host, server_port=port)


__all__ = ["demo", "gallery"]
