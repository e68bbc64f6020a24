"""The Ray engine of [`tag_images`]: the same parts, tagged by a pool of workers on one machine or a cluster."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.sources import ImageItem
from .output import TaggingOutput
from .parts import Part, PartTagger

PARTS_IN_FLIGHT = 16  # per worker; what their images weigh is held in Ray's object store


class _PartWorker:
    """Loads the model once, then tags parts; Ray makes one in every worker process."""

    def __init__(self, output: TaggingOutput, tagger: dict[str, Any]) -> None:
        self.output, self.tagger = output, PartTagger(**tagger)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        items = [ImageItem(*fields) for fields in row["items"]]
        images, errors = self.tagger.write(Part(int(row["number"]), items), self.output)
        return {"images": images, "errors": errors}


def require_name(model: Any) -> None:
    """Refuses a model that is an object: every worker loads its own."""
    if model is not None and not isinstance(model, (str, Path)):
        raise ValueError("The engine 'ray' takes a model by its folder or repository: every worker loads its own.")


def tag_parts(
    parts: Iterator[Part], output: TaggingOutput, tagger: dict[str, Any], concurrency: int | None = None
) -> Iterator[tuple[int, int]]:
    """Tags parts with Ray Data.

    Args:
        parts (`Iterator[Part]`): the parts; they are taken in waves, so that their list is never held whole.
        output ([`TaggingOutput`]): its folder is seen by all workers.
        tagger (`dict`): arguments of [`PartTagger`]; its model is a folder or a repository.
        concurrency (`int`, *optional*): workers; as many as there are GPUs, else processors, by default.

    Returns:
        `Iterator[tuple[int, int]]`: rows and errors of each part, as they are finished.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("The engine 'ray' needs Ray Data: pip install 'taidpt[ray]'.") from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        address = "auto" if "RAY_ADDRESS" in os.environ else None
        ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False, logging_level=40)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = concurrency or gpus or int(ray.cluster_resources().get("CPU", 1))
    if gpus:
        tagger = tagger | {"pipeline_kwargs": {"device": "cuda:0"} | tagger["pipeline_kwargs"]}
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for wave in iter(lambda: list(itertools.islice(parts, PARTS_IN_FLIGHT * workers)), []):
        if not output.is_claimed:
            output.claim()
        rows = [{"number": part.number, "items": [tuple(item) for item in part.items]} for part in wave]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _PartWorker,
            fn_constructor_args=(output, tagger),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_gpus=1 if gpus else 0,
            num_cpus=1,
        )
        for row in done.iter_rows():
            yield row["images"], row["errors"]


__all__ = ["tag_parts"]
