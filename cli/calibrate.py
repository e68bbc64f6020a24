"""`taidpt calibrate`: makes the scores of a model probabilities, on images with labels or without."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from .common import DeviceOption, JsonOption, load_model, make_table, print_json, stdout, working

MAX_IMAGES = 1000
TITLES = {
    "ece": "calibration error in %",
    "f1": "F1 in %: at 0.5, at the thresholds",
    "labels_per_image": "labels of 0.5 and more in an image",
}


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
        typer.Option(min=0, help="For images without labels: how many an image shows; as captions name by default."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the calibrated model, instead of its own.")
    ] = None,
    max_images: Annotated[int, typer.Option(min=1, help="Images without labels that are read.")] = MAX_IMAGES,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the scores of a model probabilities, and find its thresholds.

    What was just trained only ranks labels. A few dozen images with labels give the best fit. Without any, the model
    takes the steepness from captions and is moved until images show as many labels as captions name. Only the
    configuration of the model changes.

    **Examples**

    - `taidpt calibrate runs/pets photos --captions corpus.txt`
    - `taidpt calibrate runs/pets labelled_photos`
    - `taidpt calibrate org/taidpt-pets labelled_photos --output runs/pets`
    """
    folder = Path(model)
    if output is None and not (folder / "config.json").is_file():
        raise ValueError(f"There is no model in a folder {model!r} to be changed: name another folder with --output.")
    if output is not None and output.is_file():
        raise ValueError(f"The output {str(output)!r} is a file: name a folder.")
    with working(as_json):
        loaded = load_model(model, device)
        found = read_calibration_images(images, loaded.config.labels, max_images)
        figures = fit_probabilities(loaded, found, captions, labels_per_image)
        if output is None:
            from modeling_taidpt.repository import store_calibration

            store_calibration(folder, loaded.config)
        else:
            loaded.save_pretrained(output)
    place = str(output or folder)
    if as_json:
        print_json({"model": place, "fitted_on": loaded.config.score_calibration, **figures})
        return
    table = make_table("on these images", "before", "now")
    for name, title in TITLES.items():
        if name in figures:
            table.add_row(title, f"{figures[f'{name}_before']:.2f}", f"{figures[name]:.2f}")
    stdout().print(table)
    stdout().print(f"Probabilities of {place} are fitted on {loaded.config.score_calibration}.")


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
    return CalibrationImages(images)


def _read_labelled(source: str, labels: list[str]) -> CalibrationImages:
    from datasets import Image

    from modeling_taidpt.data.dataset import IMAGE, align_classes, partial_label_matrix
    from modeling_taidpt.data.loaders import load_images

    data = align_classes(load_images(source), labels)
    return CalibrationImages(list(data.cast_column(IMAGE, Image(decode=False))[IMAGE]), partial_label_matrix(data))


def fit_probabilities(
    model: Any, found: CalibrationImages, captions: Any = None, labels_per_image: float | None = None
) -> dict[str, float]:
    """Fits scale, bias and thresholds of a model.

    Args:
        model ([`TaiDptModel`]): gets them.
        found ([`CalibrationImages`]): the images.
        captions (`str` or [`CaptionFeatures`], *optional*): for images without labels; a file of them, or features.
        labels_per_image (`float`, *optional*): for images without labels; as many as captions name by default.

    Returns:
        `dict[str, float]`: with labels as of [`calibrate`]; without, `labels_per_image` and `labels_per_image_before`:
        how many reach a score of 0.5.

    Raises:
        ValueError: an image cannot be read, or there are neither labels nor captions.
    """
    from modeling_taidpt.evaluation import score_fitting as adaptation
    from modeling_taidpt.features.images import ImageFeatures

    rows = [{"image": image} for image in found.images]
    features = ImageFeatures.encode(model, rows, label_column=None)
    if found.labels is not None:
        return adaptation.calibrate(model, features.with_labels(found.labels))
    if captions is None:
        raise ValueError(
            "The images have no labels: give --captions as well, or write the labels of some dozens into labels.csv."
        )
    if isinstance(captions, str):
        from modeling_taidpt.captions.corpus import read_captions

        captions = read_captions(captions).captions
    logits = adaptation.score_features(model, features).logits  # (images, classes)

    def shown() -> float:
        return float((adaptation.probabilities(model.config, logits) >= 0.5).sum() / len(logits))

    before = shown()
    share = None if labels_per_image is None else labels_per_image / len(model.config.labels)
    adaptation.calibrate_without_labels(model, features, share, captions=captions)
    return {"labels_per_image_before": before, "labels_per_image": shown()}


__all__ = ["CalibrationImages", "calibrate", "fit_probabilities", "read_calibration_images"]
