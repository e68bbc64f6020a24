"""Tags any number of images into files: in constant memory, part by part, and on from where a killed run stopped.

Images are cut into parts of `shard_size`; a part is tagged whole, written under another name and renamed. A part that
is there is not tagged again. The local and the Ray engine tag a part with the same code.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.sources import ImageItem, count_images, open_images
from ..data.stored_images import is_regular
from ..pipelines.results import default_selection
from .formats import FORMATS, file_format, read_tables, write_rows
from .output import TaggingOutput, stored_backend
from .parts import Part, PartTagger
from .tagging_ray import require_name, tag_parts

logger = logging.get_logger(__name__)

ENGINES = ("local", "ray")


@dataclass
class TaggingReport:
    """What a run did.

    Attributes:
        images (`int`): rows that the run wrote, errors included.
        errors (`int`): rows among them of images that could not be read.
        skipped (`int`): rows that an earlier run had written.
        parts (`int`): files that the run wrote.
        output_dir (`str`): where they are: the folder, or the one file.
        seconds (`float`): how long the run took.
        selection (`dict`): `top_k` and `threshold` that labels were kept by.
    """

    images: int
    errors: int
    skipped: int
    parts: int
    output_dir: str
    seconds: float = 0.0
    selection: dict[str, Any] = field(default_factory=dict)


def tag_images(
    source: Any,
    output_dir: str | Path,
    model: Any = None,
    *,
    engine: str = "local",
    top_k: int | None = None,
    threshold: float | str | None = None,
    candidate_labels: Sequence[str] | Mapping[str, Sequence[str]] | str | None = None,
    image_size: int | None = None,
    center_crop: bool | None = None,
    flip: bool | None = None,
    multi_crop: bool | str | None = None,
    second_look: bool | None = None,
    image_column: str = "image",
    batch_size: int = 32,
    num_workers: int | None = None,
    shard_size: int = 1024,
    part: tuple[int, int] = (0, 1),
    concurrency: int | None = None,
    format: str | None = None,
    backend: str | None = None,
    progress: bool = True,
    pipeline_kwargs: dict[str, Any] | None = None,
) -> TaggingReport:
    """Tags images and writes files with the columns `path`, `labels`, `scores` and `error`.

    A folder gets `part-NNNNNNNN.parquet` files. Where `output_dir` ends in .parquet, .csv or .jsonl all rows go into
    that file; until it is whole the parts are in a folder beside it, named `FILE.parts`.

    A run that was killed goes on where it stopped when it is called again with the same arguments: no row is
    repeated and none is lost. An image that cannot be read becomes a row with an `error` and no labels.

    Args:
        source (`str`, `Path`, a list of them, `Dataset` or `IterableDataset`): the images; see [`open_images`].
        output_dir (`str`): folder of the output, for several machines one that all of them see; or a file.
        model (`str` or [`TaiDptModel`] or pipeline, *optional*): checkpoint; the one that ships by default. The Ray
            engine takes a folder or a repository, as every worker loads its own.
        engine (`str`, *optional*, defaults to `"local"`): `"local"`, or `"ray"` (Ray Data, `pip install taidpt[ray]`).
        top_k (`int`, *optional*): labels kept for each image.
        threshold (`float` or `str`, *optional*): least score of a label that is kept; as in the pipeline. With neither
            of the two the pipeline's default counts: the thresholds of the checkpoint where it has some.
        candidate_labels (`list[str]` or `dict[str, list[str]]`, *optional*): other labels than the model's own, also
            with descriptions of each.
        image_size (`int`, *optional*): shorter side in pixels that the model sees; as in the pipeline.
        center_crop (`bool`, *optional*): `False` shows the model the whole image; as in the pipeline.
        flip (`bool`, *optional*): averages with the mirror image; as in the pipeline.
        multi_crop (`bool` or `"max"`, *optional*): overlapping windows of larger images, or tiles; as in the pipeline.
        second_look (`bool`, *optional*): sees again the parts in which labels seem to be; as in the pipeline.
        image_column (`str`, *optional*, defaults to `"image"`): column of a data set or Parquet file.
        batch_size (`int`, *optional*, defaults to 32): images in a forward pass.
        num_workers (`int`, *optional*): processes that decode images beside the model, per engine worker. By default
            one per further processor, at most 8, where the model runs on a GPU; else none, and the threads of
            PyTorch decode between batches, which is faster there. With Ray always none by default.
        shard_size (`int`, *optional*, defaults to 1024): images in an output file.
        part (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): this is machine `part[0]` of `part[1]` that share
            the work and the folder; each takes every `part[1]`-th file.
        concurrency (`int`, *optional*): Ray workers; as many as there are GPUs, else processors, by default.
        format (`str`, *optional*): `"parquet"`, `"csv"` or `"jsonl"`; what the name of the file says, else Parquet.
        backend (`str`, *optional*): what runs the image tower: `"onnx"` (ONNX Runtime), `"openvino"` or `"torch"`. By
            default that of the run that goes on; else, `"auto"`, ONNX Runtime on a CPU, where it is installed and the
            checkpoint or its base has a graph (scores differ by 1e-5), else PyTorch. A model that is loaded already
            stays as it is, and Ray's workers use PyTorch by default.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.
        pipeline_kwargs (`dict`, *optional*): further arguments of [`~transformers.pipeline`], as `device` or `dtype`.

    Returns:
        [`TaggingReport`].

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: an option is out of range, or the folder holds the output of other settings or other images.

    Example:
        >>> from modeling_taidpt import tag_images
        >>> report = tag_images("examples/images", "tags.csv", threshold="auto", progress=False)
        >>> report.images
        8
    """
    started = time.monotonic()
    if engine not in ENGINES:
        raise ValueError(f"`engine` is {engine!r}: choose one of {', '.join(map(repr, ENGINES))}.")
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise ValueError(f"`{name}` is {value}: give a number of images, at least 1.")
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"`part` is {part}: give (machine, machines) with 0 <= machine < machines.")
    options = {"candidate_labels": candidate_labels, "top_k": top_k, "threshold": threshold}
    options |= {"image_size": image_size, "center_crop": center_crop, "flip": flip, "multi_crop": multi_crop}
    options["second_look"] = second_look or None
    items = open_images(source, image_column)
    target, format = _find_target(Path(output_dir), format, part)
    if num_workers is None and engine == "ray":
        num_workers = 0
    tagger = {
        "model": model,
        "options": {name: value for name, value in options.items() if value is not None},
        "batch_size": batch_size,
        "num_workers": num_workers,
        "pipeline_kwargs": pipeline_kwargs or {},
    }
    folder = Path(output_dir) if target is None else target.with_name(f"{target.name}.parts")
    if backend in (None, "auto"):
        is_loaded = model is not None and not isinstance(model, (str, Path))
        default = "torch" if engine == "ray" else None if is_loaded and backend is None else "auto"
        backend = stored_backend(folder) or default
    tagger["backend"] = backend
    worker = _first_worker(engine, tagger)
    if top_k is None and threshold is None:  # noted with the settings: another default is another run
        options |= default_selection(worker.pipe.model.config, candidate_labels is None)
    settings = {"model": _model_name(model), "fingerprint": worker.fingerprint(), "shard_size": shard_size}
    settings |= {"image_column": image_column, "format": format, "backend": worker.backend, **options}
    if candidate_labels is not None:
        settings["tokenizer"] = worker.tokenizer_fingerprint()
    whole = Path(os.path.abspath(folder))  # "." has no name
    spent = whole.with_name(f".{whole.name}.spent")
    shutil.rmtree(spent, ignore_errors=True)
    output = TaggingOutput(folder, settings, format)
    output.check()
    report = TaggingReport(0, 0, 0, 0, str(target or folder))
    report.selection = {name: options[name] for name in ("top_k", "threshold")}
    total = _images_of(count_images(source, image_column), shard_size, part) if progress else None
    with tqdm(desc="Tagging", unit="image", total=total, disable=not progress) as bar:

        def skip(images: int) -> None:
            report.skipped += images
            if bar.total is not None:
                bar.total -= images

        parts = _missing_parts(items, output, shard_size, part, skip)
        counts = tag_parts(parts, output, tagger, concurrency) if engine == "ray" else None
        worker.advance = bar.update
        for images, errors in counts or (worker.write(missing, output) for missing in parts):
            report.images, report.errors = report.images + images, report.errors + errors
            report.parts += 1
            bar.update(images if counts else 0)
    files = output.finish()
    if target is not None:
        write_rows((table for path in files for table in read_tables(path)), target)
        os.rename(folder, spent)  # at once: a run that is killed here leaves no folder with some of its files
        shutil.rmtree(spent)
    report.seconds = time.monotonic() - started
    return report


def _find_target(output: Path, format: str | None, part: tuple[int, int]) -> tuple[Path | None, str]:
    """The one file that all rows go into, `None` for a folder, and the format."""
    if not _is_text(str(output)):
        raise ValueError(f"The name of the output {str(output)!r} is not UTF-8 text: choose another one.")
    if output.is_symlink() and not output.exists():
        raise ValueError(
            f"The output {str(output)!r} is a link to nothing: make what it links to, or name another one."
        )
    if output.exists() and not output.is_dir() and not is_regular(output):
        raise ValueError(f"The output {str(output)!r} is neither a folder nor a regular file: name another one.")
    named = None if output.is_dir() else file_format(output)
    if format not in (None, *FORMATS):
        raise ValueError(f"`format` is {format!r}: choose one of {', '.join(map(repr, FORMATS))}.")
    if named is None:
        if output.is_file():
            raise ValueError(f"The output {str(output)!r} is a file: name a folder, or a .parquet, .csv or .jsonl.")
        return None, format or "parquet"
    if format not in (None, named):
        raise ValueError(f"The output {str(output)!r} ends in .{named} and `format` is {format!r}: leave one away.")
    if part[1] > 1:
        raise ValueError(f"Machines that share the work write into a folder, not into {str(output)!r}.")
    return output, named


def _is_text(name: str) -> bool:
    """Whether a name is text; what is not UTF-8 in it, Python keeps as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _images_of(total: int | None, shard_size: int, part: tuple[int, int]) -> int | None:
    """How many of all images are in the parts of this machine."""
    if total is None:
        return None
    whole, rest = divmod(total, shard_size)
    mine = len(range(part[0], whole, part[1])) * shard_size
    return mine + (rest if whole % part[1] == part[0] else 0)


def _first_worker(engine: str, tagger: dict[str, Any]) -> PartTagger:
    """The model, loaded before anything is written: it says what is wrong with options, and has a fingerprint.

    The workers of Ray load their own, on the devices that are where they run.
    """
    if engine == "local":
        return PartTagger(**tagger)
    require_name(tagger["model"])
    own = {name: value for name, value in tagger["pipeline_kwargs"].items() if name not in ("device", "device_map")}
    return PartTagger(**{**tagger, "pipeline_kwargs": own})


def _missing_parts(
    items: Iterator[ImageItem],
    output: TaggingOutput,
    shard_size: int,
    part: tuple[int, int],
    skip: Callable[[int], None],
) -> Iterator[Part]:
    """The parts of this machine that no earlier run has written; those that are there must hold these images.

    `skip` is told how many images a part that is there holds.
    """
    for number in itertools.count():
        images = list(itertools.islice(items, shard_size))
        if not images:
            break
        if number % part[1] != part[0]:
            continue
        if output.holds(number, images):
            skip(len(images))
        else:
            yield Part(number, images)


def _model_name(model: Any) -> str:
    """What the settings of a run call its model."""
    if model is None or isinstance(model, (str, Path)):
        return "default" if model is None else str(model)
    return getattr(getattr(model, "config", None) or model.model.config, "_name_or_path", "") or type(model).__name__


__all__ = ["TaggingReport", "tag_images"]
