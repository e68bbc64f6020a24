"""The caption-prototype term: it holds the learned prompts to the mean features of the captions of each class.

The term is this project's own: on a small base the ranking loss alone forgets the image side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..features.captions import CaptionFeatures


class CaptionPrototypeTerm:
    """Computes the prototypes once, then the term in every step.

    Args:
        captions ([`CaptionFeatures`]): the training captions without templates.
        centering (`Sequence[float]`): how much of the mean caption is taken off the prototypes of the global and of
            the local branch; see [`CaptionFeatures.class_prototypes`].
        device (`torch.device`): where the prototypes are held.
    """

    def __init__(self, captions: CaptionFeatures, centering: Sequence[float], device: torch.device) -> None:
        branches = [captions.class_prototypes(centering=share) for share in centering]
        present = branches[0][1]  # (classes,)
        self.prototypes = torch.stack([part[present] for part, _ in branches]).to(device)  # (2, present classes, dim)
        self.present = present.to(device)  # (classes,)

    def __call__(self, class_embeddings: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The term of global and local class embeddings `(classes, dim)`, a scalar; see [`prototype_term`]."""
        return prototype_term(*class_embeddings, self.prototypes, self.present)


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


__all__ = ["CaptionPrototypeTerm", "prototype_term"]
