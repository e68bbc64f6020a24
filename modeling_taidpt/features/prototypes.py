"""Caption prototypes of the classes, and the loss term that holds learned prompts to them.

The term is this project's own: on a small base the ranking loss alone forgets the image side. Class
means as class vectors are those of the nearest-class-mean classifier (Mensink et al., TPAMI 2013).
"""

from __future__ import annotations

import numpy as np
import torch

from ..scores import normalize
from .cache import KeptFeatures
from .clusters import spherical_clusters

BLOCK = 8192  # captions read at a time
CLUSTER_STEPS = 10


def class_prototypes(
    features: KeptFeatures,
    max_captions: int | None = None,
    seed: int = 0,
    centering: float = 0.0,
    label_power: float = 0.0,
    clusters: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean global feature of the captions that name each class.

    Args:
        features ([`CaptionFeatures`]): captions with labels.
        max_captions (`int`, *optional*): most captions per class, drawn with the seed.
        seed (`int`, *optional*, defaults to 0): seed of the draw and of the clusters.
        centering (`float`, *optional*, defaults to 0.0): how much of the normalised mean of all these captions is
            taken off each prototype; what all captions share says nothing about a class.
        label_power (`float`, *optional*, defaults to 0.0): a caption that names n classes weighs `1 / n^power`.
        clusters (`int`, *optional*, defaults to 1): several prototypes per class: its captions are clustered (k-means
            on the sphere) and the clusters' directions count alike in the mean, however many captions each has.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: prototypes `(classes, dim)`, L2-normalised fp32, zero for a class that no
        caption names; and whether some caption does `(classes,)`.
    """
    chosen = features.labels.astype(bool)  # (captions, classes)
    if max_captions is not None:
        generator = np.random.default_rng(seed)
        for column in np.flatnonzero(chosen.sum(axis=0) > max_captions):
            members = np.flatnonzero(chosen[:, column])
            chosen[:, column] = False
            chosen[generator.choice(members, max_captions, replace=False), column] = True
    weights = 1 / np.maximum(features.labels.sum(axis=1, dtype=np.float64), 1) ** label_power  # (captions,)
    used = np.flatnonzero(chosen.any(axis=1))  # (used captions,)
    sums = torch.zeros(chosen.shape[1], features.shards.dim, dtype=torch.float64)  # (classes, dim)
    total = torch.zeros(features.shards.dim, dtype=torch.float64)  # (dim,)
    for start in range(0, len(used), BLOCK):
        block = used[start : start + BLOCK]
        embeds = _pooled(features, block)  # (block, dim)
        sums += torch.from_numpy(chosen[block] * weights[block, None]).T @ embeds  # (classes, dim)
        total += embeds.sum(dim=0)  # (dim,)
    if clusters > 1:
        for column in np.flatnonzero(chosen.any(axis=0)):
            members = np.flatnonzero(chosen[:, column])
            member_weights = torch.from_numpy(weights[members])  # (captions of the class,)
            sums[column] = cluster_directions(_pooled(features, members), clusters, seed, member_weights).sum(dim=0)
    present = torch.from_numpy(chosen.any(axis=0))  # (classes,)
    prototypes = torch.nn.functional.normalize(sums, dim=-1)  # (classes, dim)
    shared = centering * torch.nn.functional.normalize(total, dim=-1) * present[:, None]  # (classes, dim)
    return torch.nn.functional.normalize(prototypes - shared, dim=-1).float(), present


def cluster_directions(
    embeds: torch.Tensor, clusters: int, seed: int = 0, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Directions of k-means clusters on the sphere.

    Args:
        embeds (`torch.Tensor` of shape `(captions, dim)`): features.
        clusters (`int`): most clusters; empty ones are left out.
        seed (`int`, *optional*, defaults to 0): seed of the captions that the clusters start from.
        weights (`torch.Tensor` of shape `(captions,)`, *optional*): weights of the captions.

    Returns:
        `torch.Tensor` of shape `(at most clusters, dim)`: normalised, in the precision of `embeds`.
    """
    embeds = torch.nn.functional.normalize(embeds, dim=-1)  # (captions, dim)
    starts = torch.from_numpy(np.random.default_rng(seed).permutation(len(embeds))[:clusters])  # (clusters,)
    sums, _ = spherical_clusters(embeds, starts, CLUSTER_STEPS, weights)  # (clusters, dim)
    return torch.nn.functional.normalize(sums, dim=-1)  # (clusters, dim)


def caption_memory(features: KeptFeatures, size: int, seed: int = 0) -> torch.Tensor:
    """Caption features that images are mapped to; see [`map_to_captions`].

    Args:
        features ([`CaptionFeatures`]): captions.
        size (`int`): number of captions, drawn with the seed; all of them where there are fewer.
        seed (`int`, *optional*, defaults to 0): seed of the draw.

    Returns:
        `torch.Tensor` of shape `(at most size, dim)`: normalised, fp32.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(features))[:size])
    return normalize(_pooled(features, drawn))  # (size, dim)


def prototype_term(
    global_embeddings: torch.Tensor, local_embeddings: torch.Tensor, prototypes: torch.Tensor, present: torch.Tensor
) -> torch.Tensor:
    """Mean over classes of `1 - cos(G_c, p_c)` plus that of `1 - cos(H_c, p'_c)`.

    Args:
        global_embeddings (`torch.Tensor` of shape `(classes, dim)`): normalised.
        local_embeddings (`torch.Tensor` of shape `(classes, dim)`): normalised.
        prototypes (`torch.Tensor` of shape `(2, present classes, dim)`): normalised, of both branches.
        present (`torch.Tensor` of shape `(classes,)`): which classes have a prototype.

    Returns:
        `torch.Tensor`: a scalar.
    """
    both = torch.stack([global_embeddings[present], local_embeddings[present]]).float()  # (2, present classes, dim)
    return (1 - (both * prototypes).sum(dim=-1)).mean(dim=1).sum()  # ()


def _pooled(features: KeptFeatures, places: np.ndarray) -> torch.Tensor:
    """Global features `(places, dim)` in fp64."""
    return torch.stack([features.shards[int(row)][0] for row in features.rows[places]]).double()


__all__ = ["caption_memory", "class_prototypes", "cluster_directions", "prototype_term"]
