"""What the commands of `taidpt` share: options, output for people and for machines, errors, loading of models.

Nothing here imports torch before a command needs it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # rich takes as long to import as typer itself
    from rich.console import Console
    from rich.table import Table

DEFAULT_MODEL = "taidpt-coco80"  # goes by its name, not by where the package lies
BAD_INPUT_CODE, INTERRUPTED_CODE = 2, 130
MOST = 2**31 - 1  # of anything that is counted
LONGEST_SENTENCE = 1000  # characters
# Controls, separators of lines, marks and overrides of direction, what is drawn as nothing (but not the joiners of
# letters and emoji), and lone surrogates, which no terminal can be sent
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
VIEWS = "What the model sees (by default as the checkpoint says)"

ThresholdOption = Annotated[
    str | None,
    typer.Option("--threshold", "-t", help="Leave out labels of a lower score; auto takes the checkpoint's own."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="Checkpoint: folder or Hub repository. The default ships with the package."),
]
OwnLabelsOption = Annotated[
    str | None,
    typer.Option("--labels", "-l", help="Custom labels: words with commas, a file with one a line, or a class table."),
]
LanguageOption = Annotated[
    str,
    typer.Option("--language", help="Language of labels and captions, as de, zh, ja, ar or th.", metavar="CODE"),
]
TopKOption = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        "-k",
        min=0,
        help="So many labels per image; 0 for all. Without it and --threshold: those that reach the checkpoint's "
        "thresholds; the 5 best where it has none; all of --labels.",
        show_default=False,
    ),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option("--image-size", min=1, help="Shorter side in pixels that the model sees.", rich_help_panel=VIEWS),
]
CenterCropOption = Annotated[
    bool | None,
    typer.Option("--center-crop/--no-center-crop", help="Its middle, or the whole image.", rich_help_panel=VIEWS),
]
FlipOption = Annotated[
    bool | None, typer.Option("--flip/--no-flip", help="Average with the mirror image.", rich_help_panel=VIEWS)
]
MultiCropOption = Annotated[
    bool | None,
    typer.Option(
        "--multi-crop/--no-multi-crop", help="See larger images in overlapping windows.", rich_help_panel=VIEWS
    ),
]
TilesOption = Annotated[
    bool,
    typer.Option(
        "--tiles",
        help="Join the score of the whole image with the largest over 3 x 3 tiles; ten times the work.",
        rich_help_panel=VIEWS,
    ),
]
SecondLookOption = Annotated[
    bool,
    typer.Option(
        "--second-look",
        help="See again the parts in which labels seem to be, and average; one more pass for each part.",
        rich_help_panel=VIEWS,
    ),
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend", help="What runs the image tower on a CPU: onnx, openvino or torch; by default onnx where it can."
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps ...; by default what is there.")
]


def printable(text: str) -> str:
    r"""One line of text without what a terminal obeys or hides: controls, signs that turn the direction of writing.

    Args:
        text (`str`): a label, file name or message of any origin.

    Returns:
        `str`: each such character is written as Python would escape it, as `\x1b` and `\n`.
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _console(stderr: bool = False) -> Console:
    """A console on which nothing that is printed is taken for markup or obeyed by the terminal."""
    from rich.console import Console

    class PlainConsole(Console):
        """Every text passes here before it is laid out: lines, cells and titles."""

        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(printable(text), **options)

    return PlainConsole(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def stdout() -> Console:
    """Where results for people go."""
    return _console()


def say(message: str) -> None:
    """Prints a line to standard error."""
    _console(stderr=True).print(message)


def make_table(*columns: str, title: str | None = None) -> Table:
    """A plain table; all columns but the first hold numbers unless their name starts with a blank."""
    from rich.table import Table

    table = Table(box=None, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        is_text = index == 0 or column.startswith(" ")
        table.add_column(column.strip(), justify="left" if is_text else "right", overflow="fold")
    return table


def print_json(value: Any) -> None:
    """Prints one JSON document to standard output; NaN, which JSON lacks, becomes null."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    except (TypeError, ValueError):  # arrays and NaN; the module that knows them imports torch
        from modeling_taidpt.evaluation.report import json_value

        text = json.dumps(json_value(value), ensure_ascii=False, indent=2, allow_nan=False)
    lines = [UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], line) for line in text.split("\n")]
    typer.echo("\n".join(lines))  # in texts JSON's own escapes of the same signs


def read_views(
    image_size: int | None,
    center_crop: bool | None,
    flip: bool | None,
    multi_crop: bool | None,
    tiles: bool,
    second_look: bool = False,
) -> dict[str, Any]:
    """How an image is shown to the model, as options of the pipeline and of `tag_images`, from those of a command."""
    views = {"image_size": image_size, "center_crop": center_crop, "flip": flip}
    return views | {"multi_crop": "max" if tiles else multi_crop, "second_look": second_look or None}


def read_selection(top_k: int | None, threshold: str | None) -> dict[str, Any]:
    """Which labels are kept, as options of the pipeline and of `tag_images`, from those of a command."""
    if top_k == 0 and threshold is None:
        return {"top_k": None, "threshold": 0.0}
    return {"top_k": top_k or None, "threshold": read_threshold(threshold)}


def read_threshold(threshold: str | None) -> float | str | None:
    """A number where it is one; the pipeline says what is wrong with other words than `auto`."""
    try:
        return None if threshold is None else float(threshold)
    except ValueError:
        return threshold


def read_settings(settings: list[str], option: str, example: str) -> dict[str, str]:
    """Parts NAME=VALUE texts.

    Args:
        settings (`list[str]`): the texts.
        option (`str`): what gave them, for the error.
        example (`str`): a right one, for the error.

    Returns:
        `dict[str, str]`: values by name; the last of equal names counts.

    Raises:
        ValueError: If one is not NAME=VALUE.
    """
    values = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"{option} {setting!r} is not NAME=VALUE: write {option} {example}.")
        values[name.strip().replace("-", "_")] = value.strip()
    return values


@contextmanager
def working(as_json: bool) -> Iterator[None]:
    """Keeps standard output free for the result: what libraries print meanwhile goes to standard error.

    Args:
        as_json (`bool`): whether the result is JSON; for people nothing is redirected.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def one_sentence(error: BaseException) -> str:
    """What an error says, on one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        error = OSError(f"{error.strerror}: {str(error.filename)!r}.")
    text = " ".join(str(error).split()) or type(error).__name__
    # what is too long to read repeats an input; what to do about it comes last
    if len(text) <= LONGEST_SENTENCE:
        return text
    return f"{text[: LONGEST_SENTENCE // 2]} … {text[-LONGEST_SENTENCE // 4 :]}"


@contextmanager
def without_loading_bar() -> Iterator[None]:
    """Keeps transformers from drawing a bar for the tensors that it reads from a file or writes."""
    from transformers.utils import logging as library

    shown = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bar()


def load_tagger(name: str = DEFAULT_MODEL, device: str | None = None, backend: str | None = None) -> Any:
    """The pipeline of a checkpoint.

    Args:
        name (`str`, *optional*): folder or Hub repository; the checkpoint that ships by default.
        device (`str`, *optional*): where it runs.
        backend (`str`, *optional*): what runs its image tower; as the model is by default.

    Returns:
        [`MultiLabelImageClassificationPipeline`].

    Raises:
        ValueError: the checkpoint cannot be loaded; one sentence that names it.
    """
    from transformers import AutoModelForImageClassification, pipeline

    import modeling_taidpt  # noqa: F401  (registers the pipeline)
    from modeling_taidpt.hub_errors import plain_errors
    from modeling_taidpt.pipelines import TASK

    check_device(device)
    options = {name: value for name, value in (("device", device), ("backend", backend)) if value is not None}
    make: Any = pipeline  # its type lists the tasks that transformers knows
    with plain_errors(name), without_loading_bar():
        source = find_source(name)
        try:
            return make(TASK, model=source, **options)
        except ValueError as error:
            if "Traceback" in str(
                error
            ):  # transformers quotes those of all classes that it tried: raise the one itself
                AutoModelForImageClassification.from_pretrained(source)
            raise


def load_model(name: str, device: str | None = None) -> Any:
    """A checkpoint, from a folder or Hub repository.

    Args:
        name (`str`): folder or repository.
        device (`str`, *optional*): where it runs.

    Returns:
        [`TaiDptModel`].

    Raises:
        ValueError, OSError: the checkpoint cannot be loaded; one sentence that names it.
    """
    from modeling_taidpt import TaiDptModel

    check_device(device)
    source = find_source(name)
    with without_loading_bar():
        model = TaiDptModel.from_pretrained(source)
    return model if device is None else model.to(device)


def changed_folder(model: str, output: Path | None) -> Path:
    """The folder that a changed model is saved in.

    Args:
        model (`str`): folder of the model, or what `load_model` takes.
        output (`Path`, *optional*): another folder than its own.

    Raises:
        ValueError: the model has no folder, or the output is a file.
    """
    config = Path(model) / "config.json"
    if output is None and config.parent.is_dir() and not config.is_file():
        from modeling_taidpt.atomic import recover_folder

        recover_folder(model)
    if output is None and not config.is_file():
        raise ValueError(f"There is no model in a folder {model!r} to be changed: name another folder with --output.")
    if output is not None and output.is_file():
        raise ValueError(f"The output {str(output)!r} is a file: name a folder.")
    return output or Path(model)


def save_changed(model: Any, source: str, target: Path) -> None:
    """Saves a changed model in the form that its checkpoint has.

    Its prompts alone or whole, its CLIP in half precision or not, with a graph where it, or its CLIP, has one.

    Args:
        model ([`TaiDptModel`]): the model; its CLIP may come out in half precision.
        source (`str`): what it was loaded from.
        target (`Path`): folder.
    """
    from modeling_taidpt import TaiDptConfig
    from modeling_taidpt.atomic import staged_folder
    from modeling_taidpt.repository import add_graph, comes_with_graph

    stored = TaiDptConfig.from_pretrained(find_source(source))
    has_graph = not stored.prompts_only and comes_with_graph(model)  # before the target, which may be the source
    if str(stored.dtype).removeprefix("torch.") == "float16":
        model.clip.half()
    with without_loading_bar(), staged_folder(target) as staged:  # the model and its graph, or none of them
        model.save_pretrained(target, prompts_only=stored.prompts_only)
        if has_graph:
            add_graph(model, staged)


def check_device(device: str | None) -> None:
    """Makes sure that a model can run on a device.

    Args:
        device (`str`, *optional*): as the user wrote it.

    Raises:
        ValueError: there is no such device here; one sentence.
    """
    import torch

    if device is None:
        return
    try:
        works = torch.device(device).type != "meta" and bool((torch.ones(2, device=device) + 1 == 2).all())
    except Exception:  # what PyTorch raises depends on the kind of device and on how PyTorch was built
        works = False
    if not works:
        here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(f"There is no device {device!r} here: choose of {', '.join(here)}.")


def find_source(name: str) -> str:
    """The folder of what ships with the package, by its name; else the name, of what is there or can be fetched.

    Args:
        name (`str`): folder or Hub repository.

    Returns:
        `str`: for `from_pretrained`.

    Raises:
        OSError: it is not in the cache and the Hub cannot be reached; one sentence.
    """
    from modeling_taidpt.atomic import recover_folder
    from modeling_taidpt.hub import resolve_source
    from modeling_taidpt.hub_errors import require_answer

    source = resolve_source(name)
    recover_folder(source)
    require_answer(source)
    return source


__all__ = [
    "BAD_INPUT_CODE",
    "DEFAULT_MODEL",
    "INTERRUPTED_CODE",
    "MOST",
    "BackendOption",
    "CenterCropOption",
    "DeviceOption",
    "FlipOption",
    "ImageSizeOption",
    "JsonOption",
    "LanguageOption",
    "ModelOption",
    "MultiCropOption",
    "OwnLabelsOption",
    "SecondLookOption",
    "ThresholdOption",
    "TilesOption",
    "TopKOption",
    "check_device",
    "find_source",
    "load_model",
    "load_tagger",
    "make_table",
    "one_sentence",
    "print_json",
    "printable",
    "read_selection",
    "read_settings",
    "read_threshold",
    "read_views",
    "save_changed",
    "say",
    "stdout",
    "without_loading_bar",
    "working",
]
