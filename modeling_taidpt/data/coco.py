"""MS-COCO instances as image labels.

Source: Lin et al., "Microsoft COCO" (ECCV 2014); published TaI-DPT code, `datasets/coco2014_distill.py`: a class is
present when an image has an annotation of it, crowds included; images without any annotation count, as all-negative.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from .dataset import build_image_dataset, require_file

COCO = "coco"
COCO_WHERE = "it is part of annotations_trainval2014.zip, had at https://cocodataset.org/#download"


def load_coco(
    folder: str | Path,
    split: str = "val2014",
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
    count_crowds: bool = True,
    skip_missing: bool = False,
) -> Dataset:
    """Reads COCO (2014, or 2017 in the same layout).

    Args:
        folder (`str` or `Path`): holds `annotations/instances_<split>.json` and the images in `<split>/`.
        split (`str`, *optional*, defaults to `"val2014"`): the paper tests on the 40,504 images of val2014.
        annotation_file (`str` or `Path`, *optional*): the instances, where they lie elsewhere.
        image_folder (`str` or `Path`, *optional*): the images, where they lie elsewhere.
        count_crowds (`bool`, *optional*, defaults to `True`): whether a class is present where only a crowd of it
            is annotated (`iscrowd`), as in the published code.
        skip_missing (`bool`, *optional*, defaults to `False`): leaves out images that are not on disk.

    Returns:
        `Dataset`: `image`, `labels` (80 classes by rising category id), `image_id` (a number); in the file's order.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the annotations are no COCO instances, or name a category or image that they do not list.
    """
    folder = Path(folder)
    path = Path(annotation_file) if annotation_file else folder / "annotations" / f"instances_{split}.json"
    content = read_coco_json(require_file(path, "The COCO annotation file", COCO_WHERE), "images", "annotations")
    categories = sorted(content.get("categories", []), key=lambda category: category["id"])
    columns = {category["id"]: column for column, category in enumerate(categories)}
    rows = {image["id"]: row for row, image in enumerate(content["images"])}
    labels: list[list[int]] = [[] for _ in rows]
    for annotation in content["annotations"]:
        if annotation.get("category_id") not in columns or annotation["image_id"] not in rows:
            raise ValueError(
                f"Annotation {annotation.get('id')} in {str(path)!r} is of category "
                f"{annotation.get('category_id')} on image {annotation['image_id']}, one of which the file does not "
                "list: give an instances file."
            )
        if count_crowds or not annotation.get("iscrowd"):
            labels[rows[annotation["image_id"]]].append(columns[annotation["category_id"]])
    images = Path(image_folder) if image_folder else folder / split
    files = [images / image["file_name"] for image in content["images"]]
    names = [category["name"] for category in categories]
    dataset = build_image_dataset(files, labels, list(rows), names, f"COCO {split}", skip_missing)
    dataset.info.dataset_name = COCO  # says that `image_id` is a COCO id
    return dataset


def read_coco_json(path: Path, *parts: str) -> dict[str, Any]:
    """A COCO file as a dictionary of lists.

    Args:
        path (`Path`): the file.
        *parts (`str`): keys that it must have.

    Raises:
        ValueError: If the file is no JSON or lacks a part.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The COCO file {str(path)!r} cannot be read as JSON: {error}.") from error
    for part in parts:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(f"The file {str(path)!r} has no list {part!r}: it is no COCO file of that kind.")
    return content


__all__ = ["COCO", "COCO_WHERE", "load_coco", "read_coco_json"]
