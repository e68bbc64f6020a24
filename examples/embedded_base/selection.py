"""Scores a base on the selection photographs: zero-shot templates, and class vectors from captions."""

from __future__ import annotations

import copy

import numpy as np
import torch
from transformers import CLIPTokenizer

from modeling_taidpt import CLIPResNetModel, TaiDptModel, mean_average_precision

from .image_features import Photographs
from .training import CaptionEncoder

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
    "there is a {} in the picture.",
    "a close-up photo of a {}.",
    "a photo of many {}.",
    "a good photo of a {}.",
)
CAPTIONS_PER_CLASS = 350


@torch.no_grad()
def caption_prototypes(encode: CaptionEncoder, mentions: list[list[int]], labels: int, seed: int) -> torch.Tensor:
    """Mean feature `(labels, dim)` of at most 350 captions that name each label, normalised; zero without captions."""
    naming: list[list[int]] = [[] for _ in range(labels)]
    for caption, named in enumerate(mentions):
        for number in named:
            if number < labels:
                naming[number].append(caption)
    generator, rows = np.random.default_rng(seed), []
    for captions in naming:
        drawn = generator.permutation(np.asarray(captions, dtype=int))[:CAPTIONS_PER_CLASS].tolist()
        features = encode(drawn) if drawn else torch.zeros(1, encode.model.config.projection_dim)  # (captions, dim)
        rows.append(torch.nn.functional.normalize(features.mean(dim=0), dim=-1))  # (dim,)
    return torch.stack(rows)  # (labels, dim)


@torch.no_grad()
def score_selection(
    model: CLIPResNetModel,
    tokenizer: CLIPTokenizer,
    labels: list[str],
    photographs: list[Photographs],
    prototypes: torch.Tensor | None = None,
) -> dict[str, dict[str, float]]:
    """Mean average precision on each folder's selection part, over the labels that it shows.

    Args:
        model ([`CLIPResNetModel`]): the base.
        tokenizer (`CLIPTokenizer`): its tokenizer.
        labels (`list[str]`): class names, the columns of the photographs' labels.
        photographs (`list[Photographs]`): encoded selection parts.
        prototypes (`torch.Tensor` of shape `(labels, dim)`, *optional*): scored as class vectors too.

    Returns:
        `dict[str, dict[str, float]]`: `{"voc2012/template": {"global": ..., "local": ..., "merged": ...}, ...}`.
    """
    scores = {}
    model = copy.deepcopy(model).eval()  # the tagger freezes what it is given
    tagger = TaiDptModel.zero_shot(model, labels=labels, templates=TEMPLATES[:1], tokenizer=tokenizer)
    ways = {"template": tagger.encode_templates(TEMPLATES[:1]), "ensemble": tagger.encode_templates(TEMPLATES)}
    if prototypes is not None:
        ways["captions"] = prototypes
    for way, vectors in ways.items():
        tagger.class_embeddings_global.copy_(vectors)
        tagger.class_embeddings_local.copy_(vectors)
        for part in photographs:
            shown = part.labels.sum(dim=0) > 0  # (labels,)
            output = score_cells(tagger, part.cells[:, 0])
            scores[f"{part.folder.name}/{way}"] = {
                name: mean_average_precision(logits[:, shown], part.labels[:, shown])["map"]
                for name, logits in output.items()
            }
    return scores


def score_cells(tagger: TaiDptModel, cells: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits `(images, labels)` by branch of cells `(images, 49, channels)` that the trunk gave."""
    pool, side = tagger.clip.vision_model.attention_pool, round(cells.shape[1] ** 0.5)
    maps = cells.float().transpose(1, 2).unflatten(-1, (side, side))  # (images, channels, side, side)
    pooled = torch.nn.functional.normalize(pool(maps), dim=-1)  # (images, dim)
    dense = torch.nn.functional.normalize(pool.dense(maps), dim=-1)  # (images, side, side, dim)
    output = tagger(image_embeds=pooled, dense_embeds=dense)
    return {"global": output.logits_global, "local": output.logits_local, "merged": output.logits}
