"""`taidpt tag`: tags any number of images into Parquet, CSV or JSON lines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
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
    find_source,
    load_tagger,
    print_json,
    read_selection,
    read_views,
    say,
    working,
)

MOST_LABELS = 10  # named in the summary


def tag(
    sources: Annotated[
        list[str],
        typer.Argument(help="Folder, .txt list, .parquet files or .tar archives with images.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the results, or one .parquet, .csv or .jsonl file.", show_default=False
        ),
    ],
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
    format: Annotated[
        str | None, typer.Option("--format", help="parquet, csv or jsonl; as the output's name says, else parquet.")
    ] = None,
    xmp: Annotated[
        bool, typer.Option("--xmp", help="Add the labels to XMP sidecars beside the images: photo.jpg.xmp.")
    ] = False,
    xmp_replace_suffix: Annotated[
        bool, typer.Option("--xmp-replace-suffix", help="Sidecars photo.xmp, as Adobe's tools name them; takes --xmp.")
    ] = False,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="Also make a page of the results, as `taidpt gallery` does.")
    ] = False,
    image_column: Annotated[str, typer.Option(help="Column of the images in Parquet files.")] = "image",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a forward pass.")] = 32,
    num_workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode images.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images in an output file.")] = 1024,
    part: Annotated[str, typer.Option(help="M/N: this is machine M (from 0) of N that share the work.")] = "0/1",
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    concurrency: Annotated[int | None, typer.Option(min=1, help="Workers of the ray engine.")] = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tag any number of images into Parquet, CSV or JSON lines: path, labels, scores, error.

    Memory stays constant. A run that was stopped goes on where it was when the same command is given again. An image
    that cannot be read becomes a row with an error.

    **Examples**

    - `taidpt tag photos --output tags`
    - `taidpt tag photos --output tags.csv --threshold auto`
    - `taidpt tag photos --output tags --gallery`
    - `taidpt tag photos --output tags.csv --threshold auto --xmp`
    - `taidpt tag list.txt --output tags --labels labels.txt --top-k 5`
    - `taidpt tag photos --output tags --image-size 256 --no-center-crop --flip`
    - `taidpt tag shards/*.tar --output tags --part 3/16`
    - `taidpt tag photos --output tags --engine ray`
    """
    from modeling_taidpt.captions.label_files import read_candidates
    from modeling_taidpt.serving.summary import TaggingSummary, summarize_results
    from modeling_taidpt.serving.tagging import tag_images

    options = read_views(image_size, center_crop, flip, multi_crop, tiles, second_look)
    options |= read_selection(top_k, threshold)
    labeler = None
    if labels is not None:
        options["candidate_labels"], labeler = read_candidates(labels)
    with working(as_json):
        # Every worker of Ray loads the model by its name; here it is loaded once, so that a wrong one is said at once.
        tagger = find_source(model) if engine == "ray" else load_tagger(model, device)
        report = tag_images(
            sources,
            output,
            tagger,
            engine=engine,
            image_column=image_column,
            batch_size=batch_size,
            num_workers=num_workers,
            shard_size=shard_size,
            part=_machine(part),
            concurrency=concurrency,
            format=format,
            progress=sys.stderr.isatty(),
            backend=backend or ("auto" if engine == "local" else None),
            pipeline_kwargs={"device": device} if device is not None and engine == "ray" else None,
            **options,
        )
    kept_all = top_k == 0 and threshold is None
    chosen = report.selection["threshold"] is not None and not kept_all
    least = 0.0 if chosen else _thresholds(tagger if labels is None else None)
    summary = summarize_results(report.output_dir, least) if report.images + report.skipped else TaggingSummary()
    found, sidecars, page = bool(summary.images), None, None
    with working(as_json):
        if found and (xmp or xmp_replace_suffix):
            parents = None if labeler is None else labeler.parents
            language = getattr(getattr(getattr(tagger, "model", None), "config", None), "language", "en")
            sidecars = _write_sidecars(report.output_dir, least, parents, xmp_replace_suffix, language)
        if found and gallery:
            page = _write_gallery(report.output_dir, sources, least, image_column)
    if as_json:
        extras = {"sidecars": sidecars and vars(sidecars), "gallery": page}
        print_json({**vars(report), **extras, "summary": vars(summary)})
        return
    config = getattr(getattr(tagger, "model", None), "config", None)
    only_ranks = threshold is None and getattr(config, "score_calibration", "unknown") is None
    _print_summary(report, summary, labels is not None, only_ranks)
    if sidecars is not None:
        failed = f", {len(sidecars.errors)} could not be written" if sidecars.errors else ""
        none = f", {sidecars.no_file} images are not files" if sidecars.no_file else ""
        say(f"{sidecars.written} sidecars written, {sidecars.unchanged} left as they were{none}{failed}.")
        if only_ranks:
            say("Keywords are labels with a score of 0.5, which says little here: calibrate, or give --threshold.")
    if page is not None:
        say(f"Open the gallery in a browser: {page}")


def _thresholds(tagger: Any) -> float | dict[str, float]:
    """What counts as found where all labels were kept: the thresholds of the checkpoint's own labels, else 0.5."""
    from modeling_taidpt.serving.summary import LEAST_SCORE

    config = getattr(getattr(tagger, "model", None), "config", None)
    thresholds = getattr(config, "score_thresholds", None)
    if thresholds is None:
        return LEAST_SCORE
    several = thresholds if isinstance(thresholds, (list, tuple)) else [thresholds] * len(config.labels)
    return dict(zip(config.labels, several, strict=True))


def _write_sidecars(
    results: str,
    least: float | dict[str, float],
    parents: dict[str, str] | None,
    replace_suffix: bool,
    language: str,
) -> Any:
    from modeling_taidpt.serving.sidecars import write_sidecars

    return write_sidecars(results, threshold=least, parents=parents, replace_suffix=replace_suffix, language=language)


def _write_gallery(results: str, sources: list[str], least: float | dict[str, float], image_column: str) -> str:
    """Writes the gallery; where each label has its threshold, the slider begins in their middle."""
    from statistics import median

    from modeling_taidpt.serving.gallery import write_gallery

    least = round(median(least.values()), 2) if isinstance(least, dict) else least
    options = {"image_column": image_column, "progress": sys.stderr.isatty()}
    return write_gallery(results, images=sources, threshold=least, **options).index


def _print_summary(report: Any, summary: Any, own_labels: bool, only_ranks: bool) -> None:
    """Says what a run did, what its results hold and how to open them.

    Where scores only rank labels, nothing is said of how many were found.
    """
    from modeling_taidpt.serving.formats import result_files
    from modeling_taidpt.serving.summary import LEAST_SCORE

    kept = report.selection
    earlier = f", {report.skipped} were there" if report.skipped else ""
    rate = f", {report.images / report.seconds:.1f} images a second" if report.images else ""
    say(f"{report.images} images tagged into {report.output_dir}, {report.errors} could not be read{earlier}{rate}.")
    if summary.images and only_ranks:
        which = f"The {kept['top_k']} best labels" if kept["top_k"] else "All labels"
        say(f"{which} of each image are kept: scores only rank labels until `taidpt calibrate` fits them.")
    elif summary.images:
        least = f" with a score of at least {summary.threshold:g}" if summary.threshold == LEAST_SCORE else ""
        by_thresholds = isinstance(summary.threshold, dict) or kept["threshold"] == "auto"
        least = " by the thresholds of the checkpoint" if by_thresholds else least
        say(f"{summary.labels} labels found{least}, in {summary.images_with_labels} of {summary.images} images.")
    if summary.counts and not only_ranks:
        frequent = ", ".join(f"{label} {count}" for label, count in summary.counts.most_common(MOST_LABELS))
        say(f"Most frequent: {frequent}.")
    if summary.images and result_files(report.output_dir)[0].suffix == ".parquet":
        say(f"Open them in Python: pandas.read_parquet({report.output_dir!r}).")
    if summary.images and not own_labels and not only_ranks and kept["threshold"] is None:
        say(
            "This checkpoint has no thresholds: the labels of highest score are kept. `taidpt calibrate` finds "
            "thresholds."
        )


def _machine(part: str) -> tuple[int, int]:
    numbers = part.split("/")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"`--part` is {part!r}: write M/N, as 0/4 for the first of four machines.")
    return int(numbers[0]), int(numbers[1])


__all__ = ["tag"]
