"""Captions labelled per second: `"forms"` against the published NLTK procedure, in processes, and as a stream.

    python benchmarks/labelling.py [--nltk_data DIR] [--captions FILE] [--stream_lines 10000000] [--json FILE]

The baseline is the published procedure (`method="wordnet"`: NLTK tokenises, tags and lemmatises every caption) on the
same captions and one core. Without NLTK's data it is left out, and the report says so.
"""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
from common import machine, median_seconds, peak_megabytes, seconds, write_figures
from transformers import HfArgumentParser

from modeling_taidpt import CaptionLabeler, read_captions

ROOT = Path(__file__).parent.parent


@dataclass
class Arguments:
    """What to label."""

    captions: str = field(default=str(ROOT / "examples/data/captions.txt"), metadata={"help": "Caption file."})
    count: int = field(default=20_000, metadata={"help": "Captions labelled; pairs of those in the file."})
    baseline_count: int = field(default=1_000, metadata={"help": "The first ones, that the baseline labels too."})
    num_proc: int = field(default=2, metadata={"help": "Processes of `datasets.map`."})
    stream_lines: int = field(default=1_000_000, metadata={"help": "Lines of the stream; 0 for none."})
    nltk_data: str | None = field(default=None, metadata={"help": "Folder with NLTK's data."})
    repeats: int = field(default=3, metadata={"help": "Timed runs after one warm-up; the median counts."})
    seed: int = field(default=0, metadata={"help": "Seed of the pairs."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def make_captions(path: str, count: int, seed: int) -> list[str]:
    """Captions as long as two of the file's: all different, so that nothing is found twice."""
    found, draw = read_captions(path).captions, random.Random(seed)
    return [f"{draw.choice(found)} {draw.choice(found)} {number}" for number in range(count)]


def label_stream(labeler: CaptionLabeler, captions: list[str], lines: int) -> tuple[float, float, int]:
    """Captions per second, growth of peak memory in MB after the first tenth, and captions that name a class."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.txt"
        with path.open("w", encoding="utf-8") as file:
            for number in range(lines):
                file.write(f"{captions[number % len(captions)]} {number}\n")
        stream = datasets.load_dataset("text", data_files=str(path), split="train", streaming=True)
        stream = labeler.map(stream, caption_column="text")
        named, start, early = 0, 0, 0.0

        def read() -> None:
            nonlocal named, start, early
            for batch in stream.iter(batch_size=4096):
                named += int(np.asarray(batch["labels"]).any(axis=1).sum())
                start += len(batch["labels"])
                if not early and start >= lines // 10:
                    early = peak_megabytes()

        took = seconds(read)
        if start != lines:
            raise RuntimeError(f"The stream gave {start} of {lines} lines.")
        return lines / took, peak_megabytes() - early, named


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    captions = make_captions(arguments.captions, arguments.count, arguments.seed)
    labeler, few = CaptionLabeler.from_preset("coco80"), captions[: arguments.baseline_count]
    forms = median_seconds(lambda: labeler(few), 3 * arguments.repeats)
    figures = {"captions": len(few), "classes": len(labeler), "seconds": forms}
    print(f"machine    {machine()}")
    print(f"sizes      {len(few)} captions of {sum(map(len, few)) // len(few)} characters, 80 COCO classes, one core")
    print(f"forms      {len(few) / forms:,.0f} captions a second")
    if arguments.nltk_data:
        os.environ["NLTK_DATA"] = arguments.nltk_data
    try:
        published = CaptionLabeler.from_preset("coco80", method="wordnet")
        baseline = median_seconds(lambda: published(few), 1)
        agreement = float((published(few) == labeler(few)).mean())
        figures |= {"baseline_seconds": baseline, "ratio": baseline / forms, "agreement": agreement}
        print(
            f"baseline   {len(few) / baseline:,.0f} a second, as published: {baseline / forms:.0f} times slower, "
            f"{100 * agreement:.2f} % of the labels are the same"
        )
    except LookupError as error:
        print(f"baseline   not run: {error}")
    table = datasets.Dataset.from_dict({"caption": captions})
    datasets.disable_progress_bars()
    datasets.disable_caching()
    for processes in (1, arguments.num_proc):
        took = seconds(lambda count=processes: labeler.map(table, num_proc=count))
        figures[f"map_{processes}_seconds"] = took
        print(f"map        {len(captions) / took:,.0f} captions a second with num_proc={processes}")
    if arguments.stream_lines:
        rate, growth, named = label_stream(labeler, captions, arguments.stream_lines)
        figures |= {"stream_lines": arguments.stream_lines, "stream_rate": rate, "stream_growth_mb": growth}
        print(
            f"stream     {rate:,.0f} captions a second, {arguments.stream_lines:,} lines, {named:,} name a class; "
            f"peak memory grew by {growth:.0f} MB after the first tenth"
        )
    write_figures(arguments.json, figures)


if __name__ == "__main__":
    main()
