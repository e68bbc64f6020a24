"""Pipeline that gives an image every label that fits it, with a score and, if wanted, a heatmap.

It imports only its siblings here, so that it travels with a checkpoint as remote code. Of the model it knows:
called with `pixel_values` it returns `logits` `(batch, classes)` and, for heatmaps, the cosines `similarity_map`
`(batch, classes, rows, columns)`; `config.id2label` names the classes. Where the model has them it also uses
`probabilities` (of logits; the sigmoid otherwise), `config.score_thresholds` (what is present), `with_labels` (for
`candidate_labels`), `encode_classes` (once for a run; the argument `class_embeddings` takes what it gives),
`class_digest` (what that depends on, so that a later run need not encode again),
`config.label_origin` and `rare_words` (for warnings), `config.image_size`, `config.patch_size`,
`config.view_settings` and the arguments `interpolate_pos_encoding`, `flip`, `multi_crop`, `second_look` (for other
sizes and views) and `standardize`, and `use_backend` (for `backend`).
"""

from __future__ import annotations

import functools
import inspect
import numbers
import operator
import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Pipeline
from transformers.pipelines.pt_utils import PipelineIterator
from transformers.utils import logging

from .heatmaps import (
    ProcessorView,
    cell_shares,
    crop_window,
    draw_heatmaps,
    enlarged,
    join_sizes,
    processor_for,
    resized_size,
)
from .image_batches import ImageBatches, ImageStream, collate
from .image_inputs import read_inputs
from .image_reading import ImageEntry, is_too_large, read_image, require_resizable
from .processor_checks import check_processor
from .results import best_labels, check_threshold, check_top_k, default_selection

logger = logging.get_logger(__name__)

NAMES_IN_WARNING = 10  # labels named in one warning; the others are counted
KEPT_SETS = 4  # of labels whose class embeddings a pipeline keeps for later runs


class MultiLabelImageClassificationPipeline(Pipeline):
    """Tags images with every label that fits.

    Args:
        backend (`str`, *optional*): what runs the image tower on a CPU: `"onnx"` (ONNX Runtime, `taidpt[onnx]`),
            `"openvino"` (`taidpt[openvino]`) or `"torch"`; by default as the model is.
        *args, **kwargs: as of every pipeline.

    Example:
    ```python
    >>> import modeling_taidpt
    >>> from transformers import pipeline

    >>> tagger = pipeline("multi-label-image-classification")
    >>> tagger("examples/images/cat.jpg", threshold=0.5)
    [{'label': 'cat', 'score': 0.8...}, {'label': 'person', 'score': 0.6...}]
    >>> tagger("examples/images/cat.jpg", candidate_labels="cat, zebra")
    [{'label': 'cat', 'score': 0.8...}, {'label': 'zebra', 'score': 0.00...}]

    ```
    """

    # None: loaded where the checkpoint has it, else the pipeline says itself what is missing.
    _load_image_processor = None
    _load_tokenizer = None
    _load_processor: bool | None = False  # type: ignore[assignment]
    _load_feature_extractor: bool | None = False  # type: ignore[assignment]
    _load_video_processor: bool | None = False  # type: ignore[assignment]
    _registered_impl: dict[str, dict[str, Any]]  # set by transformers on registration

    def __init__(self, *args: Any, backend: str | None = None, **kwargs: Any) -> None:
        self._checked_labels: set[str] = set()
        self._warned_about_scores = False
        self._class_embeddings: dict[bytes, Any] = {}  # by the digest of what they depend on
        super().__init__(*args, **kwargs)
        name = str(getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__)
        if self.image_processor is None:
            raise ValueError(
                f"No image processor was found for {name!r}: pass `image_processor=` (one that "
                "`AutoImageProcessor.from_pretrained` returns, or its folder or repository)."
            )
        check_processor(self.image_processor, name)
        self.model.eval()
        if backend is not None:
            use_backend: Any = getattr(self.model, "use_backend", None)
            if use_backend is None:
                raise ValueError(f"`{type(self.model).__name__}` runs by PyTorch alone: leave `backend` out.")
            use_backend(backend)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Tags one image or many.

        Args:
            inputs (`str`, `Path`, `bytes`, `PIL.Image.Image`, `np.ndarray`, or many of them):
                An image is a path, an http(s) URL, base64 text (plain or a `data:image/` address), encoded bytes, a
                PIL image, a uint8 or uint16 array `(height, width)` or `(height, width, channels)`, or the
                `{"path", "bytes"}` entry of an undecoded image column. Many images come as a list or tuple, an array
                of frames `(frames, height, width, channels)`, a generator or another iterable, a column of a data set
                (`dataset["image"]`), or a map-style data set of images, as a `KeyDataset`. Images are turned as their
                EXIF data say; transparent ones are laid on white, 16-bit ones are scaled to 8 bit.
            **kwargs: options of this call, each also accepted by `pipeline(...)` as a default:

                - top_k (`int`, *optional*): keeps this many labels of the highest scores.
                - threshold (`float` or `"auto"`, *optional*): keeps labels with a score of at least this, before
                  `top_k` counts; `"auto"` takes the checkpoint's own, one for all labels or one per label. With
                  neither of the two `"auto"` counts where the checkpoint has thresholds, else the five best labels
                  are kept, and of `candidate_labels` all; `threshold=0` keeps all.
                - candidate_labels (`str`, `list[str]` or `dict[str, list[str]]`, *optional*): scores these labels (a
                  string is split at commas) instead of the model's own; a mapping gives each its descriptions.
                - return_heatmaps (`bool` or `"cells"`, *optional*, defaults to `False`): adds `"heatmap"` to each
                  label that is kept: a float32 array `(height, width)` of the turned image, the share in [0, 1] of
                  the place that the label takes from its own background in the image, NaN where the image processor
                  crops the image away; with `"cells"` the `(rows, columns)` of the model's cells, which share what the
                  image processor keeps of the image. It says where, the score says how much. The model sees the image
                  once more for it, at twice the size, unless `image_size` says at which.
                - image_size (`int`, *optional*): shorter side in pixels that the model sees, rounded to whole cells;
                  the image processor's by default.
                - center_crop (`bool`, *optional*): `False` shows the model the whole image at its aspect ratio, sides
                  rounded to whole cells; what the image processor does by default.
                - flip (`bool`, *optional*): averages with the mirror image; `config.flip` of the model by default.
                - multi_crop (`bool` or `"max"`, *optional*): `True` sees an image larger than the model's own size in
                  overlapping windows and averages their features; `"max"` joins half of the score of the whole image
                  with half of the largest score over 3 x 3 tiles, for ten times the work; `config.multi_crop` of the
                  model by default.
                - second_look (`bool`, *optional*, defaults to `False`): averages the score of each label that a cell
                  clearly shows with that of the part where it seems to be, cut out and seen again; for one more pass
                  per part, about six in a photograph.
                - standardize (`bool`, *optional*): `False` scores without the checkpoint's score standardisation.
                - timeout (`float`, *optional*): seconds for a URL, from the request to the last byte; 30 by default.
                - batch_size (`int`, *optional*, defaults to 1): images in a forward pass; those of one are read by
                  as many threads as PyTorch computes with (`torch.set_num_threads`), at most 8.
                - num_workers (`int`, *optional*, defaults to 0): processes that read images meanwhile, with one thread
                  each; they pay where the model runs on a GPU.

        Returns:
            `list[dict]`: `{"label", "score"[, "heatmap"]}` by falling score, labels of equal score in the order of the
            model; a list of such lists for a list, and an iterator over them for a dataset or a generator. The score
            is `sigmoid(score_scale * logit + score_bias)`, in [0, 1].

        Raises:
            ValueError: an image cannot be read (it is named), or an option is out of range.
        """
        inputs = read_inputs(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Pushes model, card, tokenizer, image processor and code to the Hub.

        Args:
            repo_id (`str`): repository, made if it does not exist.
            **kwargs: as of the model's `push_to_hub`.

        Returns:
            `CommitInfo`: of the commit.
        """
        push: Any = getattr(self.model, "push_to_hub", None)
        if push is None or "processors" not in inspect.signature(push).parameters:
            return super().push_to_hub(repo_id, **kwargs)
        return push(repo_id, processors=(self.tokenizer, self.image_processor), **kwargs)

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        threshold: float | str | None = None,
        candidate_labels: str | Iterable[str] | Mapping[str, Iterable[str]] | None = None,
        return_heatmaps: bool | str | None = None,
        timeout: float | None = None,
        image_size: int | None = None,
        center_crop: bool | None = None,
        flip: bool | None = None,
        multi_crop: bool | str | None = None,
        second_look: bool | None = None,
        standardize: bool | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess: dict[str, Any] = {}
        forward: dict[str, Any] = {}
        postprocess: dict[str, Any] = {}
        if timeout is not None:
            preprocess["timeout"] = timeout
        if image_size is not None:
            if isinstance(image_size, bool) or not isinstance(image_size, numbers.Integral) or image_size < 1:
                raise ValueError(f"`image_size` is {image_size!r}: give a whole number of pixels, or None.")
            preprocess["image_size"] = int(image_size)
        if center_crop is not None:
            preprocess["center_crop"] = bool(center_crop)
        if multi_crop is not None:
            if isinstance(multi_crop, str) and multi_crop != "max":
                raise ValueError(f"`multi_crop` is {multi_crop!r}: give True, False or 'max'.")
            forward["multi_crop"] = multi_crop if multi_crop == "max" else bool(multi_crop)
            preprocess["multi_crop"] = forward["multi_crop"]
        if second_look is not None:
            if not isinstance(second_look, (bool, np.bool_)):
                raise ValueError(f"`second_look` is {second_look!r}: give True or False.")
            forward["second_look"] = preprocess["second_look"] = bool(second_look)
        views = {"flip": flip, "standardize": standardize}
        forward.update({name: bool(value) for name, value in views.items() if value is not None})
        if top_k is not None:
            postprocess["top_k"] = check_top_k(top_k)
        if threshold is not None:
            has_thresholds = getattr(self.model.config, "score_thresholds", None) is not None
            postprocess["threshold"] = check_threshold(threshold, has_thresholds)
            if threshold != "auto" and threshold > 0:
                self._warn_about_scores()
        if candidate_labels is not None:
            forward["candidate_labels"] = _split_labels(candidate_labels)
            self._require_labels()
        if return_heatmaps is not None:
            if isinstance(return_heatmaps, str) and return_heatmaps != "cells":
                raise ValueError(f"`return_heatmaps` is {return_heatmaps!r}: give True, False or 'cells'.")
            preprocess["return_heatmaps"] = forward["return_heatmaps"] = bool(return_heatmaps)
            postprocess["return_heatmaps"] = return_heatmaps
        return preprocess, forward, postprocess

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> PipelineIterator:
        """As in every pipeline, but the images of a batch are read by several threads; see `image_batches.py`."""
        forward_params, postprocess_params = self.begin_run(forward_params, postprocess_params)
        read, processor = functools.partial(self.preprocess, **preprocess_params), self.image_processor
        images: Dataset
        if isinstance(inputs, Sized):
            images = ImageBatches(inputs, read, processor)
        else:
            images = ImageStream(inputs, read, processor, batch_size)
            if num_workers > 1:
                logger.warning("A stream of images is read by one worker process: `num_workers` is taken as 1.")
                num_workers = 1
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warn of it where processes are forked
        collate_fn = operator.itemgetter(0) if batch_size == 1 else collate
        loader = DataLoader(images, batch_size=batch_size, num_workers=num_workers, collate_fn=collate_fn)
        outputs = PipelineIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)

    def run_single(
        self,
        inputs: Any,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Any:
        """As in every pipeline."""
        return super().run_single(inputs, preprocess_params, *self.begin_run(forward_params, postprocess_params))

    def begin_run(
        self, forward_params: dict[str, Any], postprocess_params: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Finds the model of a run and encodes its classes, once for all images; the new arguments of both steps."""
        forward = dict(forward_params)
        labels = forward.pop("candidate_labels", None)
        model: Any = self.model
        config = model.config
        with self.device_placement(), self.get_inference_context()():
            if labels is not None:
                labels = labels if isinstance(labels, Mapping) else list(labels)
                model = model.with_labels(labels, tokenizer=self.tokenizer).eval()
            if hasattr(model, "encode_classes"):
                forward["class_embeddings"] = self._encode_classes(model)
        chosen = (
            {} if postprocess_params.keys() & {"top_k", "threshold"} else default_selection(config, labels is None)
        )
        return forward | {"model": model}, {**postprocess_params, **chosen, "model": model}

    def _encode_classes(self, model: Any) -> Any:
        """Class embeddings of a model: those of an earlier run if all that they depend on is as it was then."""
        state = model.class_digest() if hasattr(model, "class_digest") else None
        embeddings = self._class_embeddings.get(state) if state is not None else None
        if embeddings is None:
            embeddings = model.encode_classes()
            if state is not None and model.class_digest() == state:  # no other thread has changed it meanwhile
                kept = list(self._class_embeddings.items())[1 - KEPT_SETS :]
                self._class_embeddings = dict([*kept, (state, embeddings)])
        return embeddings

    def preprocess(
        self,
        inputs: Any,
        timeout: float | None = None,
        return_heatmaps: bool = False,
        image_size: int | None = None,
        center_crop: bool | None = None,
        multi_crop: bool | str | None = None,
        second_look: bool = False,
    ) -> dict[str, Any]:
        """Reads one image and makes it ready for the model; the window says where the pixels came from."""
        entry = inputs if isinstance(inputs, ImageEntry) else ImageEntry(inputs)
        image = read_image(entry, timeout)
        original, cell = (image.height, image.width), getattr(self.model.config, "patch_size", 1)
        processor = processor_for(self.image_processor, original, image_size, center_crop, cell)
        view_settings, whole = getattr(self.model.config, "view_settings", None), {}
        if image_size is None and center_crop is None and view_settings is not None:
            whole = view_settings(multi_crop)  # tiles want the whole image at twice the model's size
            processor = ProcessorView(self.image_processor, whole) if whole else processor
        is_detailed = bool(whole)
        windows = getattr(self.model.config, "multi_crop", False) if multi_crop is None else multi_crop
        if second_look and image_size is None and not windows:
            processor, is_detailed = enlarged(processor), True  # boxes are cut from twice the model's size
        resized = resized_size(processor, *original)
        require_resizable(entry, image, resized)
        pixels = processor(image)  # (1, 3, height, width)
        # A list of images, not a batch: processors that do not crop give them different sizes.
        features: dict[str, Any] = {"images": [torch.as_tensor(pixels[0])]}
        if return_heatmaps:
            larger = enlarged(processor)
            if is_detailed:
                features["detailed"] = features["images"]
            elif image_size is None and larger is not processor and hasattr(self.model.config, "image_size"):
                larger_size = resized_size(larger, *original)
                if not is_too_large(larger_size):
                    processor, resized, pixels = larger, larger_size, larger(image)  # (1, 3, 2 height, 2 width)
                features["detailed"] = [torch.as_tensor(pixels[0])]
            processed = (pixels.shape[-2], pixels.shape[-1])
            features["window"] = crop_window(processor, original, resized, processed)
        return features

    def _forward(
        self, model_inputs: dict[str, Any], model: Any = None, return_heatmaps: bool = False, **options: Any
    ) -> dict[str, Any]:
        model = self.model if model is None else model
        self._warn_about_labels(model)
        logits, cosines = self._run(model, model_inputs["images"], options, return_heatmaps)
        results: dict[str, Any] = {"logits": torch.stack(logits)}  # (images, classes)
        if return_heatmaps:
            if "detailed" in model_inputs:
                # the whole image shows where; tiles and boxes say how much
                options = {name: value for name, value in options.items() if name != "second_look"}
                if options.get("multi_crop", getattr(model.config, "multi_crop", None)) == "max":
                    options["multi_crop"] = False
                finer = self._run(model, model_inputs["detailed"], options, True)[1]
                cosines = [join_sizes(*pair) for pair in zip(cosines, finer, strict=True)]
            results["shares"] = [cell_shares(values) for values in cosines]  # (classes, rows, columns) each
            results["window"] = model_inputs["window"]
        return results

    def _run(
        self, model: Any, entries: Sequence[Any], options: dict[str, Any], cosines: bool
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Logits `(classes,)` of each image and, where they are wanted, the cosines of its cells."""
        # one image [(3, height, width)], or a batch of such lists
        images = [image for entry in entries for image in (entry if isinstance(entry, list) else [entry])]
        logits: dict[int, torch.Tensor] = {}
        maps: dict[int, torch.Tensor] = {}
        for shape in dict.fromkeys(image.shape for image in images):
            places = [place for place, image in enumerate(images) if image.shape == shape]
            own_size = getattr(model.config, "image_size", None)
            other_size = own_size is not None and tuple(shape[1:]) != (own_size, own_size)
            sized = {"interpolate_pos_encoding": True} if other_size else {}
            if getattr(model.config, "return_dict", True) is False:
                sized["return_dict"] = True
            pixels = torch.stack([images[place] for place in places])  # (images of this shape, 3, height, width)
            outputs = model(pixel_values=pixels.to(self.dtype), **options, **sized)
            logits.update(zip(places, outputs.logits, strict=True))  # (classes,) each
            if cosines:
                similarity = getattr(outputs, "similarity_map", None)  # (images of this shape, classes, rows, columns)
                if similarity is None:
                    raise ValueError(f"`{type(model).__name__}` gives no `similarity_map`: leave return_heatmaps out.")
                maps.update(zip(places, similarity, strict=True))  # (classes, rows, columns) each
        return [logits[place] for place in range(len(images))], [maps[place] for place in sorted(maps)]

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        model: Any = None,
        top_k: int | None = None,
        threshold: float | str | None = None,
        return_heatmaps: bool | str = False,
    ) -> list[dict[str, Any]]:
        """Turns the outputs for one image into its list of labels."""
        model = self.model if model is None else model
        config: Any = model.config
        probabilities = getattr(model, "probabilities", torch.sigmoid)
        scores = probabilities(model_outputs["logits"][0].double()).numpy()  # (classes,)
        order = best_labels(scores, threshold, getattr(config, "score_thresholds", None), top_k)
        names = config.id2label  # once: looking an attribute of a configuration up takes 10 microseconds
        results = [{"label": names[index], "score": float(scores[index])} for index in order]
        if return_heatmaps:
            cells = model_outputs["shares"][0].numpy()[order]  # (kept labels, rows, columns)
            maps = cells if return_heatmaps == "cells" else draw_heatmaps(cells, model_outputs["window"])
            for result, heatmap in zip(results, maps, strict=True):
                result["heatmap"] = heatmap
        return results

    def _require_labels(self) -> None:
        """Raises a `ValueError` where the model cannot take other labels."""
        if not hasattr(self.model, "with_labels"):
            raise ValueError(
                f"`{type(self.model).__name__}` cannot take other labels (`with_labels`): leave candidate_labels out."
            )

    def _warn_about_scores(self) -> None:
        """Warns, once, that a threshold means little where no probabilities were fitted."""
        if self._warned_about_scores or getattr(self.model.config, "score_calibration", "unknown") is not None:
            return
        self._warned_about_scores = True
        logger.warning(
            "The scores of this checkpoint only rank labels, a threshold means nothing for them: fit probabilities "
            "on a few images, with or without labels (`taidpt calibrate`, `modeling_taidpt.calibrate`)."
        )

    def _warn_about_labels(self, model: Any) -> None:
        """Warns, once for every label that was asked for, that no prompt was learned for it or its words are rare."""
        asked_for = () if model is self.model else model.config.id2label.values()
        labels = [label for label in asked_for if label not in self._checked_labels]
        if not labels:
            return
        self._checked_labels.update(labels)
        origin = getattr(model.config, "label_origin", None) or {}
        unlearned = [repr(label) for label in labels if origin.get(label, "learned") != "learned"]
        rare = model.rare_words(labels) if hasattr(model, "rare_words") else {}
        words = [repr(word) for word in dict.fromkeys(word for found in rare.values() for word in found)]
        reasons = [f"no prompts were learned for {_some(unlearned)}"] if unlearned else []
        reasons += (
            [f"the CLIP hardly saw the word{'s' if words[1:] else ''} {_some(words)} in its training"] if words else []
        )
        if reasons:
            logger.warning(f"These scores are less sure: {', and '.join(reasons)}.")


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - NAMES_IN_WARNING
    return ", ".join(names[:NAMES_IN_WARNING]) + (f" and {more} more" if more > 0 else "")


def _split_labels(candidate_labels: Any) -> tuple[str, ...] | dict[str, Any]:
    """Labels without surrounding blanks, each once; with their descriptions where they have some.

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
    if isinstance(candidate_labels, Mapping):
        return {label.strip(): texts for label, texts in candidate_labels.items()}
    return tuple(dict.fromkeys(label.strip() for label in labels))


__all__ = ["MultiLabelImageClassificationPipeline"]
