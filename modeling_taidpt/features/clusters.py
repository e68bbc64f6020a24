"""Spherical k-means: what caption banks are made with."""

from __future__ import annotations

import torch


def spherical_clusters(features: torch.Tensor, starts: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters directions by Lloyd's algorithm with the cosine.

    Source: Dhillon and Modha, "Concept Decompositions for Large Sparse Text Data Using Clustering", 2001.

    Args:
        features (`torch.Tensor` of shape `(captions, dim)`): L2-normalised features.
        starts (`torch.Tensor` of shape `(clusters,)`): rows of `features` that the clusters start from.
        steps (`int`): steps of the algorithm.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: sum of the members of each cluster `(clusters, dim)`, in the
        precision of `features`, and their number `(clusters,)`. Clusters without members are left out.
    """
    sums, counts = features[starts], torch.ones(len(starts), dtype=torch.long)  # (clusters, dim), (clusters,)
    for _ in range(steps):
        nearest = (features @ torch.nn.functional.normalize(sums, dim=-1).T).argmax(dim=1)  # (captions,)
        counts = torch.bincount(nearest, minlength=len(sums))  # (clusters,)
        sums = torch.zeros_like(sums).index_add_(0, nearest, features)[counts > 0]  # (clusters, dim)
        counts = counts[counts > 0]  # (clusters,)
    return sums, counts


def cluster_captions(
    features: torch.Tensor, size: int, seed: int = 0, steps: int = 15
) -> tuple[torch.Tensor, torch.Tensor]:
    """A small bank that represents many captions; see [`spherical_clusters`].

    Args:
        features (`torch.Tensor` of shape `(captions, dim)`): L2-normalised global caption features.
        size (`int`): clusters; as many captions or fewer are kept as they are.
        seed (`int`, *optional*, defaults to 0): draws the captions that the clusters start from.
        steps (`int`, *optional*, defaults to 15): steps of Lloyd's algorithm.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: mean feature of each cluster `(clusters, dim)`, not normalised, and the
        logarithm of its share of the captions `(clusters,)`. Clusters that no caption chose are left out.
    """
    features = features.float()  # (captions, dim)
    if len(features) <= size:
        return features, torch.full((len(features),), 1 / len(features)).log()
    drawn = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:size]
    sums, counts = spherical_clusters(features, drawn, steps)  # (clusters, dim), (clusters,)
    return sums / counts[:, None], (counts / counts.sum()).log()


__all__ = ["cluster_captions", "spherical_clusters"]
