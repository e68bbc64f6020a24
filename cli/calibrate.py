"""`taidpt calibrate`: makes the scores of a model probabilities, on images with labels or without."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from .common import (
    MOST,
    DeviceOption,
    JsonOption,
    changed_folder,
    load_model,
    make_table,
    one_sentence,
    print_json,
    save_changed,
    say,
    stdout,
    working,
)

MAX_IMAGES = 1000
MAX_CAPTIONS = 100_000  # counted, none of them is encoded; of a larger file as many are drawn
TITLES = {"ece": "calibration error in %", "f1": "F1 in %: at 0.5, at the thresholds"}
FEW_TAGS, MANY_UNTAGGED = 2.0, 30.0  # factor off the expected labels per image, percent of images without a label


class CalibrationImages(NamedTuple):
    """Images to fit probabilities on.

    Attributes:
        images (`list`): paths, encoded bytes, or `{"bytes", "path"}`.
        labels (`np.ndarray` of shape `(images, classes)`, *optional*): 1 present, -1 absent, 0 not known.
    """

    images: list[Any]
    labels: Any = None


def calibrate(
    model: Annotated[str, typer.Argument(help="Folder of the model; or a Hub repository, with --output.")],
    images: Annotated[
        str,
        typer.Argument(
            help="Images with labels (a folder as for evaluate), or without: a folder, .txt list, .parquet or .tar."
        ),
    ],
    captions: Annotated[
        str | None,
        typer.Option("--captions", "-c", help="For images without labels: captions of the kind it was trained on."),
    ] = None,
    labels_per_image: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="For images without labels: about how many of the labels a photograph of yours shows; by default 1.5 "
            "times those that a caption names.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the calibrated model, instead of its own.")
    ] = None,
    max_images: Annotated[
        int, typer.Option(min=1, max=MOST, help="Images without labels that are read.")
    ] = MAX_IMAGES,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the scores of a model probabilities, and find its thresholds.

    What was just trained only ranks labels. A few dozen images with labels give the best fit. Without any, captions
    say which labels are frequent, and each label gets the threshold that shows it as often as expected: say with
    --labels-per-image how many of your labels a photograph shows. Captions are searched with the synonyms that the
    model was trained with. Only the configuration of the model changes.

    **Examples**

    - `taidpt calibrate runs/pets photos --captions corpus.txt`
    - `taidpt calibrate runs/pets photos --captions corpus.txt --labels-per-image 2`
    - `taidpt calibrate runs/pets labelled_photos`
    - `taidpt calibrate org/taidpt-pets labelled_photos --output runs/pets`
    """
    target = changed_folder(model, output)
    with working(as_json):
        loaded = load_model(model, device)
        found = read_calibration_images(images, loaded.config.labels, max_images)
        figures = fit_probabilities(loaded, found, captions, labels_per_image)
        if output is None:
            from modeling_taidpt.repository import store_calibration

            store_calibration(target, loaded.config)
        else:
            save_changed(loaded, model, target)
    if as_json:
        print_json({"model": str(target), "fitted_on": loaded.config.score_calibration, **figures})
        return
    if "ece" in figures:
        table = make_table("on these images", "before", "now")
        for name, title in TITLES.items():
            table.add_row(title, f"{figures[f'{name}_before']:.2f}", f"{figures[name]:.2f}")
        stdout().print(table)
    else:
        print_tags(figures)
    stdout().print(f"Probabilities of {target} are fitted on {loaded.config.score_calibration}.")


def print_tags(figures: dict[str, Any]) -> None:
    """Prints what the thresholds make of the images, and warns where it is not useful."""
    table = make_table("at the thresholds, on these images", " ")
    table.add_row("labels per image", f"{figures['labels_per_image']:.2f}")
    table.add_row("  expected from captions or given", f"{figures['expected_labels_per_image']:.2f}")
    table.add_row("images without a label", f"{figures['images_without_labels']:.0f} %")
    for label, share in figures["most_frequent"].items():
        table.add_row(f"  {label}", f"{share:.0f} %")
    stdout().print(table)
    for text in tag_warnings(figures):
        say(text)


def tag_warnings(figures: dict[str, Any]) -> list[str]:
    """What to look at before the tags are used, a sentence each."""
    found, expected = figures["labels_per_image"], figures["expected_labels_per_image"]
    warnings = []
    if figures["templates"]:
        warnings.append(
            f"No caption of the training named {', '.join(figures['templates'])}: the prompts of these labels are "
            "templates and they count as rare; synonyms help."
        )
    if figures["never_shown"]:
        warnings.append(f"No image shows {', '.join(figures['never_shown'])}.")
    if not expected / FEW_TAGS <= found <= expected * FEW_TAGS:
        warnings.append(
            f"Images show {found:.2f} labels where {expected:.2f} are expected: look at some tags, and say with "
            "--labels-per-image how many there should be."
        )
    if figures["images_without_labels"] > MANY_UNTAGGED:
        warnings.append(
            f"{figures['images_without_labels']:.0f} % of the images get no label: if that is too many, raise "
            "--labels-per-image, or label some dozens of images."
        )
    return warnings


def read_calibration_images(source: str, labels: list[str], max_images: int = MAX_IMAGES) -> CalibrationImages:
    """Finds images, and their labels where there are any.

    Args:
        source (`str`): a folder with labels as for [`load_images`]; or images without, as for [`tag_images`].
        labels (`list[str]`): the labels of the model.
        max_images (`int`, *optional*, defaults to 1000): images without labels that are taken, the first ones.

    Returns:
        [`CalibrationImages`].

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: there are no images, or none of their classes is a label of the model.
    """
    from modeling_taidpt.data.loaders import is_labelled

    if is_labelled(source):
        return _read_labelled(source, labels)
    from modeling_taidpt.data.sources import open_images

    items = itertools.islice(open_images(source), max_images)
    images = [item.payload for item in items if item.error is None]
    if not images:
        raise ValueError(f"There are no images in {source!r}: name a folder that holds some.")
    return _readable(CalibrationImages(images), source)


def _read_labelled(source: str, labels: list[str]) -> CalibrationImages:
    from datasets import Image

    from modeling_taidpt.data.dataset import IMAGE, align_classes, partial_label_matrix
    from modeling_taidpt.data.loaders import load_images

    data = align_classes(load_images(source), labels)
    images = list(data.cast_column(IMAGE, Image(decode=False))[IMAGE])
    return _readable(CalibrationImages(images, partial_label_matrix(data)), source)


def _readable(found: CalibrationImages, source: str) -> CalibrationImages:
    """Those images that can be read; the others are counted, and one is named.

    Raises:
        ValueError: none can be read.
    """
    from modeling_taidpt.data.collator import open_image

    errors = {}
    for index, image in enumerate(found.images):
        try:
            open_image(image)
        except (ValueError, OSError) as error:
            errors[index] = one_sentence(error)
    if not errors:
        return found
    first = next(iter(errors.values()))
    kept = [index for index in range(len(found.images)) if index not in errors]
    if not kept:
        raise ValueError(f"None of the {len(errors)} images in {source!r} can be read: {first}")
    say(f"{len(errors)} of {len(found.images)} images cannot be read and are left out: {first}")
    labels = None if found.labels is None else found.labels[kept]  # (readable images, classes)
    return CalibrationImages([found.images[index] for index in kept], labels)


def fit_probabilities(
    model: Any, found: CalibrationImages, captions: Any = None, labels_per_image: float | None = None
) -> dict[str, Any]:
    """Fits scale, bias and thresholds of a model; the images are read and scored once.

    Args:
        model ([`TaiDptModel`]): gets them.
        found ([`CalibrationImages`]): the images.
        captions (`str` or [`CaptionFeatures`], *optional*): for images without labels; a file of them, or features.
        labels_per_image (`float`, *optional*): for images without labels; 1.5 times those that captions name by
            default.

    Returns:
        `dict`: with labels as of [`calibrate`]; without as of [`calibrate_without_labels`], and `templates`, the
        labels that no caption of the training named.

    Raises:
        ValueError: an image cannot be read, or there are neither labels nor captions.
    """
    from modeling_taidpt.evaluation import score_fitting
    from modeling_taidpt.features.images import ImageFeatures

    if found.labels is None and captions is None:
        raise ValueError(
            "The images have no labels: give --captions as well, or write the labels of some dozens into labels.csv."
        )
    if isinstance(captions, str):
        captions = _draw_captions(captions)
    rows = [{"image": image} for image in found.images]
    features = ImageFeatures.encode(model, rows, label_column=None, progress=sys.stderr.isatty())
    if found.labels is not None:
        return score_fitting.calibrate(model, features.with_labels(found.labels))
    figures = score_fitting.calibrate_without_labels(
        model, features, captions=captions, labels_per_image=labels_per_image
    )
    origins = model.config.label_origin
    return figures | {"templates": [label for label, origin in origins.items() if origin == "template"]}


def _draw_captions(source: str) -> list[str]:
    """The captions of a file, or as many drawn evenly as are counted."""
    import random

    from modeling_taidpt.captions.corpus import read_captions

    captions = read_captions(source).captions
    if len(captions) > MAX_CAPTIONS:
        captions = random.Random(0).sample(captions, MAX_CAPTIONS)
    return captions


__all__ = ["CalibrationImages", "calibrate", "fit_probabilities", "print_tags", "read_calibration_images"]
