"""Caption prototypes of the classes: the mean features of the captions that mention them.

Class means as class vectors are those of the nearest-class-mean classifier (Mensink et al., TPAMI 2013).
"""

from __future__ import annotations

import numpy as np
import torch

from .cache import KeptFeatures

BLOCK = 8192  # captions read at a time


def class_prototypes(
    features: KeptFeatures,
    max_captions: int | None = None,
    seed: int = 0,
    centering: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean global feature of the captions that mention each class.

    Args:
        features ([`CaptionFeatures`]): captions with labels.
        max_captions (`int`, *optional*): most captions per class, drawn with the seed.
        seed (`int`, *optional*, defaults to 0): seed of the draw.
        centering (`float`, *optional*, defaults to 0.0): how much of the normalised mean of all these captions is
            taken off each prototype; what all captions share says nothing about a class.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: prototypes `(classes, dim)`, L2-normalised fp32, zero for a class that no
        caption mentions; and whether some caption does `(classes,)`.
    """
    chosen = features.labels.astype(bool)  # (captions, classes)
    if max_captions is not None:
        generator = np.random.default_rng(seed)
        for column in np.flatnonzero(chosen.sum(axis=0) > max_captions):
            members = np.flatnonzero(chosen[:, column])
            chosen[:, column] = False
            chosen[generator.choice(members, max_captions, replace=False), column] = True
    used = np.flatnonzero(chosen.any(axis=1))  # (used captions,)
    sums = torch.zeros(chosen.shape[1], features.shards.dim, dtype=torch.float64)  # (classes, dim)
    total = torch.zeros(features.shards.dim, dtype=torch.float64)  # (dim,)
    for start in range(0, len(used), BLOCK):
        block = used[start : start + BLOCK]
        pooled = [features.shards[int(row)][0] for row in features.rows[block]]  # (dim,) each
        embeds = torch.stack(pooled).double()  # (block, dim)
        sums += torch.from_numpy(chosen[block].astype(np.float64)).T @ embeds  # (classes, dim)
        total += embeds.sum(dim=0)  # (dim,)
    present = torch.from_numpy(chosen.any(axis=0))  # (classes,)
    prototypes = torch.nn.functional.normalize(sums, dim=-1)  # (classes, dim)
    shared = centering * torch.nn.functional.normalize(total, dim=-1) * present[:, None]  # (classes, dim)
    return torch.nn.functional.normalize(prototypes - shared, dim=-1).float(), present


__all__ = ["class_prototypes"]
