"""What the page of `demo.py` does on the server, as plain functions: tag photographs, say what was found and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from .. import DEFAULT_CHECKPOINT
from ..configuration_checks import is_visible
from ..pipelines.image_reading import ImageEntry, read_image
from ..variants import known_classes, move_values
from .formats import SCHEMA, write_rows
from .shown_text import escape, visible_text

MAX_PIXELS = 40_000_000
MAX_PHOTOGRAPHS = 24  # at once
MAX_LABELS = 100
MAX_LABEL_LENGTH = 200  # characters
SHOWN_LABELS = 10  # bars and choices
SHOWN_SIDE = 640  # pixels of the longer side of a heatmap
THUMBNAIL_SIDE = 400  # pixels of the longer side in the gallery
VIEW: dict[str, Any] = {"center_crop": False, "threshold": 0}  # the whole photograph is looked at, and all labels


class Tag(NamedTuple):
    """One label of a photograph.

    Attributes:
        label (`str`): the label.
        score (`float`): its score, 0 to 1.
        present (`bool`): whether it reaches the threshold of the checkpoint.
    """

    label: str
    score: float
    present: bool


class TaggedPhotograph(NamedTuple):
    """A photograph of the page.

    Attributes:
        name (`str`): name of its file, for people.
        file (`str`): where the upload is.
        thumbnail (`PIL.Image.Image`): a small copy for the gallery.
        tags (`list[Tag]`): all labels, by falling score.
    """

    name: str
    file: str
    thumbnail: Image.Image
    tags: list[Tag]


class PhotographTagger:
    """Tags the photographs of the page.

    Args:
        model (`str` or `Pipeline`, *optional*): as for [`build_demo`].
        max_pixels (`int`, *optional*, defaults to 40 million): as for [`build_demo`].
    """

    def __init__(self, model: Any = None, max_pixels: int = MAX_PIXELS) -> None:
        if model is None or isinstance(model, (str, Path)):
            import transformers

            import modeling_taidpt  # noqa: F401  registers the pipeline

            pipeline: Any = transformers.pipeline
            model = pipeline("multi-label-image-classification", model=str(model or DEFAULT_CHECKPOINT))
        self.tagger, self.max_pixels = model, max_pixels

    @property
    def has_thresholds(self) -> bool:
        """Whether the checkpoint says from which score on a label counts as found."""
        return getattr(self.tagger.model.config, "score_thresholds", None) is not None

    def tag(self, photographs: Sequence[str] | None, text: str | None) -> tuple[list[TaggedPhotograph], str]:
        """Scores all labels of every photograph. One that cannot be read is left out and named in the message.

        Args:
            photographs (`Sequence[str]`, *optional*): files of the uploads; at most 24 are taken.
            text (`str`, *optional*): custom labels with commas or line breaks between.

        Returns:
            `tuple[list[TaggedPhotograph], str]`: what was read, in its order; and a message.
        """
        photographs = list(photographs or [])
        if not photographs:
            return [], ""
        try:
            labels, notes = read_own_labels(text or "")
        except ValueError as error:
            return [], f"⚠️ {error}"
        if len(photographs) > MAX_PHOTOGRAPHS:
            notes.append(
                f"There are {len(photographs)} photographs, {MAX_PHOTOGRAPHS} are taken at once: the others were left "
                "out. The command taidpt tag takes any number."
            )
        read: list[tuple[str, Image.Image]] = []
        problems: list[str] = []
        images = self._images(photographs[:MAX_PHOTOGRAPHS], read, problems)
        options: dict[str, Any] = {"candidate_labels": labels} if labels else {}
        limits = self._thresholds(labels)
        found = [
            [Tag(row["label"], row["score"], row["score"] >= limits.get(row["label"], 1.1)) for row in results]
            for results in self.tagger(images, **VIEW, **options)
        ]
        tagged = [
            TaggedPhotograph(Path(file).name, file, thumbnail, tags)
            for (file, thumbnail), tags in zip(read, found, strict=True)
        ]
        return tagged, "  \n".join([*problems, *notes, *self._notes(labels)])

    def locate(self, photograph: TaggedPhotograph, label: str) -> Image.Image:
        """The photograph with the heatmap of one of its labels.

        Args:
            photograph (`TaggedPhotograph`): one of [`PhotographTagger.tag`].
            label (`str`): one of its labels.

        Returns:
            `PIL.Image.Image`: RGB, 640 pixels at most.

        Raises:
            ValueError: the upload cannot be read any more.
        """
        from .plots import overlay_heatmap

        image = self._read(photograph.file)
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        labels = [tag.label for tag in photograph.tags]
        own = set(labels) != set(self.tagger.model.config.labels)
        results = self.tagger(image, return_heatmaps=True, candidate_labels=labels if own else None, **VIEW)
        return overlay_heatmap(image, next(row["heatmap"] for row in results if row["label"] == label))

    def _images(
        self, files: Sequence[str], read: list[tuple[str, Image.Image]], problems: list[str]
    ) -> Iterator[Image.Image]:
        """One photograph after the other: one at a time is in memory. Why one cannot be read goes to `problems`."""
        for file in files:
            try:
                image = self._read(file)
            except ValueError as error:
                name = f"{escape(Path(file).name)}: " if len(files) > 1 else ""
                problems.append(f"⚠️ {name}{error}")
                continue
            thumbnail = image.copy()
            thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            read.append((file, thumbnail))
            yield image

    def _read(self, file: str) -> Image.Image:
        """Reads an upload, once its number of pixels is known to be small enough."""
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            raise ValueError("The upload was deleted after an hour: choose the photograph again.") from error
        try:
            return read_image(ImageEntry(content), max_pixels=self.max_pixels)
        except ValueError as error:
            raise ValueError(f"This file cannot be read: {escape(str(error).partition(': ')[2])}") from error

    def _thresholds(self, labels: Sequence[str]) -> dict[str, float]:
        """The threshold of each label, empty where the checkpoint has none."""
        if not self.has_thresholds:
            return {}
        model, limits = self.tagger.model, self.tagger.model.config.score_thresholds
        if labels:
            tokenizer = model.get_tokenizer(self.tagger.tokenizer)
            limits = move_values(limits, known_classes(model.config, list(labels), tokenizer))
        names = labels or model.config.labels
        return dict(zip(names, np.broadcast_to(limits, len(names)).tolist(), strict=True))  # (classes,)

    def _notes(self, labels: Sequence[str]) -> list[str]:
        """What is to be said about custom labels."""
        model, notes = self.tagger.model, []
        unlearned = [label for label in labels if label not in model.config.label_indices]
        if unlearned:
            notes.append(f"No prompts were learned for {escape(', '.join(unlearned))}: their scores are less sure.")
        rare = model.rare_words(labels) if labels and hasattr(model, "rare_words") else {}
        if rare:
            words = ", ".join(sorted({word for found in rare.values() for word in found}))
            notes.append(f"The model hardly saw the words {escape(words)}: use more common ones.")
        return notes


def found_tags(photograph: TaggedPhotograph, threshold: float | None) -> list[Tag]:
    """The labels that count as found: those that reach a threshold, or their own one.

    Args:
        photograph (`TaggedPhotograph`): one of [`PhotographTagger.tag`].
        threshold (`float`, *optional*): for all labels; those of the checkpoint by default.

    Returns:
        `list[Tag]`: by falling score.
    """
    return [tag for tag in photograph.tags if (tag.present if threshold is None else tag.score >= threshold)]


def write_table(photographs: Sequence[TaggedPhotograph], threshold: float | None, path: str | Path) -> None:
    """Writes what was found as `taidpt tag` writes it: a row for each photograph, no cell a formula.

    Args:
        photographs (`Sequence[TaggedPhotograph]`): of [`PhotographTagger.tag`].
        threshold (`float`, *optional*): as of [`found_tags`].
        path (`str` or `Path`): file ending in .csv, .jsonl or .parquet.
    """
    found = [found_tags(photograph, threshold) for photograph in photographs]
    rows = [
        {
            "path": photograph.name,
            "labels": [tag.label for tag in tags],
            "scores": [tag.score for tag in tags],
            "error": None,
        }
        for photograph, tags in zip(photographs, found, strict=True)
    ]
    write_rows(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def read_own_labels(text: str) -> tuple[list[str], list[str]]:
    """Labels that somebody wrote.

    Args:
        text (`str`): labels with commas or line breaks between; blank for none.

    Returns:
        `tuple[list[str], list[str]]`: the labels, each once, and notes about them.

    Raises:
        ValueError: only commas, too many labels, or one that is too long; a sentence for the page.
    """
    written = [" ".join(visible_text(part).split()) for part in text.replace("\n", ",").split(",")]
    written = [label for label in written if is_visible(label)]
    if text.strip() and not written:
        raise ValueError("There is no label between the commas: write words, as cup, spoon.")
    labels: dict[str, str] = {}
    repeated: dict[str, None] = {}
    for label in written:
        if label.casefold() in labels:
            repeated[label] = None
        labels.setdefault(label.casefold(), label)
    long = [label for label in written if len(label) > MAX_LABEL_LENGTH]
    if long:
        raise ValueError(
            f"The label {escape(long[0][:30])}… has {len(long[0])} characters, {MAX_LABEL_LENGTH} are taken: write a "
            "word or a few."
        )
    if len(labels) > MAX_LABELS:
        raise ValueError(f"There are {len(labels)} labels, {MAX_LABELS} are taken here: leave some out.")
    notes = [f"Written more than once, counted once: {escape(', '.join(repeated))}."] if repeated else []
    return list(labels.values()), notes


__all__ = [
    "MAX_LABELS",
    "MAX_LABEL_LENGTH",
    "MAX_PHOTOGRAPHS",
    "MAX_PIXELS",
    "PhotographTagger",
    "Tag",
    "TaggedPhotograph",
    "found_tags",
    "read_own_labels",
    "write_table",
]
