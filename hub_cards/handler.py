"""Handler of Hugging Face Inference Endpoints: stands as `handler.py` in the repository of a model.

Request: `{"inputs": image or list of images, "parameters": {...}}`. An image is base64 text (plain or a `data:image/`
address), or the raw bytes of an `image/*` request. Addresses (`http://...`) are refused: the endpoint fetches nothing
on behalf of who calls it. Parameters: `top_k`, `threshold`, `candidate_labels`, `return_heatmaps`.

Response: a list of `{"label", "score"}` by falling score, a list of such lists for a list of images. Heatmaps come as
rows of numbers, `null` where the image was cropped away.
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
MAX_IMAGES = 64
MAX_BYTES = 20_000_000  # of one encoded image


class EndpointHandler:
    """Loads the pipeline of a checkpoint once and answers requests.

    Args:
        path (`str`, *optional*, defaults to `""`): folder of the checkpoint; the endpoint passes it.
    """

    def __init__(self, path: str = "") -> None:
        installed = importlib.util.find_spec("modeling_taidpt") is not None
        if installed:
            importlib.import_module("modeling_taidpt")  # registers the pipeline
        device = 0 if torch.cuda.is_available() else -1
        # Without the package its code comes from this very repository, which whoever deploys it has chosen.
        self.pipeline = pipeline(
            TASK, model=path or None, device=device, trust_remote_code=None if installed else True
        )

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """Answers one request.

        Args:
            data (`dict`): `"inputs"` and, optionally, `"parameters"`.

        Returns:
            `list`: labels with scores, ready for JSON.

        Raises:
            ValueError: the request is wrong; one sentence that names what is.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError("The request has no `inputs`: send {'inputs': <image as base64>, 'parameters': {...}}.")
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f"`parameters` is a {type(parameters).__name__}: send an object, as {{'top_k': 5}}.")
        unknown = sorted(set(parameters) - set(PARAMETERS))
        if unknown:
            raise ValueError(f"`{unknown[0]}` is no parameter: choose of {', '.join(PARAMETERS)}.")
        inputs = data["inputs"]
        many = isinstance(inputs, (list, tuple))
        images = [_decode(image, index) for index, image in enumerate(inputs if many else [inputs])]
        if not 1 <= len(images) <= MAX_IMAGES:
            raise ValueError(f"`inputs` has {len(images)} images: send 1 to {MAX_IMAGES}.")
        results = [[_plain(entry) for entry in result] for result in self.pipeline(images, **parameters)]
        return results if many else results[0]


def _decode(image: Any, index: int) -> Any:
    """Encoded bytes of an image, or the picture that the server has already decoded."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str):
        if image.startswith(("http://", "https://", "file:", "ftp:")):
            raise ValueError(f"Image {index} is an address: this endpoint fetches none, send the image as base64.")
        text = image.partition(",")[2] if image.startswith("data:") else image
        try:
            image = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"Image {index} is no base64 text: encode the bytes of its file.") from error
    if not isinstance(image, (bytes, bytearray)) or not image:
        raise ValueError(f"Image {index} is a {type(image).__name__} without content: send base64 text or raw bytes.")
    if len(image) > MAX_BYTES:
        raise ValueError(f"Image {index} has {len(image)} bytes: send at most {MAX_BYTES}.")
    return bytes(image)


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """A result of the pipeline as JSON has it: `null` for the places of a heatmap that were cropped away."""
    plain = {"label": entry["label"], "score": float(entry["score"])}
    if "heatmap" in entry:
        rows = entry["heatmap"].round(4).tolist()  # (height, width)
        plain["heatmap"] = [[None if math.isnan(value) else value for value in row] for row in rows]
    return plain


__all__ = ["EndpointHandler"]
