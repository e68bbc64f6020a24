"""Caption corpora with the images that they describe, so that those of test images can be left out.

Source: TaI-DPT (arXiv 2211.12739), section 4.1; published code, `datasets/coco2014_distill.py` and
`datasets/nuswide_distill.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers.utils import logging

from ..captions.corpus import read_captions
from ..captions.labeler import CaptionLabeler
from ..captions.statistics import select_by_rarest_class
from ..captions.synthetic import template_sentences
from ..captions.table_files import read_rows
from .coco import COCO, COCO_WHERE, coco_captions, coco_ids, read_coco_json
from .dataset import IMAGE_ID, LABELS, load_split, require_file

logger = logging.get_logger(__name__)

CAPTION = "caption"
_WORD = re.compile(r"\w+(?:[-']\w+)*|[^\w\s]")  # a punctuation mark counts as a word, as in NLTK's tokenizer
_NARRATIVES_WHERE = "it is available at https://storage.googleapis.com/localized-narratives/annotations/open_images_train_v6_captions.jsonl"
_CHUNK = 4096  # captions labelled at a time


def load_coco_captions(
    files: str | Path | Iterable[str | Path],
    captions_per_image: int | None = None,
    exclude_image_ids: Collection[int] | Dataset | str | Path | None = None,
    evaluation_set: Dataset | str | Path | None = None,
    seed: int = 0,
) -> Dataset:
    """Reads COCO captions.

    Args:
        files (`str`, `Path` or several): `annotations/captions_train2014.json`, `captions_val2014.json`,
            `captions_train2017.json` and so on; all share the image ids.
        captions_per_image (`int`, *optional*): how many of an image's captions to draw; all by default, the paper
            takes 1.
        exclude_image_ids (`Collection[int]`, `Dataset` or `str`, *optional*): images whose captions are left out, or a
            data set with a column `image_id`, as the one that the model is tested on, or a COCO file that lists them.
        evaluation_set (`Dataset` or `str`, *optional*): images that the model will be tested on, or a COCO file that
            lists them; captions of them that stay in are counted in a warning.
        seed (`int`, *optional*, defaults to 0): seed of the draw.

    Returns:
        `Dataset`: `caption`, `image_id`, `caption_id`, in the order of the files.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file holds no captions, or none is left.
    """
    excluded = _ids(exclude_image_ids)
    rows: list[Mapping[str, Any]] = []
    for path in [files] if isinstance(files, (str, Path)) else files:
        file = require_file(Path(path), "The COCO caption file", COCO_WHERE)
        rows += [row for row in coco_captions(file) if row["image_id"] not in excluded]
    if captions_per_image is not None:
        rows = _draw(rows, captions_per_image, seed)
    if not rows:
        raise ValueError("No COCO caption is left: the files are empty, or all their images are excluded.")
    columns = {CAPTION: [row[CAPTION] for row in rows], IMAGE_ID: [row["image_id"] for row in rows]}
    columns["caption_id"] = [row["id"] for row in rows]
    if len({type(image_id) for image_id in columns[IMAGE_ID]}) > 1:
        raise ValueError("The COCO files have image ids of two types, numbers and texts: give files of one kind.")
    dataset = Dataset.from_dict(columns)
    dataset.info.dataset_name = COCO
    if evaluation_set is not None:
        warn_of_overlap(dataset, evaluation_set)
    return dataset


def _ids(images: Collection[Any] | Dataset | str | Path | None) -> set[Any]:
    if images is None:
        return set()
    if isinstance(images, (str, Path)):
        file = require_file(Path(images), "The COCO file of images", COCO_WHERE)
        return set(coco_ids(read_coco_json(file, "images")["images"], file, "images"))
    if isinstance(images, Dataset):
        if IMAGE_ID not in images.column_names:
            raise ValueError(f"The images to exclude have no column {IMAGE_ID!r}: pass their ids.")
        return set(images.select_columns([IMAGE_ID])[IMAGE_ID])
    return set(images)


def _draw(rows: list[Mapping[str, Any]], count: int, seed: int) -> list[Mapping[str, Any]]:
    """At most `count` captions of every image, in the order of the rows."""
    if count < 1:
        raise ValueError(f"`captions_per_image` is {count}: give at least 1, or None for all.")
    by_image: dict[Any, list[int]] = {}
    for number, row in enumerate(rows):
        by_image.setdefault(row["image_id"], []).append(number)
    generator = np.random.default_rng(seed)
    drawn: list[int] = []
    for image_id in sorted(by_image):  # so that the order of the files does not change the draw
        drawn += generator.permutation(by_image[image_id])[:count].tolist()
    return [rows[number] for number in sorted(drawn)]


def count_overlap(captions: Any, images: Any) -> int:
    """How many images of a test set, or of a COCO file, have captions in a corpus; 0 where one has no COCO ids."""
    for data in (captions, images):
        if isinstance(data, (str, Path)):
            continue
        if not isinstance(data, Dataset) or data.info.dataset_name != COCO or IMAGE_ID not in data.column_names:
            return 0
    return len(_ids(captions) & _ids(images))


def warn_of_overlap(captions: Any, images: Any) -> int:
    """Warns when a corpus holds captions of test images, and returns how many such images there are."""
    overlap = count_overlap(captions, images)
    if overlap:
        logger.warning(
            f"The captions describe {overlap} of the {len(_ids(images))} test images: pass their ids as "
            "`exclude_image_ids` for a clean protocol, or report this as the paper's."
        )
    return overlap


def load_caption_file(
    path: str | Path,
    caption_column: str = CAPTION,
    id_column: str | None = None,
    exclude_image_ids: Collection[Any] | Dataset | None = None,
) -> Dataset:
    """Reads a plain file of captions, as [`read_captions`] does, and knows whose captions they are.

    Args:
        path (`str` or `Path`): text, CSV, JSON, JSON lines or Parquet.
        caption_column (`str`, *optional*, defaults to `"caption"`): column of the captions.
        id_column (`str`, *optional*): column with the image of each caption; needed to exclude some.
        exclude_image_ids (`Collection` or `Dataset`, *optional*): as in [`load_coco_captions`].

    Returns:
        `Dataset`: `caption`, and `image_id` with an `id_column`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If images are excluded without an `id_column`, a column is missing, or no caption is left.
    """
    if exclude_image_ids is not None and id_column is None:
        raise ValueError("`exclude_image_ids` needs `id_column`, the column that says whose caption a row is.")
    table = read_captions(path, caption_column, id_column)
    if id_column is None:
        return Dataset.from_dict({CAPTION: table.captions})
    excluded = set(map(str, _ids(exclude_image_ids)))  # a CSV file holds numbers as text
    kept = [row for row, image_id in enumerate(table.labels or []) if str(image_id) not in excluded]
    if not kept:
        raise ValueError(f"No caption is left in {table.source}: all their images are excluded.")
    ids = [(table.labels or [])[row] for row in kept]
    return Dataset.from_dict({CAPTION: [table.captions[row] for row in kept], IMAGE_ID: ids})


def load_caption_dataset(name: str, caption_column: str = CAPTION, **arguments: Any) -> Dataset:
    """Reads captions of a data set on the Hub.

    Args:
        name (`str`): repository, or folder that [`~datasets.load_dataset`] reads.
        caption_column (`str`, *optional*, defaults to `"caption"`): column of the captions.
        **arguments: for [`~datasets.load_dataset`], as `split="train"` (needed where there are several).

    Returns:
        `Dataset`: with all of its columns, among them the captions.

    Raises:
        FileNotFoundError: If there is no such data set.
        ValueError: If it has several splits and none is named, or there is no such column.
    """
    dataset = load_split(name, **arguments)
    if caption_column not in dataset.column_names:
        raise ValueError(
            f"There is no column {caption_column!r} in the data set {name!r}, it has "
            f"{', '.join(map(repr, dataset.column_names))}: name the column of the captions."
        )
    return dataset


def load_template_captions(labels: Sequence[str]) -> Dataset:
    """The template sentences alone, as a corpus: no caption of anybody is used.

    Args:
        labels (`Sequence[str]`): the class names.

    Returns:
        `Dataset`: `caption` and `labels`, 89 sentences per class; train on it with `label_column="labels"` and
        `add_templates=False`.
    """
    sentences, one_hot = template_sentences(labels)  # (89 * classes,), (89 * classes, classes)
    features = Features({CAPTION: Value("string"), LABELS: List(ClassLabel(names=list(labels)))})
    columns = {CAPTION: sentences, LABELS: [[column] for column in one_hot.argmax(axis=1).tolist()]}
    return Dataset.from_dict(columns, features=features)


def load_localized_narratives(
    files: str | Path | Iterable[str | Path],
    labeler: CaptionLabeler | None = None,
    method: str = "forms",
    max_words: int | None = 77,
    max_captions_per_class: int | None = 1000,
    exclude_image_ids: Collection[str] | Dataset | None = None,
) -> Dataset:
    """Reads OpenImages V6 localized narratives and selects as the paper does for NUS-WIDE.

    The first `max_words` words of a narrative are labelled, narratives without a class are dropped, each of the others
    belongs to the rarest of its classes (that with the fewest narratives), and of every class the first
    `max_captions_per_class` of its own are kept, with all their labels. The whole narrative is kept: the text tower
    cuts it at its own length.

    Args:
        files (`str`, `Path` or several): `open_images_train_v6_captions.jsonl`, with `image_id` and `caption`.
        labeler ([`CaptionLabeler`], *optional*): the one of `"nuswide81"` by default.
        method (`str`, *optional*, defaults to `"forms"`): method of that one, `"forms"` or `"wordnet"`.
        max_words (`int`, *optional*, defaults to 77): words looked at, punctuation marks counted; `None` for all.
        max_captions_per_class (`int`, *optional*, defaults to 1000): `None` for all.
        exclude_image_ids (`Collection[str]` or `Dataset`, *optional*): as in [`load_coco_captions`].

    Returns:
        `Dataset`: `caption`, `labels` (give `label_column="labels"` to the trainer), `image_id`, in the files' order.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a line has no caption, or no narrative names a class.
    """
    labeler = CaptionLabeler.from_preset("nuswide81", method) if labeler is None else labeler
    captions, ids, parts = [], [], []
    for chunk in _chunks(_narratives(files, _ids(exclude_image_ids))):
        labels = np.asarray(labeler([_first_words(caption, max_words) for _, caption in chunk]))  # (chunk, classes)
        named = np.flatnonzero(labels.any(axis=1))  # (named,)
        parts.append(labels[named].astype(bool))  # (named, classes)
        captions += [chunk[row][1] for row in named]
        ids += [chunk[row][0] for row in named]
    if not captions:
        raise ValueError(f"No narrative names one of the {len(labeler)} classes: give the labeler synonyms.")
    labels = np.concatenate(parts)  # (captions, classes)
    absent = [labeler.class_names[column] for column in np.flatnonzero(~labels.any(axis=0))]
    if absent:
        logger.warning(f"No narrative names {len(absent)} of the {len(labeler)} classes: {', '.join(absent)}.")
    kept = select_by_rarest_class(labels, max_captions_per_class)
    features = {
        CAPTION: Value("string"),
        LABELS: List(ClassLabel(names=labeler.class_names)),
        IMAGE_ID: Value("string"),
    }
    columns = {
        CAPTION: [captions[row] for row in kept],
        LABELS: [np.flatnonzero(labels[row]).tolist() for row in kept],
        IMAGE_ID: [ids[row] for row in kept],
    }
    return Dataset.from_dict(columns, features=Features(features))


def _narratives(files: str | Path | Iterable[str | Path], excluded: set[Any]) -> Iterator[tuple[str, str]]:
    for path in [files] if isinstance(files, (str, Path)) else files:
        file = require_file(Path(path), "The file of localized narratives", _NARRATIVES_WHERE)
        for number, row in enumerate(read_rows(file, "file of localized narratives")):
            if not isinstance(row, Mapping) or not isinstance(row.get(CAPTION), str) or IMAGE_ID not in row:
                raise ValueError(
                    f"Row {number} of {str(file)!r} is not a narrative: it needs 'image_id' and 'caption'."
                )
            if row[IMAGE_ID] not in excluded:
                yield str(row[IMAGE_ID]), row[CAPTION]


def _chunks(rows: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    chunk: list[tuple[str, str]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _first_words(caption: str, most: int | None) -> str:
    if most is None:
        return caption
    for number, word in enumerate(_WORD.finditer(caption), start=1):
        if number == most:
            return caption[: word.end()]
    return caption


__all__ = [
    "count_overlap",
    "load_caption_dataset",
    "load_caption_file",
    "load_coco_captions",
    "load_localized_narratives",
    "load_template_captions",
    "warn_of_overlap",
]
