"""`taidpt convert`, `export` and `push`: models from elsewhere, for elsewhere, and to the Hub."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    DEFAULT_MODEL,
    JsonOption,
    ModelOption,
    OwnLabelsOption,
    find_source,
    load_model,
    load_tagger,
    print_json,
    stdout,
    without_loading_bar,
    working,
)


class ExportFormat(str, Enum):
    """What a model can be exported as."""

    onnx = "onnx"
    torch = "torch"


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="OpenAI's RN50.pt, RN101.pt, ViT-*.pt, or prompt_learner/model-best.pth.tar.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.", show_default=False)],
    clip: Annotated[
        str | None,
        typer.Option("--clip", help="Of published prompts: their CLIP, as folder, Hub repository or OpenAI's file."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", "-l", help="Of published prompts: voc20, coco80, nuswide81, a file, or words."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert a published file: OpenAI's CLIP, or prompts that the published TaI-DPT code learned.

    Prompts need --clip and --labels. Nothing in the file is run.

    **Examples**

    - `taidpt convert RN50.pt --output clip-rn50`
    - `taidpt convert prompt_learner/model-best.pth.tar --clip RN50.pt --labels coco80 --output taidpt-coco`
    """
    from modeling_taidpt.captions.class_tables import PRESETS
    from modeling_taidpt.captions.label_files import read_labels

    if (clip is None) != (labels is None):
        raise ValueError("Published prompts need both --clip and --labels; OpenAI's CLIP needs neither.")
    with working(as_json), without_loading_bar():
        from modeling_taidpt.conversion.openai import convert_openai_checkpoint
        from modeling_taidpt.conversion.taidpt import convert_taidpt_checkpoint

        if clip is None or labels is None:
            kind = type(convert_openai_checkpoint(checkpoint, output)).__name__
        else:
            names: Any = labels if labels in PRESETS else read_labels(labels)[0]
            kind = type(convert_taidpt_checkpoint(checkpoint, clip, names, output)).__name__
    if as_json:
        print_json({"model": str(output), "class": kind})
    else:
        stdout().print(f"A {kind} is in {output}.")


def export(
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Checkpoint, as --model.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the exported model.", show_default=False)
    ] = None,
    web: Annotated[
        Path | None,
        typer.Option("--web", help="Folder for a page that tags photographs in the browser.", show_default=False),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Keep the graph beside the weights, as onnx/model.onnx: predict and tag take it."
        ),
    ] = False,
    cdn: Annotated[
        bool, typer.Option("--cdn", help="The page of --web loads its library from a CDN; else npm fetches it now.")
    ] = False,
    model: ModelOption = DEFAULT_MODEL,
    export_format: Annotated[
        ExportFormat, typer.Option("--format", "-f", help="ONNX, or a program of torch.export.")
    ] = ExportFormat.onnx,
    labels: OwnLabelsOption = None,
    heatmaps: Annotated[bool, typer.Option("--heatmaps", help="Also give the cosines of the image's cells.")] = False,
    quantize: Annotated[
        bool, typer.Option("--quantize", help="ONNX: also write int8 weights, which cost accuracy.")
    ] = False,
    eval_images: Annotated[
        str | None,
        typer.Option("--eval-images", help="Labelled images, as for evaluate: says what int8 weights cost on them."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a model for use without this package: image in, probabilities out.

    The class embeddings are computed once and stored; the labels and the preprocessing are beside the model.

    **Examples**

    - `taidpt export --output tagger-onnx`
    - `taidpt export --model runs/pets --format torch --heatmaps --output tagger`
    - `taidpt export --quantize --eval-images photos --output tagger-onnx`
    - `taidpt export --labels "cup, spoon, newspaper" --quantize --output tagger-onnx`
    - `taidpt export runs/pets --web page`
    - `taidpt export runs/pets --in-place`
    """
    if checkpoint is not None and model != DEFAULT_MODEL:
        raise ValueError(f"The checkpoint is given twice, {checkpoint!r} and --model {model!r}: leave one away.")
    if [output is not None, web is not None, in_place].count(True) != 1:
        raise ValueError("Give --output for the exported model, --web for a page, or --in-place: one of them.")
    if in_place and (quantize or heatmaps or labels is not None or export_format is not ExportFormat.onnx):
        raise ValueError("--in-place keeps an ONNX graph of the checkpoint as it is: leave the other options away.")
    if web is not None and (quantize or heatmaps or export_format is not ExportFormat.onnx):
        raise ValueError("--web holds an ONNX file with heatmaps: leave --format, --heatmaps and --quantize away.")
    if quantize and export_format is not ExportFormat.onnx:
        raise ValueError("--quantize is for --format onnx only.")
    if eval_images is not None and not quantize:
        raise ValueError("--eval-images measures what --quantize costs: give both.")
    from modeling_taidpt.captions.label_files import read_candidates

    names = None if labels is None else read_candidates(labels)[0]
    figures: dict[str, float] = {}
    with working(as_json):
        data = None
        if eval_images is not None:
            from modeling_taidpt.data.loaders import load_images

            data = load_images(eval_images)
        source = find_source(checkpoint or model)
        if in_place and not Path(source).is_dir():
            raise ValueError(f"--in-place needs a folder of this machine, and {source!r} is a Hub repository.")
        loaded = load_model(source)
        loaded = loaded if names is None else loaded.with_labels(names)
        from modeling_taidpt.export.programs import export_onnx, export_torch

        if in_place:
            from modeling_taidpt.graph_export import save_graph

            path = save_graph(loaded, source)
        elif web is not None:
            from modeling_taidpt.export.web import export_web

            path = export_web(loaded, web, cdn=cdn)
        elif export_format is ExportFormat.onnx:
            path = export_onnx(loaded, output, heatmaps=heatmaps, quantize=quantize)
            if data is not None:
                from modeling_taidpt.export.quantization import measure_quantization

                figures = measure_quantization(output, data, loaded.config.labels)
        else:
            path = export_torch(loaded, output, heatmaps=heatmaps)
    if as_json:
        print_json({"model": str(path), "format": export_format.value, "labels": loaded.config.labels, **figures})
    else:
        _print_export(path, figures, web, in_place)


def _print_export(path: Path, figures: dict[str, float], web: Path | None, in_place: bool) -> None:
    if figures:
        change = figures["map_int8"] - figures["map"]
        stdout().print(
            f"mAP in %, {figures['images']} images, {figures['classes']} classes: {figures['map']:.2f} before, "
            f"{figures['map_int8']:.2f} with int8 weights ({change:+.2f}); largest difference of a score "
            f"{figures['largest_difference']:.1e}."
        )
    if in_place:
        stdout().print(f"The graph is {path}; it reads the weights beside it, and predict and tag take it by default.")
    elif web is None:
        stdout().print(f"The exported model is {path}; labels and preprocessing are beside it.")
    else:
        stdout().print(f"The page is {path}. Serve it with: python -m http.server --directory {web}")


def push(
    model: Annotated[str, typer.Argument(help="Folder of the model.", show_default=False)],
    repository: Annotated[str, typer.Argument(help="Hub repository, as org/name.", show_default=False)],
    prompts_only: Annotated[bool, typer.Option("--prompts-only", help="Leave out the CLIP, which is named.")] = False,
    example: Annotated[
        str | None,
        typer.Option(
            "--example",
            help="A photograph that the card shows, with what the model finds in it: whoever sees the card sees it.",
        ),
    ] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Who sees a new repository.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch to push to.")] = None,
    message: Annotated[str | None, typer.Option("--message", help="Message of the commit.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Push a model to the Hub, with its processors, its card and the code that runs it.

    Log in first with `hf auth login`.

    **Examples**

    - `taidpt push runs/pets org/taidpt-pets`
    - `taidpt push runs/pets org/taidpt-pets --prompts-only --private`
    - `taidpt push runs/pets org/taidpt-pets --example photo.jpg`
    """
    options: dict[str, Any] = {"private": private, "revision": revision, "commit_message": message}
    options = {name: value for name, value in options.items() if value is not None}
    with working(as_json):
        from modeling_taidpt.atomic import scratch_folder

        with scratch_folder() as folder:
            if example is not None:
                options["example"] = _draw_example(model, example, folder)
            loaded = load_model(model)
            commit = loaded.push_to_hub(repository, prompts_only=prompts_only, create_pr=create_pr, **options)
    url = commit.pr_url or commit.commit_url
    if as_json:
        print_json({"repository": repository, "url": url, "commit": commit.oid})
    else:
        stdout().print(f"Pushed: {url}")


def _draw_example(model: str, photograph: str, folder: Path) -> Path:
    """Draws what a model finds in a photograph; nothing of the file but its pixels goes into the figure."""
    from modeling_taidpt.serving.plots import save_figure

    results = load_tagger(model)(photograph, return_heatmaps=True)
    return save_figure(photograph, results, folder / "example.jpg", dpi=100)


__all__ = ["convert", "export", "push"]
