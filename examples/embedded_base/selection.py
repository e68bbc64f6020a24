"""Scores a base on the selection photographs: templates, class vectors from captions, retrieval, where objects are."""

from __future__ import annotations

import copy

import numpy as np
import torch
from transformers import CLIPTokenizer

from modeling_taidpt import CLIPResNetModel, TaiDptModel, mean_average_precision

from .image_features import Photographs, expand_maps
from .training import CaptionEncoder, encode_pooled

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
GRIDS = 1000  # grids of four photographs in the pointing game


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
        for part in filter(lambda each: each.complete, photographs):
            shown = part.labels.sum(dim=0) > 0  # (labels,)
            output = score_cells(tagger, first_cells(model, part))
            scores[f"{part.folder.name}/{way}"] = {
                name: mean_average_precision(logits[:, shown], part.labels[:, shown])["map"]
                for name, logits in output.items()
            }
    return scores


def score_cells(tagger: TaiDptModel, cells: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits `(images, labels)` by branch of cells `(images, cells, channels)` that the trunk gave."""
    pool, side = tagger.clip.vision_model.attention_pool, round(cells.shape[1] ** 0.5)
    maps = cells.float().transpose(1, 2).unflatten(-1, (side, side))  # (images, channels, side, side)
    pooled = torch.nn.functional.normalize(pool(maps), dim=-1)  # (images, dim)
    dense = torch.nn.functional.normalize(pool.dense(maps), dim=-1)  # (images, side, side, dim)
    output = tagger(image_embeds=pooled, dense_embeds=dense)
    return {"global": output.logits_global, "local": output.logits_local, "merged": output.logits}


@torch.no_grad()
def first_cells(model: CLIPResNetModel, photographs: Photographs) -> torch.Tensor:
    """The trunk's cells `(photographs, cells, channels)` of the first view of each photograph."""
    trunk = model.vision_model.trunk
    return torch.cat([expand_maps(trunk, part) for part in photographs.maps[:, 0].split(64)])


@torch.no_grad()
def score_retrieval(
    model: CLIPResNetModel, tokenizer: CLIPTokenizer, photographs: Photographs
) -> dict[str, dict[str, float]]:
    """Recall of photographs by their first caption, and of captions by photographs, among all of the folder.

    Args:
        model ([`CLIPResNetModel`]): the base.
        tokenizer (`CLIPTokenizer`): its tokenizer.
        photographs ([`Photographs`]): encoded; those without captions are left out.

    Returns:
        `dict`: `{"images": {"R@1": ..., "R@5": ..., "R@10": ...}, "captions": {...}}`, in percent.
    """
    rows = [row for row, captions in enumerate(photographs.captions) if captions]
    token_ids = tokenizer([photographs.captions[row][0] for row in rows], truncation=True)["input_ids"]
    encode = CaptionEncoder(model, token_ids, max_tokens=tokenizer.model_max_length)
    texts = torch.cat([encode(part) for part in _blocks(len(rows))])  # (captions, dim)
    images = encode_pooled(model, photographs.pooled[rows, 0].float())  # (photographs, dim)
    cosines = texts @ images.T  # (captions, photographs)
    found = {}
    for name, table in (("images", cosines), ("captions", cosines.T)):
        ranks = (table > table.diag()[:, None]).sum(dim=1)  # (queries,)
        found[name] = {f"R@{most}": 100 * (ranks < most).float().mean().item() for most in (1, 5, 10)}
    return found


def _blocks(length: int, size: int = 256) -> list[list[int]]:
    return [list(range(start, min(start + size, length))) for start in range(0, length, size)]


@torch.no_grad()
def score_pointing(
    model: CLIPResNetModel, class_vectors: torch.Tensor, photographs: list[Photographs], seed: int = 0
) -> float:
    """The pointing game on cells: of four photographs with one label each, does a label's best cell lie in its own?

    Args:
        model ([`CLIPResNetModel`]): the base.
        class_vectors (`torch.Tensor` of shape `(labels, dim)`): normalised.
        photographs (`list[Photographs]`): encoded; those of one label are played with.
        seed (`int`, *optional*, defaults to 0): draws the grids.

    Returns:
        `float`: percent of the labels of all grids; chance is 25.
    """
    best, classes = [], []
    for part in photographs:
        rows = (part.labels.sum(dim=1) == 1).nonzero().flatten()  # (single,)
        for block in rows.split(64):
            maps = expand_maps(model.vision_model.trunk, part.maps[block, 0])  # (block, cells, channels)
            best.append((encode_pooled(model, maps) @ class_vectors.T).amax(dim=1))  # (block, labels)
            classes.append(part.labels[block].argmax(dim=1))  # (block,)
    scores, labels = torch.cat(best).numpy(), torch.cat(classes).numpy()  # (single, labels), (single,)
    of_class = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    generator, hits = np.random.default_rng(seed), 0
    for _ in range(GRIDS):
        four = [generator.choice(of_class[label]) for label in generator.choice(sorted(of_class), 4, replace=False)]
        hits += sum(int(scores[four, labels[photo]].argmax() == place) for place, photo in enumerate(four))
    return 100 * hits / (4 * GRIDS)


@torch.no_grad()
def encode_template(model: CLIPResNetModel, tokenizer: CLIPTokenizer, labels: list[str]) -> torch.Tensor:
    """Vectors `(labels, dim)` of the labels in the first template, normalised."""
    texts = tokenizer([TEMPLATES[0].format(label) for label in labels])["input_ids"]
    return CaptionEncoder(model, texts)(list(range(len(labels))))


def score_all(
    model: CLIPResNetModel,
    tokenizer: CLIPTokenizer,
    labels: list[str],
    selection: list[Photographs],
    prototypes: torch.Tensor | None,
) -> dict[str, dict[str, float]]:
    """All that is measured on the selection photographs."""
    scores = score_selection(model, tokenizer, labels, selection, prototypes)
    vectors = {"template": encode_template(model, tokenizer, labels)}  # (labels, dim) each
    if prototypes is not None:
        vectors["captions"] = prototypes
    scores["pointing"] = {way: score_pointing(model, each, selection) for way, each in vectors.items()}
    for part in selection:
        if sum(map(bool, part.captions)) > 100:  # of fewer, nothing is learned
            for kind, recalls in score_retrieval(model, tokenizer, part).items():
                scores[f"{part.folder.name}/{kind}"] = recalls
    return scores
