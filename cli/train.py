"""`taidpt train`: learns prompts from captions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from .calibrate import fit_probabilities, print_tags, read_calibration_images
from .common import (
    DEFAULT_MODEL,
    MOST,
    JsonOption,
    LanguageOption,
    find_source,
    make_table,
    print_json,
    read_settings,
    say,
    stdout,
    without_loading_bar,
    working,
)
from .label import CaptionDataOption, open_corpus

REPORTED = {"zero_shot_caption_map": 'template "a photo of a {}."', "caption_map": "learned prompts"}
FEW_CAPTIONS = 200  # held out, below which figures on them say little
CORPUS, LEARNING = "Captions", "Learning (by default as the recipe says)"
EXPERIMENTS = "Experiments of the paper"


def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.")],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            "-l",
            help="coco80, voc20, nuswide81, a file of labels or class table, or words with commas; those of the "
            "recipe by default.",
        ),
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(
            "--captions",
            "-c",
            help="Text, CSV, JSON, JSON lines or Parquet file of captions, or a data set on the Hub; those of the "
            "recipe by default.",
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option("--column", help="Column of the captions; caption by default.", rich_help_panel=CORPUS),
    ] = None,
    caption_settings: CaptionDataOption = None,
    language: LanguageOption = "en",
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            "-b",
            help="CLIP to learn on: folder or Hub repository; the recipe's by default, or the one that ships.",
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", "-r", help="recommended (the base's own), paper, voc2007, coco2014, nuswide, or a file."
        ),
    ] = "recommended",
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Of a recipe of the paper: clean (no caption of a test image, chosen on held-out ones), the default, "
            "or paper.",
            rich_help_panel=EXPERIMENTS,
        ),
    ] = None,
    data_root: Annotated[
        Path,
        typer.Option(
            "--data-root", help="Folder that the paths of a recipe are relative to.", rich_help_panel=EXPERIMENTS
        ),
    ] = Path("."),
    eval_captions: Annotated[
        str | None,
        typer.Option("--eval-captions", help="File of held-out captions, instead of a share.", rich_help_panel=CORPUS),
    ] = None,
    calibrate_images: Annotated[
        str | None,
        typer.Option("--calibrate-images", help="Images to make scores probabilities on, with labels or without."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", min=0, help="How far a step goes, at first.", rich_help_panel=LEARNING),
    ] = None,
    epochs: Annotated[
        float | None, typer.Option("--epochs", min=0, help="Passes over the captions.", rich_help_panel=LEARNING)
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps, instead of epochs.", rich_help_panel=LEARNING)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Captions in a step.", rich_help_panel=LEARNING)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, max=2**32 - 1, help="Seed of everything that is drawn.", rich_help_panel=LEARNING
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="ranking, bce, focal, asl, soft_ce.", rich_help_panel=EXPERIMENTS)
    ] = None,
    loss_on: Annotated[
        str | None, typer.Option(help="both, global, local or merged scores.", rich_help_panel=EXPERIMENTS)
    ] = None,
    max_captions_per_class: Annotated[
        int | None,
        typer.Option(
            "--max-captions-per-class",
            help="Captions drawn for each label of a corpus that has more; 0 takes all. By default what so many steps "
            "need, at least 1000; all where epochs are counted.",
            show_default=False,
            rich_help_panel=CORPUS,
        ),
    ] = None,
    max_captions: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Number of captions, the first ones.", rich_help_panel=EXPERIMENTS),
    ] = None,
    context_tokens: Annotated[
        int | None, typer.Option(min=1, help="Context vectors in a prompt.", rich_help_panel=EXPERIMENTS)
    ] = None,
    class_specific: Annotated[
        bool | None,
        typer.Option("--class-specific/--shared", help="Contexts per class, or one.", rich_help_panel=EXPERIMENTS),
    ] = None,
    templates: Annotated[
        bool | None,
        typer.Option("--templates/--no-templates", help="Templates among the captions.", rich_help_panel=EXPERIMENTS),
    ] = None,
    local_weight: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="0 scores globally alone, 1 locally alone.", rich_help_panel=EXPERIMENTS),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any training argument or model option; may be repeated.",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    prompts_only: Annotated[
        bool,
        typer.Option("--prompts-only", help="Save the prompts without the CLIP, which is fetched again on loading."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last whole checkpoint in the folder; without one, start.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Learn prompts for your labels from captions; no image is needed.

    Captions are labelled with the labels that they mention, encoded once and cached on disk. The base's recommended
    recipe is used where it has one, else the paper's. The report compares the learned prompts with "a photo of a {}."
    on captions that were held out; with the paper's recipe these also choose the checkpoint. Checkpoints are written
    on the way: the same command with `--resume` goes on after an interruption.

    **Examples**

    - `taidpt train --labels labels.txt --captions corpus.txt --output runs/pets`
    - `taidpt train -l labels.txt -c corpus.txt -o runs/pets --calibrate-images photos`
    - `taidpt train -l coco80 -c captions.jsonl -o runs/coco --base openai/clip-vit-base-patch16 --recipe paper`
    - `taidpt train --recipe voc2007 --base RN50 --data-root data --output runs/voc2007`
    - `taidpt train -l labels.txt -c corpus.txt -o runs/pets --set learning_rate=1e-3 --resume`
    - `taidpt train -l table.json -c corpus.txt -o runs/zh --language zh -b OFA-Sys/chinese-clip-vit-base-patch16`
    """
    chosen: dict[str, Any] = {
        "caption_column": column,
        "learning_rate": learning_rate,
        "num_train_epochs": epochs,
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "seed": seed,
        "loss": loss,
        "loss_on": loss_on,
        "max_captions": max_captions,
        "num_context_tokens": context_tokens,
        "class_specific_context": class_specific,
        "add_templates": templates,
        "local_weight": local_weight,
        "save_prompts_only": prompts_only or None,
        "language": None if language == "en" else language,
    }
    chosen = {name: value for name, value in chosen.items() if value is not None} | read_settings(
        settings or [], "--set", "learning_rate=1e-3"
    )
    with working(as_json), _leaving_none(output):
        result = _train(
            labels,
            captions,
            output,
            base,
            (recipe, protocol, data_root),
            {
                "caption_settings": caption_settings,
                "eval_captions": eval_captions,
                "calibrate_images": calibrate_images,
                "resume": resume,
                "max_captions_per_class": "auto" if max_captions_per_class is None else max_captions_per_class or None,
            },
            chosen,
        )
    if result is None:
        return
    if as_json:
        print_json(result)
        return
    _print_figures(result["metrics"], result["held_out"])
    if "labels_per_image" in result.get("calibration", {}):
        print_tags(result["calibration"])
    if calibrate_images is None:
        stdout().print(f"Its scores only rank labels until they are fitted: taidpt calibrate {output} photos -c FILE")
    stdout().print(f"The model is in {output}. Try it: taidpt predict photo.jpg --model {output}")


def _train(
    labels: str | None,
    captions: str | None,
    output: Path,
    base: str | None,
    recipe: tuple[str, str | None, Path],
    options: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, Any] | None:
    """Trains, calibrates if wanted, and saves; returns what there is to report, of several processes in the first."""
    column = str(settings.get("caption_column", "caption"))
    corpus = None if captions is None else open_corpus(captions, options["caption_settings"], column)
    eval_captions = options["eval_captions"] and open_corpus(options["eval_captions"], None, column)
    if output.exists() and not output.is_dir():
        raise ValueError(f"The output {str(output)!r} is a file: name a folder.")
    from modeling_taidpt.captions.label_files import read_labels

    if labels is not None:
        # what is wrong with them is said before torch is loaded
        read_labels(labels, language=settings.get("language", "en"))
    from modeling_taidpt import TaiDptTrainer
    from modeling_taidpt.data.recipes import load_recipe_captions, without_captions
    from modeling_taidpt.training.setup import find_recipe, set_up_training

    name, protocol, data_root = recipe
    if base:
        find_source(base)
    recipe_found = find_recipe(name, base or DEFAULT_MODEL, protocol)
    if captions is not None:
        recipe_found = without_captions(recipe_found)
    labels = labels or recipe_found.get("labels")
    if not base:
        base = recipe_found.get("base", DEFAULT_MODEL)
        find_source(base)
    if labels is None:
        raise ValueError(f"The recipe {name!r} names no labels: give --labels.")
    if captions is None and not recipe_found.get("data"):
        raise ValueError(f"The recipe {name!r} names no captions: give --captions.")
    method = settings.get("labeling_method", recipe_found["training"].get("labeling_method", "forms"))
    language = settings.get("language", recipe_found.get("model", {}).get("language", "en"))
    names, labeler = read_labels(labels, str(method), language) if isinstance(labels, str) else (list(labels), None)
    corpus = load_recipe_captions(recipe_found, data_root) if corpus is None else corpus
    settings = {"disable_tqdm": not sys.stderr.isatty()} | settings
    with without_loading_bar():
        described = {"descriptions": labeler.descriptions} if labeler is not None and labeler.descriptions else {}
        model, arguments = set_up_training(base, names, output, recipe_found, settings, **described)
    images = options["calibrate_images"] and read_calibration_images(options["calibrate_images"], names)
    calibration: dict[str, Any] = {}
    with _telling("What is encoded stays in the cache: the same command goes on from there."):
        trainer = TaiDptTrainer(
            model,
            arguments,
            train_dataset=corpus,
            eval_dataset=eval_captions,
            labeler=labeler,
            max_captions_per_class=options["max_captions_per_class"],
        )
    _show_progress(trainer)
    checkpoint = trainer.find_checkpoint() if options["resume"] else None
    if options["resume"]:
        begins = f"There is no checkpoint of this run in {output} yet: training starts from the beginning."
        say(f"Training goes on from {checkpoint}." if checkpoint else begins)
    with _telling(f"Checkpoints in {output} stay, as does what is encoded: go on with the same command and --resume."):
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
        _save(trainer, output, with_graph=not images)  # what is fitted to images is in the graph, too
    if images:
        with _telling(f"The trained model is in {output}: taidpt calibrate fits its scores alone.", Exception):
            calibration = fit_probabilities(trainer.model, images, trainer.corpus_labels)
            _save(trainer, output, with_graph=True)
    trainer.accelerator.end_training()
    if not trainer.is_world_process_zero():
        return None
    result = {"model": str(output), "base": base, "labels": names, "recipe": arguments.recipe, "metrics": metrics}
    result["held_out"] = 0 if trainer.eval_dataset is None else len(trainer.eval_dataset)
    return result | ({"calibration": calibration} if calibration else {})


def _show_progress(trainer: Any) -> None:
    """Leaves the bar of steps with the time left and the loss in a terminal, and no lines of the log anywhere.

    The log is in `trainer_state.json`, and in TensorBoard and the like where they are installed.
    """
    from transformers import PrinterCallback, ProgressCallback

    class Bar(ProgressCallback):
        """transformers' bar, which has no name and would write every entry of the log above it."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_train_begin(args, state, control, **kwargs)
            if self.training_bar is not None:
                self.training_bar.set_description("Learning")

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if self.training_bar is not None and logs and "loss" in logs:
                self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.2f}")

    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(Bar)


def _print_figures(metrics: dict[str, float], held_out: int) -> None:
    """Prints the mAP on captions that were held out, and says where they are too few to tell."""
    if not held_out:
        return
    table = make_table(f"mAP in % on {held_out} held-out captions", " ")
    for name, title in REPORTED.items():
        if name in metrics:
            table.add_row(title, f"{metrics[name]:.1f}")
    stdout().print(table)
    if held_out < FEW_CAPTIONS:
        say(f"{held_out} captions are too few to compare the two: hold out some hundreds with --eval-captions FILE.")


def _save(trainer: Any, output: Path, with_graph: bool) -> None:
    """Saves the model into the folder, whole, or not at all; with its graph if that is wanted and its base has one.

    A model in parts on several devices (FSDP) gets no graph: one process alone cannot run it.
    """
    from modeling_taidpt.atomic import staged_folder
    from modeling_taidpt.repository import add_graph, comes_with_graph

    is_first = trainer.is_world_process_zero()
    with without_loading_bar(), staged_folder(output) if is_first else nullcontext() as staged:
        trainer.save_model(str(output))
        can_have = not (trainer.args.save_prompts_only or trainer.is_fsdp_enabled) and comes_with_graph(trainer.model)
        if staged is not None and with_graph and can_have:
            add_graph(trainer.model, staged)


@contextmanager
def _leaving_none(output: Path) -> Iterator[None]:
    """Takes away a folder that was made for a run which then is refused."""
    was_there = output.exists()
    try:
        yield
    except BaseException:
        if not was_there:
            with suppress(OSError):  # it holds something, or was not made
                output.rmdir()
        raise


@contextmanager
def _telling(stays: str, *others: type[BaseException]) -> Iterator[None]:
    """Says what stays when a step is interrupted, or ends in one of the other errors."""
    try:
        yield
    except (KeyboardInterrupt, *others):
        say(stays)
        raise


__all__ = ["train"]
