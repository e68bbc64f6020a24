"""Pascal VOC classification from its official text files.

Source: Everingham et al., VOC2007 development kit, section 6.1: `ImageSets/Main/<class>_<split>.txt` holds, per line,
an image and 1 (present), -1 (absent) or 0 (only "difficult" objects of the class).
"""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from ..captions.class_tables import load_class_table
from .dataset import build_image_dataset, read_lines, require_file

VOC_DIFFICULT = ("negative", "unknown")
_WHERE = (
    "it is part of VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar, available at "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/"
)


def load_voc(
    folder: str | Path, split: str = "test", difficult: str = "negative", skip_missing: bool = False
) -> Dataset:
    """Reads VOC2007 (or another year, whose layout is the same).

    Args:
        folder (`str` or `Path`): `VOCdevkit/VOC2007`, with `ImageSets/Main` and `JPEGImages`.
        split (`str`, *optional*, defaults to `"test"`): `"train"`, `"val"`, `"trainval"` or `"test"`.
        difficult (`str`, *optional*, defaults to `"negative"`): what becomes of a class of which an image shows
            difficult objects alone: `"negative"`, as in the paper, or `"unknown"`, the official protocol, which leaves
            the image out for that class: the column `unknown` lists such classes (see [`image_label_matrix`]).
        skip_missing (`bool`, *optional*, defaults to `False`): leaves out images that are not on disk.

    Returns:
        `Dataset`: `image`, `labels` (20 classes), `image_id` (as `"000001"`), in the order of the split's file.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a label file does not list the images of the split, or holds another value.
    """
    if difficult not in VOC_DIFFICULT:
        raise ValueError(f"`difficult` is {difficult!r}: choose one of {', '.join(VOC_DIFFICULT)}.")
    folder = Path(folder)
    sets = folder / "ImageSets" / "Main"
    image_ids = [line.split()[0] for line in read_lines(require_file(sets / f"{split}.txt", "The VOC list", _WHERE))]
    rows = {image_id: row for row, image_id in enumerate(image_ids)}
    names = [entry["name"] for entry in load_class_table("voc20")]
    labels: list[list[int]] = [[] for _ in image_ids]
    unknown: list[list[int]] = [[] for _ in image_ids]
    for column, name in enumerate(names):
        path = require_file(sets / f"{name}_{split}.txt", "The VOC label file", _WHERE)
        for image_id, value in _read_values(path, rows).items():
            if value == 1:
                labels[rows[image_id]].append(column)
            elif value == 0:
                unknown[rows[image_id]].append(column)
    files = [folder / "JPEGImages" / f"{image_id}.jpg" for image_id in image_ids]
    source = f"{folder.name} {split}"
    return build_image_dataset(
        files, labels, image_ids, names, source, skip_missing, unknown if difficult == "unknown" else None
    )


def _read_values(path: Path, rows: dict[str, int]) -> dict[str, int]:
    values = {}
    for number, line in enumerate(read_lines(path), start=1):
        image_id, *rest = line.split()
        if image_id not in rows or rest[-1:] not in (["-1"], ["0"], ["1"]):
            raise ValueError(
                f"Line {number} of {str(path)!r} is {line[:60]!r}: expected an image of its split, and -1, 0 or 1."
            )
        values[image_id] = int(rest[-1])
    if len(values) != len(rows):
        raise ValueError(
            f"The file {str(path)!r} labels {len(values)} of the {len(rows)} images of its split: it is of another "
            "length."
        )
    return values


__all__ = ["VOC_DIFFICULT", "load_voc"]
