"""MS-COCO instances as image labels.

Source: Lin et al., "Microsoft COCO" (ECCV 2014); published TaI-DPT code, `datasets/coco2014_distill.py`: a class is
present when an image has an annotation of it, crowds included; images without any annotation count, as all-negative.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from .dataset import build_image_dataset, require_file

COCO = "coco"
COCO_WHERE = "it is part of annotations_trainval2014.zip, available at https://cocodataset.org/#download"


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
        ValueError: If the annotations are not COCO instances, an entry lacks something or is duplicated, or names a
            category or image that the file does not list; the entry is named.
    """
    folder = Path(folder)
    path = Path(annotation_file) if annotation_file else folder / "annotations" / f"instances_{split}.json"
    content = read_coco_json(
        require_file(path, "The COCO annotation file", COCO_WHERE), "images", "annotations", "categories"
    )
    ids = coco_ids(content["images"], path, "images", "file_name")
    category_ids = coco_ids(content["categories"], path, "categories", "name")
    categories = sorted(content["categories"], key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"Two categories in {str(path)!r} are called {twice!r}: give each a name of its own.")
    columns = {category["id"]: column for column, category in enumerate(categories)}
    rows = {image_id: row for row, image_id in enumerate(ids)}
    labels: list[list[int]] = [[] for _ in rows]
    for number, annotation in enumerate(content["annotations"]):
        image_id, category_id = (_value(annotation, key, number, path) for key in ("image_id", "category_id"))
        if category_id not in category_ids or image_id not in rows:
            raise ValueError(
                f"Annotation {annotation.get('id', number)} in {str(path)!r} is of category {category_id!r} on image "
                f"{image_id!r}, one of which the file does not list: give an instances file."
            )
        if count_crowds or not annotation.get("iscrowd"):
            labels[rows[image_id]].append(columns[category_id])
    images = Path(image_folder) if image_folder else folder / split
    files = [images / image["file_name"] for image in content["images"]]
    dataset = build_image_dataset(files, labels, ids, names, f"COCO {split}", skip_missing)
    dataset.info.dataset_name = COCO  # says that `image_id` is a COCO id
    return dataset


def read_coco_json(path: Path, *parts: str) -> dict[str, Any]:
    """A COCO file as a dictionary of lists.

    Args:
        path (`Path`): the file.
        *parts (`str`): keys that it must have.

    Raises:
        ValueError: If the file is not JSON or lacks a part.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The COCO file {str(path)!r} cannot be read as JSON: {error}.") from error
    for part in parts:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(f"The file {str(path)!r} has no list {part!r}: it is not a COCO file of that kind.")
    return content


def coco_ids(entries: Sequence[Any], path: Path, part: str, *texts: str) -> list[Any]:
    """The ids of the entries of a COCO file, which must be numbers or texts, all of one type, and each there once.

    Args:
        entries (`Sequence`): the entries.
        path (`Path`): the file, for errors.
        part (`str`): the key under which the file has them, for errors.
        *texts (`str`): keys of texts that every entry must have.

    Raises:
        ValueError: If an entry is not so; it is named.
    """
    ids: dict[Any, int] = {}
    for number, entry in enumerate(entries):
        where = f"Entry {number} of {part!r} in {str(path)!r}"
        found = entry.get("id") if isinstance(entry, Mapping) else None
        if isinstance(found, bool) or not isinstance(found, (int, str)):
            raise ValueError(f"{where} has no 'id': give a number or a text.")
        for key in texts:
            if not isinstance(entry.get(key), str) or not entry[key].strip():
                raise ValueError(f"{where} (id {found!r}) has no {key!r}: give a text.")
        if found in ids:
            raise ValueError(f"{where} has the id {found!r}, as entry {ids[found]} has: give each an id of its own.")
        if ids and type(found) is not type(next(iter(ids))):
            raise ValueError(f"{where} has the id {found!r}, but entry 0 {next(iter(ids))!r}: give ids of one type.")
        ids[found] = number
    return list(ids)


def _value(annotation: Any, key: str, number: int, path: Path) -> Any:
    found = annotation.get(key) if isinstance(annotation, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, (int, str)):
        raise ValueError(f"Annotation {number} in {str(path)!r} has no {key!r}: give a number or a text.")
    return found


def coco_captions(path: Path) -> list[Mapping[str, Any]]:
    """The captions of a COCO file, each with `caption`, `image_id` and `id`.

    Raises:
        ValueError: If the file is of another kind, or one lacks something; it is named.
    """
    annotations = read_coco_json(path, "annotations")["annotations"]
    if annotations and isinstance(annotations[0], Mapping) and "caption" not in annotations[0]:
        raise ValueError(f"The annotations in {str(path)!r} are not captions: give a captions_*.json.")
    coco_ids(annotations, path, "annotations", "caption")
    for number, annotation in enumerate(annotations):
        _value(annotation, "image_id", number, path)
    return annotations


__all__ = ["COCO", "COCO_WHERE", "coco_captions", "coco_ids", "load_coco", "read_coco_json"]
