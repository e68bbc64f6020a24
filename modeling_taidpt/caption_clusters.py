"""Spherical k-means: what caption banks and several prototypes per class are made with."""

from __future__ import annotations

import torch


def spherical_clusters(
    features: torch.Tensor, starts: torch.Tensor, steps: int, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters directions by Lloyd's algorithm with the cosine.

    Source: Dhillon and Modha, "Concept Decompositions for Large Sparse Text Data Using Clustering", 2001.

    Args:
        features (`torch.Tensor` of shape `(captions, dim)`): L2-normalised features.
        starts (`torch.Tensor` of shape `(clusters,)`): rows of `features` that the clusters start from.
        steps (`int`): steps of the algorithm.
        weights (`torch.Tensor` of shape `(captions,)`, *optional*): weights of the captions in a cluster's sum; all 1
            by default.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: weighted sum of the members of each cluster `(clusters, dim)`, in the
        precision of `features`, and their number `(clusters,)`. Clusters without members are left out.
    """
    weighted = features if weights is None else features * weights[:, None].to(features.dtype)  # (captions, dim)
    sums, counts = features[starts], torch.ones(len(starts), dtype=torch.long)  # (clusters, dim), (clusters,)
    for _ in range(steps):
        nearest = (features @ torch.nn.functional.normalize(sums, dim=-1).T).argmax(dim=1)  # (captions,)
        counts = torch.bincount(nearest, minlength=len(sums))  # (clusters,)
        sums = torch.zeros_like(sums).index_add_(0, nearest, weighted)[counts > 0]  # (clusters, dim)
        counts = counts[counts > 0]  # (clusters,)
    return sums, counts


__all__ = ["spherical_clusters"]
