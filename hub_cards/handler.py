"""Handler of Hugging Face Inference Endpoints: it is `handler.py` in the repository of a model.

Request: `{"inputs": image or list of images, "parameters": {...}}`. An image is base64 text (plain or a `data:image/`
address), or the raw bytes of an `image/*` request. Addresses (`http://...`) are refused: the endpoint fetches nothing
on behalf of who calls it. Parameters: `top_k`, `threshold`, `candidate_labels`, `return_heatmaps`.

Response: a list of `{"label", "score"}` by falling score, a list of such lists for a list of images. Heatmaps come as
rows of numbers: with `return_heatmaps` true of the model's cells, with "pixels" of the image's pixels, `null` where
the image was cropped away. What a request may cost is limited, see the constants.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import importlib.util
import math
from typing import Any

import torch
from PIL import Image
from transformers import pipeline

TASK = "multi-label-image-classification"
PARAMETERS = ("top_k", "threshold", "candidate_labels", "return_heatmaps")
HEATMAPS = (None, False, True, "cells", "pixels")
MAX_IMAGES = 64
MAX_BYTES = 20_000_000  # of one encoded image
MAX_TOTAL_BYTES = 100_000_000  # of all images of a request
MAX_PIXELS = 40_000_000  # of one image
MAX_TOTAL_PIXELS = 400_000_000  # of all images of a request
MAX_LABELS = 500
MAX_LABEL_LENGTH = 200  # characters
MAX_NUMBERS = 4_000_000  # of all heatmaps of an answer
MAX_MESSAGE = 500  # characters of an error


class EndpointHandler:
    """Loads the pipeline of a checkpoint once and answers requests.

    Args:
        path (`str`, *optional*, defaults to `""`): folder of the checkpoint; the endpoint passes it.
    """

    def __init__(self, path: str = "") -> None:
        installed = importlib.util.find_spec("modeling_taidpt") is not None
        if installed:
            importlib.import_module("modeling_taidpt")  # registers the pipeline
        self.device = 0 if torch.cuda.is_available() else -1
        # Without the package its code comes from this very repository, which whoever deploys it has chosen.
        self.pipeline = pipeline(
            TASK, model=path or None, device=self.device, trust_remote_code=None if installed else True
        )
        # Nothing changes the model of an endpoint: its own labels are encoded once, on the same vision tower.
        self.own_labels = self._with_encoded_labels(self.pipeline.model)
        # The sibling of the pipeline's module, in the package or beside the checkpoint, reads the images.
        package = type(self.pipeline).__module__.rpartition(".")[0]
        self.reading: Any = importlib.import_module(f"{package}.image_reading")

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """Answers one request.

        Args:
            data (`dict`): `"inputs"` and, optionally, `"parameters"`.

        Returns:
            `list`: labels with scores, ready for JSON.

        Raises:
            ValueError: the request is wrong; one sentence that names what is.
        """
        try:
            return self._answer(data)
        except ValueError as error:
            raise ValueError(str(error)[:MAX_MESSAGE]) from None  # it may hold what was sent

    def _answer(self, data: Any) -> list[Any]:
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError("The request has no `inputs`: send {'inputs': <image as base64>, 'parameters': {...}}.")
        parameters = _check_parameters(data.get("parameters") or {})
        inputs = data["inputs"]
        many = isinstance(inputs, (list, tuple))
        encoded = inputs if many else [inputs]
        if not 1 <= len(encoded) <= MAX_IMAGES:
            raise ValueError(f"`inputs` has {len(encoded)} images: send 1 to {MAX_IMAGES}.")
        images = [_decode(image, index) for index, image in enumerate(encoded)]
        size = sum(len(image) for image in images if isinstance(image, bytes))
        if size > MAX_TOTAL_BYTES:
            raise ValueError(f"The images have {size} bytes together: send at most {MAX_TOTAL_BYTES}.")
        labels = parameters.pop("candidate_labels", None)
        tagger = self.own_labels if labels is None else self._tagger_of(labels)
        results: list[Any] = []
        room, pixels = MAX_NUMBERS, MAX_TOTAL_PIXELS
        for index, image in enumerate(images):  # one decoded image is held at a time
            decoded = self.reading.read_image(self.reading.ImageEntry(image, index), max_pixels=MAX_PIXELS)
            pixels -= decoded.width * decoded.height
            if pixels < 0:
                raise ValueError(f"The images have more than {MAX_TOTAL_PIXELS} pixels together: send fewer at once.")
            entries, room = _tag(tagger, decoded, parameters, room)
            results.append(entries)
        return results if many else results[0]

    def _tagger_of(self, labels: list[str]) -> Any:
        """The pipeline with other labels, which are encoded once for all images of a request."""
        model = self.pipeline.model
        with torch.inference_mode():
            return self._with_encoded_labels(model.with_labels(labels, tokenizer=self.pipeline.tokenizer).eval())

    def _with_encoded_labels(self, model: Any) -> Any:
        return type(self.pipeline)(model.bake(), image_processor=self.pipeline.image_processor, device=self.device)


def _tag(tagger: Any, image: Image.Image, parameters: dict[str, Any], room: int) -> tuple[list[Any], int]:
    """The labels of an image, and how many numbers of heatmaps the answer has room for after it."""
    kind = parameters.get("return_heatmaps")
    if kind == "pixels":
        labels, top_k = tagger.model.config.id2label, parameters["top_k"]
        drawn = min(len(labels), top_k) if isinstance(top_k, int) else len(labels)
        _check_room(drawn * image.width * image.height, room)  # before they are drawn
    result = tagger(image, **(parameters | {"return_heatmaps": True if kind == "pixels" else kind and "cells"}))
    numbers = sum(entry["heatmap"].size for entry in result if "heatmap" in entry)
    _check_room(numbers, room)
    return [_plain(entry) for entry in result], room - numbers


def _check_parameters(parameters: Any) -> dict[str, Any]:
    """Parameters of a request that are known and within limits; the pipeline checks their values.

    Raises:
        ValueError: one is unknown, or of a kind that is not taken; one sentence.
    """
    if not isinstance(parameters, dict):
        raise ValueError(f"`parameters` is a {type(parameters).__name__}: send an object, as {{'top_k': 5}}.")
    unknown = sorted(set(parameters) - set(PARAMETERS))
    if unknown:
        raise ValueError(f"`{unknown[0][:50]}` is not a parameter: choose of {', '.join(PARAMETERS)}.")
    parameters = {"top_k": None} | parameters
    kind = parameters.get("return_heatmaps")
    if not isinstance(kind, (bool, str, type(None))) or kind not in HEATMAPS:
        raise ValueError(f"`return_heatmaps` is {str(kind)[:50]!r}: send true for those of cells, or 'pixels'.")
    labels = parameters.get("candidate_labels")
    if labels is None:
        return parameters
    if isinstance(labels, str):
        if len(labels) > MAX_LABELS * (MAX_LABEL_LENGTH + 2):
            raise ValueError(f"`candidate_labels` is too long: send at most {MAX_LABELS} labels.")
        labels = labels.split(",")
    if not isinstance(labels, (list, tuple)) or not all(isinstance(label, str) for label in labels):
        raise ValueError("`candidate_labels` is not a list of words: send ['cat', 'stop sign'] or 'cat, stop sign'.")
    labels = [label.strip() for label in labels if label.strip()]
    if not 1 <= len(labels) <= MAX_LABELS:
        raise ValueError(f"`candidate_labels` has {len(labels)} labels: send 1 to {MAX_LABELS}.")
    if max(map(len, labels)) > MAX_LABEL_LENGTH:
        raise ValueError(f"A label has {max(map(len, labels))} characters: send at most {MAX_LABEL_LENGTH}.")
    return parameters | {"candidate_labels": list(dict.fromkeys(labels))}


def _check_room(numbers: int, room: int) -> None:
    if numbers > room:
        raise ValueError(
            f"The heatmaps of this answer have more than {MAX_NUMBERS} numbers: ask for fewer labels (`top_k`), "
            "smaller or fewer images, or heatmaps of cells (`return_heatmaps` true)."
        )


def _decode(image: Any, index: int) -> Any:
    """Encoded bytes of an image, or the image that the server has already opened."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str):
        if image.startswith(("http://", "https://", "file:", "ftp:")):
            raise ValueError(f"Image {index} is an address: this endpoint fetches none, send the image as base64.")
        if len(image) > 2 * MAX_BYTES:
            raise ValueError(f"Image {index} has {len(image)} characters: send at most {MAX_BYTES} bytes as base64.")
        text = image.partition(",")[2] if image.startswith("data:") else image
        try:
            image = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"Image {index} is not base64 text: encode the bytes of its file.") from error
    if not isinstance(image, (bytes, bytearray)) or not image:
        raise ValueError(f"Image {index} is a {type(image).__name__} without content: send base64 text or raw bytes.")
    if len(image) > MAX_BYTES:
        raise ValueError(f"Image {index} has {len(image)} bytes: send at most {MAX_BYTES}.")
    return bytes(image)


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """A result of the pipeline as JSON has it: `null` for the pixels of a heatmap that were cropped away."""
    plain = {"label": entry["label"], "score": float(entry["score"])}
    if "heatmap" in entry:
        rows = entry["heatmap"].tolist()  # (height, width) or (rows, columns); of four digits, as they may be small
        plain["heatmap"] = [[None if math.isnan(value) else float(f"{value:.4g}") for value in row] for row in rows]
    return plain


__all__ = ["EndpointHandler"]
