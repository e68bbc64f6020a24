"""Splits a JSON lines corpus by image, so that no image has captions on both sides.

    python examples/split_captions.py --captions coco_captions.jsonl --train train.jsonl --held_out held_out.jsonl

The same images are held out on every machine: those whose id, as text, has CRC32 mod `--parts` = 0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from transformers import HfArgumentParser


@dataclass
class Arguments:
    """The corpus and its two parts."""

    captions: str = field(metadata={"help": "JSON lines with `image_id`."})
    train: str = field(metadata={"help": "File for the captions to learn from."})
    held_out: str = field(metadata={"help": "File for the others."})
    parts: int = field(default=20, metadata={"help": "One part of so many is held out."})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    lines = Path(arguments.captions).read_text(encoding="utf-8").splitlines()
    held_out = [crc32(str(json.loads(line)["image_id"]).encode()) % arguments.parts == 0 for line in lines]
    for path, side in ((arguments.train, False), (arguments.held_out, True)):
        chosen = [line for line, is_held_out in zip(lines, held_out, strict=True) if is_held_out is side]
        Path(path).write_text("\n".join(chosen) + "\n", encoding="utf-8")
        print(f"{len(chosen)} captions in {path}")


if __name__ == "__main__":
    main()
