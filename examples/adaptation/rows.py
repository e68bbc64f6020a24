"""The rows of the study of adaptation: what is added to a model, what it scores, and what it costs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import pipeline

from modeling_taidpt import TaiDptModel
from modeling_taidpt.backbones import contrastive_scale
from modeling_taidpt.evaluation import fit_score_calibration, fit_thresholds
from modeling_taidpt.evaluation.predict import score_features
from modeling_taidpt.evaluation.score_fitting import overall_f1
from modeling_taidpt.pipelines import TASK
from modeling_taidpt.scores import probabilities
from modeling_taidpt.second_look import average_looks, find_boxes
from modeling_taidpt.visual_classifier import VisualClassifier, attach_classifier

from .photographs import Labelled

TILES = 10  # passes: the whole and nine tiles


@dataclass(frozen=True)
class Row:
    """What is added to a model.

    Attributes:
        name (`str`): what the table calls it.
        photographs (`int`): that the visual classifier is fitted on; 0 for none.
        tiles (`bool`): the whole image and 3 x 3 tiles.
        second_look (`bool`): parts that are seen again.
    """

    name: str
    photographs: int = 0
    tiles: bool = False
    second_look: bool = False

    @property
    def views(self) -> dict[str, Any]:
        """Options of the pipeline."""
        return {"multi_crop": "max" if self.tiles else None, "second_look": self.second_look or None}


@dataclass
class Scores:
    """Logits `(images, classes)` of a row on some photographs, and passes for an image."""

    logits: torch.Tensor
    passes: float = field(default=1.0)


def table_rows(counts: list[int]) -> list[Row]:
    """The rows of the table, for these numbers of unlabelled photographs."""
    most = max(counts)
    return [
        Row("plain"),
        *(Row(f"visual classifier, {count:,} photographs", count) for count in counts),
        Row("second look", second_look=True),
        Row("tiles", tiles=True),
        Row("tiles, visual classifier", most, tiles=True),
        Row("tiles, second look", tiles=True, second_look=True),
        Row("tiles, second look, visual classifier", most, True, True),
    ]


@torch.no_grad()
def score_row(model: TaiDptModel, classifiers: dict[int, VisualClassifier], row: Row, data: Labelled) -> Scores:
    """Scores photographs as the pipeline does, from features that are encoded once."""
    attach_classifier(model, classifiers.get(row.photographs), row.photographs)
    first = score_features(model, data.features(row.tiles))
    if not row.second_look:
        return Scores(first.logits, TILES if row.tiles else 1)
    maps = _similarity_maps(model, data, row.tiles)  # (images, classes, rows, columns)
    boxes = find_boxes(maps, contrastive_scale(model.clip))  # (boxes, 6)
    places, place = boxes[:, [0, 2, 3, 4, 5]].unique(dim=0, return_inverse=True)  # (places, 5), (boxes,)
    pooled, dense = data.boxes(places, tuple(maps.shape[-2:]), row.tiles)
    second = model(image_embeds=pooled, dense_embeds=dense).logits  # (places, classes)
    whole = _whole_scores(model, data) if row.tiles else None  # (images, classes)
    logits = average_looks(first.logits, boxes, second[place], whole)  # (images, classes)
    return Scores(logits, (TILES if row.tiles else 1) + len(places) / len(logits))


def _similarity_maps(model: TaiDptModel, data: Labelled, tiles: bool) -> torch.Tensor:
    """Similarity maps `(images, classes, rows, columns)` of the center crops, or of the whole images."""
    features, maps = data.features(tiles), []
    with model.cached_class_embeddings():
        for index in range(len(features)):
            item = features[index]
            views = (item[name].float() for name in ("image_embeds", "dense_embeds"))  # the first of the tiles: whole
            pooled, dense = (view[:1] if tiles else view[None] for view in views)  # (1, dim), (1, rows, columns, dim)
            maps.append(model(image_embeds=pooled, dense_embeds=dense).similarity_map)
    return torch.cat(maps)


def _whole_scores(model: TaiDptModel, data: Labelled) -> torch.Tensor:
    """Scores `(images, classes)` of the whole images, the first of their ten views."""
    features, scores = data.features(True), []
    with model.cached_class_embeddings():
        for index in range(len(features)):
            item = features[index]
            pooled, dense = (item[name][:1].float() for name in ("image_embeds", "dense_embeds"))
            scores.append(model(image_embeds=pooled, dense_embeds=dense).logits)  # (1, classes)
    return torch.cat(scores)


def f1_at_thresholds(fitted: Scores, fit: Labelled, judged: Scores, judge: Labelled) -> float:
    """F1 over (image, class) pairs of the judged photographs, at thresholds fitted on others, in percent."""
    scale, bias = fit_score_calibration(fitted.logits, fit.present, known=fit.known)
    scores = [probabilities(part.logits.double(), scale, bias) for part in (fitted, judged)]  # (images, classes) each
    thresholds = fit_thresholds(scores[0], fit.present, known=fit.known)
    return overall_f1(scores[1], judge.present, thresholds, judge.known)


def seconds_per_image(model: TaiDptModel, processor: Any, row: Row, files: list[str]) -> float:
    """Processor time of the pipeline for a photograph, reading included, without the first."""
    tagger = pipeline(TASK, model=model.bake(), image_processor=processor)  # classes are encoded once for a run
    tagger(files[0], **row.views)
    started = time.process_time()
    tagger(files[1:], **row.views)
    return (time.process_time() - started) / (len(files) - 1)


__all__ = ["Row", "Scores", "f1_at_thresholds", "score_row", "seconds_per_image", "table_rows"]
