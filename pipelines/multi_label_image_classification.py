"""Pipeline that gives an image every label that fits it, with a score and, if wanted, a heatmap.

It imports nothing of this package, so that it travels with a checkpoint as remote code. Of the model it knows: called
with `pixel_values` it returns `logits` `(batch, classes)` and, for heatmaps, `similarity_map`
`(batch, classes, rows, columns)`; `config.id2label` names the classes; `config.score_scale` and `config.score_bias`
turn logits into probabilities. Where the model has them it also uses `with_labels` (for `candidate_labels`),
`config.label_origin` and `rare_words` (for warnings).
"""

from __future__ import annotations

import base64
import contextlib
import numbers
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline
from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio
from transformers.image_utils import get_image_size_for_max_height_width, httpx  # the client of `load_image`
from transformers.utils import logging

logger = logging.get_logger(__name__)

NAMES_IN_WARNING = 10  # labels named in one warning; the others are counted
KEPT_LABEL_SETS = 4  # models for `candidate_labels` that are kept
IMAGE_KINDS = "a path, a URL, base64 text, bytes, a PIL image, or a uint8 or uint16 array"


class MultiLabelImageClassificationPipeline(Pipeline):
    """Tags images with every label that fits.

    Example:
    ```python
    >>> import modeling_taidpt
    >>> from transformers import pipeline

    >>> tagger = pipeline("multi-label-image-classification")
    >>> tagger("street.jpg", threshold=0.5)
    [{"label": "car", "score": 0.93}, {"label": "person", "score": 0.71}]
    >>> tagger("street.jpg", candidate_labels="tram, bus stop", return_heatmaps=True)
    ```
    """

    # None: loaded where the checkpoint has it, else the pipeline says itself what is missing.
    _load_image_processor = None
    _load_tokenizer = None
    _load_processor: bool | None = False  # type: ignore[assignment]
    _load_feature_extractor: bool | None = False  # type: ignore[assignment]
    _load_video_processor: bool | None = False  # type: ignore[assignment]
    _registered_impl: dict[str, dict[str, Any]]  # set by transformers on registration

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._relabelled: OrderedDict[tuple[int, tuple[str, ...]], torch.nn.Module] = OrderedDict()
        self._checked_labels: set[str] = set()
        super().__init__(*args, **kwargs)
        if self.image_processor is None:
            name = getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__
            raise ValueError(
                f"No image processor was found for {name!r}: pass `image_processor=` (one that "
                "`AutoImageProcessor.from_pretrained` returns, or its folder or repository)."
            )
        self.model.eval()

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Tags one image or many.

        Args:
            inputs (`str`, `Path`, `bytes`, `PIL.Image.Image`, `np.ndarray`, or many of them):
                An image is a path, an http(s) URL, base64 text (plain or a `data:image/` address), encoded bytes, a
                PIL image, a uint8 or uint16 array `(height, width)` or `(height, width, channels)`, or the
                `{"path", "bytes"}` entry of an undecoded image column. Many images come as a list or tuple, a
                generator or another iterator, or a `KeyDataset`. Images are turned as their EXIF data say; transparent
                ones are laid on white, 16-bit ones are scaled to 8 bit.
            **kwargs: options of this call, each also accepted by `pipeline(...)` as a default:

                - top_k (`int`, *optional*): keeps this many labels of the highest scores; all by default.
                - threshold (`float`, *optional*): keeps labels with a score of at least this, before `top_k` counts.
                - candidate_labels (`str` or `list[str]`, *optional*): scores these labels (a string is split at
                  commas) instead of the model's own.
                - return_heatmaps (`bool`, *optional*, defaults to `False`): adds `"heatmap"` to each label that is
                  kept: a float32 array `(height, width)` of the turned image, the cosine of the place with the label,
                  NaN where the image processor crops the image away.
                - timeout (`float`, *optional*): seconds to wait for each URL; no limit by default.
                - batch_size, num_workers (`int`, *optional*): as in every pipeline.

        Returns:
            `list[dict]`: `{"label", "score"[, "heatmap"]}` by falling score, labels of equal score in the order of the
            model; a list of such lists for a list, and an iterator over them for a dataset or a generator. The score
            is `sigmoid(score_scale * logit + score_bias)`, in [0, 1].

        Raises:
            ValueError: an image cannot be read (it is named), or an option is out of range.
        """
        if inputs is None:
            raise ValueError(f"There is no image: give {IMAGE_KINDS}, or several of them in a list.")
        if hasattr(inputs, "column_names"):
            raise ValueError(
                f"A `{type(inputs).__name__}` has columns: pass the one with images as `KeyDataset(dataset, 'image')` "
                "(of transformers.pipelines.pt_utils), or as a generator if it is streamed."
            )
        if isinstance(inputs, (list, tuple)):
            inputs = [_Entry(source, index) for index, source in enumerate(inputs)]
            if not inputs:
                return []
        elif isinstance(inputs, Dataset) and not isinstance(inputs, IterableDataset):
            inputs = _Entries(inputs)
        elif isinstance(inputs, (Iterator, IterableDataset)) and not hasattr(inputs, "read"):
            inputs = (_Entry(source, index) for index, source in enumerate(inputs))
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        threshold: float | None = None,
        candidate_labels: str | Iterable[str] | None = None,
        return_heatmaps: bool | None = None,
        timeout: float | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess: dict[str, Any] = {}
        forward: dict[str, Any] = {}
        postprocess: dict[str, Any] = {}
        if timeout is not None:
            preprocess["timeout"] = timeout
        if top_k is not None:
            if isinstance(top_k, bool) or not isinstance(top_k, numbers.Integral) or top_k < 1:
                raise ValueError(f"`top_k` is {top_k!r}: give a whole number of at least 1, or None for all labels.")
            postprocess["top_k"] = int(top_k)
        if threshold is not None:
            if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real) or not 0 <= threshold <= 1:
                raise ValueError(f"`threshold` is {threshold!r}: give a number from 0 to 1, or None for all labels.")
            postprocess["threshold"] = float(threshold)
        if candidate_labels is not None:
            forward["model"] = postprocess["model"] = self._model_for(_split_labels(candidate_labels))
        if return_heatmaps is not None:
            for parameters in (preprocess, forward, postprocess):
                parameters["return_heatmaps"] = bool(return_heatmaps)
        return preprocess, forward, postprocess

    def preprocess(self, inputs: Any, timeout: float | None = None, return_heatmaps: bool = False) -> dict[str, Any]:
        """Reads one image and makes it ready for the model; the window says where the pixels came from."""
        entry = inputs if isinstance(inputs, _Entry) else _Entry(inputs)
        image = _read_image(entry, timeout)
        resized = _resized_size(self.image_processor, image.height, image.width)
        limit = Image.MAX_IMAGE_PIXELS
        if resized is not None and limit is not None and resized[0] * resized[1] > limit:
            raise _unreadable(entry, f"its sides ({image.width} x {image.height}) are too unequal for resizing")
        pixels = self.image_processor(images=image, return_tensors="pt")["pixel_values"]  # (1, 3, height, width)
        # A list of images, not a batch: processors that do not crop give them different sizes.
        features: dict[str, Any] = {"images": [pixels[0].to(self.dtype)]}
        if return_heatmaps:
            processed = (pixels.shape[-2], pixels.shape[-1])
            features["window"] = _window(self.image_processor, (image.height, image.width), resized, processed)
        return features

    def _forward(
        self, model_inputs: dict[str, Any], model: Any = None, return_heatmaps: bool = False
    ) -> dict[str, Any]:
        model = self.model if model is None else model
        self._warn_about_labels(model)
        # one image [(3, height, width)], or a batch of such lists
        nested = [entry if isinstance(entry, list) else [entry] for entry in model_inputs["images"]]
        images = [image for entry in nested for image in entry]
        logits: dict[int, torch.Tensor] = {}
        maps: dict[int, torch.Tensor] = {}
        for shape in dict.fromkeys(image.shape for image in images):
            places = [place for place, image in enumerate(images) if image.shape == shape]
            outputs = model(pixel_values=torch.stack([images[place] for place in places]))
            logits.update(zip(places, outputs.logits, strict=True))  # (classes,) each
            if return_heatmaps:
                similarity = getattr(outputs, "similarity_map", None)  # (images of this shape, classes, rows, columns)
                if similarity is None:
                    raise ValueError(f"`{type(model).__name__}` gives no `similarity_map`: leave return_heatmaps out.")
                maps.update(zip(places, similarity, strict=True))  # (classes, rows, columns) each
        results: dict[str, Any] = {"logits": torch.stack([logits[place] for place in range(len(images))])}
        if return_heatmaps:
            results["similarity_map"] = [maps[place] for place in range(len(images))]
            results["window"] = model_inputs["window"]
        return results

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        model: Any = None,
        top_k: int | None = None,
        threshold: float | None = None,
        return_heatmaps: bool = False,
    ) -> list[dict[str, Any]]:
        """Turns the outputs for one image into its list of labels."""
        config: Any = (self.model if model is None else model).config
        scores = _scores(model_outputs["logits"][0], config)  # (classes,)
        order = np.argsort(-scores, kind="stable")  # (classes,), equal scores stay in the order of the labels
        if threshold is not None:
            order = order[scores[order] >= threshold]  # (kept,)
        order = order[:top_k].tolist()
        results = [{"label": config.id2label[index], "score": float(scores[index])} for index in order]
        if return_heatmaps:
            cells = model_outputs["similarity_map"][0].float().numpy()  # (classes, rows, columns)
            for result, heatmap in zip(results, _heatmaps(cells[order], model_outputs["window"]), strict=True):
                result["heatmap"] = heatmap
        return results

    def _model_for(self, labels: tuple[str, ...]) -> Any:
        """The model for other labels; the last few are kept, so that repeated calls encode nothing anew."""
        with_labels: Any = getattr(self.model, "with_labels", None)
        if with_labels is None:
            raise ValueError(
                f"`{type(self.model).__name__}` cannot take other labels (`with_labels`): leave candidate_labels out."
            )
        key = (id(self.model), labels)
        if key not in self._relabelled:
            self._relabelled[key] = with_labels(list(labels), tokenizer=self.tokenizer).eval()
        self._relabelled.move_to_end(key)
        while len(self._relabelled) > KEPT_LABEL_SETS:
            self._relabelled.popitem(last=False)
        return self._relabelled[key]

    def _warn_about_labels(self, model: Any) -> None:
        """Warns, once for every label, that no prompt was learned for it or that its words are rare."""
        labels = [label for label in model.config.id2label.values() if label not in self._checked_labels]
        if not labels:
            return
        self._checked_labels.update(labels)
        origin = getattr(model.config, "label_origin", None) or {}
        unlearned = [f"{label!r} ({origin[label]})" for label in labels if origin.get(label, "learned") != "learned"]
        if unlearned:
            logger.warning(
                f"No prompts were learned for {_some(unlearned)}: 'shared' labels use prompts learned on others, "
                "'template' ones a written prompt, and their scores are less sure than those of learned labels."
            )
        rare = model.rare_words(labels) if hasattr(model, "rare_words") else {}
        rare_labels = [f"{label!r} ({', '.join(words)})" for label, words in rare.items() if words]
        if rare_labels:
            logger.warning(
                f"The CLIP behind this model saw words of {_some(rare_labels)} fewer than 20 times in its training: "
                "expect poor scores for these labels, or name them in more common words."
            )


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - NAMES_IN_WARNING
    return ", ".join(names[:NAMES_IN_WARNING]) + (f" and {more} more" if more > 0 else "")


def _split_labels(candidate_labels: str | Iterable[str]) -> tuple[str, ...]:
    """Labels without surrounding blanks, each once.

    Raises:
        ValueError: there are none, or one is empty or no string.
    """
    if isinstance(candidate_labels, str):
        labels = [label for label in candidate_labels.split(",") if label.strip()]
    else:
        labels = list(candidate_labels)
    wrong = [label for label in labels if not isinstance(label, str) or not label.strip()]
    if wrong or not labels:
        reason = f"holds {wrong[0]!r}" if wrong else "names no label"
        raise ValueError(f"`candidate_labels` {reason}: give words, as ['cat', 'stop sign'] or 'cat, stop sign'.")
    return tuple(dict.fromkeys(label.strip() for label in labels))


def _scores(logits: torch.Tensor, config: Any) -> np.ndarray:
    """`sigmoid(score_scale * logit + score_bias)` of the logits `(classes,)`, in float64."""
    scale = torch.as_tensor(getattr(config, "score_scale", 1.0), dtype=torch.float64)  # () or (classes,)
    bias = torch.as_tensor(getattr(config, "score_bias", 0.0), dtype=torch.float64)  # () or (classes,)
    return torch.sigmoid(scale * logits.double() + bias).numpy()  # (classes,)


# ------------------------------------------------------------------ reading images


@dataclass(frozen=True)
class _Entry:
    """One image of the input, and its place there; `error` is what its dataset raised instead of an image."""

    source: Any
    index: int | None = None
    error: Exception | None = None

    @property
    def name(self) -> str:
        """What an error message calls it: its path or URL, else its place and kind."""
        source = self.source
        if isinstance(source, dict) and source.get("path"):
            source = source["path"]
        elif isinstance(source, Image.Image):
            source = getattr(source, "filename", None) or source
        if isinstance(source, (str, Path)) and len(str(source)) <= 500 and not str(source).startswith("data:"):
            return repr(str(source))
        kind = "base64 text" if isinstance(source, str) else type(source).__name__
        if isinstance(source, (np.ndarray, torch.Tensor)):
            kind = f"array of shape {tuple(source.shape)}"
        if isinstance(source, (bytes, bytearray, memoryview)):
            kind = f"{len(source)} bytes"
        elif isinstance(source, Image.Image):
            kind = f"PIL image, {source.width} x {source.height} pixels, mode {source.mode}"
        elif self.error is not None:
            kind = "from the dataset"
        return f"({kind})" if self.index is None else f"at index {self.index} ({kind})"


class _Entries(Dataset):
    """A dataset whose images know their place, also those that the dataset fails to decode."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> _Entry:
        try:
            return _Entry(self.dataset[index], index)
        except Exception as error:
            return _Entry(None, index, error)


def _unreadable(entry: _Entry, reason: str) -> ValueError:
    return ValueError(f"cannot read image {entry.name}: {reason}.")


def _read_image(entry: _Entry, timeout: float | None = None) -> Image.Image:
    """Reads any kind of image.

    Args:
        entry (`_Entry`): the image.
        timeout (`float`, *optional*): seconds to wait for a URL.

    Returns:
        `PIL.Image.Image`: RGB, turned as its EXIF data say.

    Raises:
        ValueError: it cannot be read; one sentence that names it.
    """
    if entry.error is not None:
        raise _unreadable(entry, _one_line(entry.error)) from entry.error
    source = entry.source
    if isinstance(source, dict) and {"bytes", "path"} & set(source):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, torch.Tensor):
        source = source.numpy(force=True)
    if isinstance(source, np.ndarray):
        source = _from_array(entry, source)
    elif isinstance(source, (str, Path)):
        source = _find(entry, str(source), timeout)
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = BytesIO(source)
    if not isinstance(source, (str, BytesIO, Image.Image)):
        raise _unreadable(entry, f"its type is no image; give {IMAGE_KINDS}")
    image = _decode(entry, source)
    if 0 in image.size:
        raise _unreadable(entry, "it has no pixels")
    return image


def _find(entry: _Entry, text: str, timeout: float | None) -> str | bytes:
    """The path of a file, or the bytes behind a URL or in base64 text."""
    if text.startswith(("http://", "https://")):
        try:
            response = httpx.get(text, timeout=timeout, follow_redirects=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreadable(entry, f"the server gave no answer ({_one_line(error)})") from error
        if not response.is_success:
            raise _unreadable(entry, f"the server answered {response.status_code} {response.reason_phrase}".rstrip())
        return response.content
    if os.path.isdir(text):
        raise _unreadable(entry, "it is a folder; list the files in it")
    if os.path.exists(text):
        return text
    is_data = text.startswith("data:image/")
    with contextlib.suppress(Exception):
        content = base64.b64decode("".join((text.partition(",")[2] if is_data else text).split()), validate=True)
        Image.open(BytesIO(content)).close()  # raises where it is no image
        return content
    raise _unreadable(entry, "its base64 text holds no image" if is_data else "there is no such file")


def _decode(entry: _Entry, source: str | BytesIO | Image.Image) -> Image.Image:
    """Decodes an image whole, and turns it and its colours.

    Pillow raises nearly any exception on broken files, so all of them are caught here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = source if isinstance(source, Image.Image) else Image.open(source)
            image.load()
            with contextlib.suppress(Exception):  # a broken EXIF block does not spoil the picture
                image = ImageOps.exif_transpose(image)
            return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise _unreadable(entry, "it is not an image, or of a format that Pillow does not know") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _unreadable(
            entry,
            f"it has more pixels than the limit of {Image.MAX_IMAGE_PIXELS} that guards against decompression bombs; "
            "make it smaller, or raise `PIL.Image.MAX_IMAGE_PIXELS` if you trust it",
        ) from error
    except PermissionError as error:
        raise _unreadable(entry, "its file may not be read by this user") from error
    except Exception as error:
        raise _unreadable(entry, f"it is broken or cut off ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    """The message of an exception without line breaks and full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB: transparent images on white, 16-bit ones scaled to 8 bit (Pillow would clip them)."""
    if image.mode.startswith(("I", "F")):  # "I;16" too
        image = Image.fromarray(_to_8_bit(np.asarray(image)))  # mode L
    transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if transparent or (image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info):
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Grey values as uint8: 16-bit ones are scaled; wider ones too unless they fit into 8 bit as they are."""
    if values.dtype.kind == "f":
        top = 1.0 if values.size and np.nanmax(values) <= 1 else 255.0
        values = np.nan_to_num(values) * (255.0 / top)
    elif values.dtype.itemsize == 2 or (values.size and values.max() > 255):
        values = values / 257.0  # 65535 becomes 255
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _from_array(entry: _Entry, array: np.ndarray) -> Image.Image:
    """An image of a uint8 or uint16 array `(height, width)`, `(height, width, channels)` or channels first."""
    if array.dtype not in (np.uint8, np.uint16):
        raise _unreadable(entry, f"its values are {array.dtype}; give uint8 (0 to 255) or uint16 (0 to 65535)")
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)  # (height, width, channels)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]  # (height, width)
    if array.ndim != 2 and (array.ndim != 3 or array.shape[-1] not in (3, 4)):
        raise _unreadable(entry, "its shape is not (height, width) or (height, width, 3 or 4); list several images")
    return Image.fromarray(np.ascontiguousarray(_to_8_bit(array) if array.dtype == np.uint16 else array))


# ------------------------------------------------------------------ heatmaps


class _Axis(NamedTuple):
    """How one axis of an image went through the image processor, in pixels."""

    original: int  # of the turned image
    resized: int  # after resizing
    offset: int  # of the crop in the resized image; negative where the processor pads
    crop: int  # of what the model saw


def _resized_size(processor: Any, height: int, width: int) -> tuple[int, int] | None:
    """Height and width after the resizing of an image processor, rounded as it does; None if it is not known."""
    if not getattr(processor, "do_resize", False):
        return height, width
    size = dict(processor.size)
    if {"shortest_edge", "longest_edge"} <= set(size):
        new_size = get_size_with_aspect_ratio((height, width), size["shortest_edge"], size["longest_edge"])
    elif "shortest_edge" in size:
        image = np.broadcast_to(np.uint8(0), (3, height, width))  # takes no memory
        new_size = get_resize_output_image_size(
            image, size=size["shortest_edge"], default_to_square=False, input_data_format="channels_first"
        )
    elif {"max_height", "max_width"} <= set(size):
        new_size = get_image_size_for_max_height_width((height, width), size["max_height"], size["max_width"])
    elif {"height", "width"} <= set(size):
        new_size = (size["height"], size["width"])
    else:
        return None
    return int(new_size[0]), int(new_size[1])


def _window(
    processor: Any, original: tuple[int, int], resized: tuple[int, int] | None, processed: tuple[int, int]
) -> tuple[_Axis, _Axis]:
    """Where the pixels that the model saw lie in the image, for the rows and for the columns.

    Args:
        processor (`BaseImageProcessor`): with the settings `do_resize`, `size`, `do_center_crop` and `crop_size`.
        original (`tuple[int, int]`): height and width of the image.
        resized (`tuple[int, int]`, *optional*): height and width after resizing.
        processed (`tuple[int, int]`): height and width that came out.

    Returns:
        `tuple[_Axis, _Axis]`: rows and columns.

    Raises:
        ValueError: the processor does something else than resizing, centre-cropping and padding below and right.
    """
    crops = bool(getattr(processor, "do_center_crop", False))
    crop = dict(processor.crop_size) if crops else {}
    if crops:
        fits = (crop.get("height"), crop.get("width")) == processed
    else:
        fits = resized == processed or bool(getattr(processor, "do_pad", False))
    if resized is None or not fits:
        raise ValueError(
            f"Heatmaps cannot be placed for a `{type(processor).__name__}` that makes {processed[0]} x {processed[1]} "
            f"out of {original[0]} x {original[1]} pixels: use one that only resizes and centre-crops, as CLIP's."
        )
    rows, columns = (
        _Axis(old, new, _crop_offset(processor, new, seen) if crops else 0, seen)
        for old, new, seen in zip(original, resized, processed, strict=True)
    )
    return rows, columns


def _crop_offset(processor: Any, resized: int, crop: int) -> int:
    """First pixel of the centre crop; the torchvision backend pads the odd pixel at the other end than PIL's."""
    if resized < crop and getattr(processor, "backend", "pil") == "torchvision":
        return -((crop - resized) // 2)
    return (resized - crop) // 2


def _axis_weights(axis: _Axis, cells: int) -> tuple[slice, np.ndarray]:
    """Bilinear weights of cells for the pixels of one axis whose centre lies in the crop.

    Args:
        axis (`_Axis`): rows or columns.
        cells (`int`): number of cells that share the crop evenly.

    Returns:
        `tuple[slice, np.ndarray]`: the pixels inside, and their weights `(inside, cells)`.
    """
    # The centre of pixel i lies at (i + 0.5) * resized / original - offset in the crop; whole numbers keep it exact.
    edges = (2 * axis.original * edge for edge in (axis.offset, axis.offset + axis.crop))
    first, last = (-((axis.resized - edge) // (2 * axis.resized)) for edge in edges)  # rounded up
    first, last = max(first, 0), min(last, axis.original)
    centres = (np.arange(first, last) + 0.5) * axis.resized / axis.original - axis.offset  # (inside,)
    places = np.clip(centres * cells / axis.crop - 0.5, 0, cells - 1)  # (inside,), in cells
    low = np.floor(places).astype(int)  # (inside,)
    high = np.minimum(low + 1, cells - 1)  # (inside,)
    weights = np.zeros((len(places), cells))  # (inside, cells)
    np.add.at(weights, (np.arange(len(places)), low), 1 - (places - low))
    np.add.at(weights, (np.arange(len(places)), high), places - low)
    return slice(first, last), weights


def _heatmaps(cells: np.ndarray, window: Sequence[_Axis]) -> Iterator[np.ndarray]:
    """Heatmaps of the cells `(labels, rows, columns)`: float32 `(height, width)` each, NaN outside the crop."""
    rows, columns = (_Axis(*axis) for axis in window)
    inside_rows, row_weights = _axis_weights(rows, cells.shape[1])  # (inside, rows)
    inside_columns, column_weights = _axis_weights(columns, cells.shape[2])  # (inside, columns)
    for label_cells in cells:
        heatmap = np.full((rows.original, columns.original), np.nan, dtype=np.float32)  # (height, width)
        heatmap[inside_rows, inside_columns] = row_weights @ label_cells @ column_weights.T
        yield heatmap


__all__ = ["MultiLabelImageClassificationPipeline"]
