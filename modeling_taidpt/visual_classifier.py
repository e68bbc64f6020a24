"""A classifier of patches that a model has learned from unlabelled photographs, joined to its local prompts.

Source: PIAA ("[CLS] is Not Enough", ICML 2026, arXiv 2605.25821; its published `learn.py`). The local prompts are the
first classifier: a patch of the photographs belongs to the class of its largest cosine, and of each class the patches
whose posterior has the lowest entropy are kept. Class means and one shrunk covariance of these patches make a linear
discriminant; the patches that it is surest of make it once more.

The published score adds softmaxes of both with constants for each data set. Here the classifier is put into the units
of the prompts instead: over all patches of the photographs each class gets the mean and standard deviation of its
cosines. What is left is one share, and the rest of the model (pooling over cells, standardization, tiles, heatmaps)
goes on with the joined similarity as with cosines.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

SHARE = 0.2  # of the visual classifier in the similarity of a patch with a class, chosen on the selection photographs


class VisualClassifier(nn.Module):
    """Similarity of a patch f with class c: `(1 - s_c) <f, H_c> + s_c (<f, W_c> + b_c)`.

    Args:
        classes (`int`): number of classes.
        dim (`int`): width of the joint space.

    Attributes:
        weight (`torch.Tensor` of shape `(classes, dim)`): W, in units of cosine.
        bias (`torch.Tensor` of shape `(classes,)`): b, in units of cosine.
        share (`torch.Tensor` of shape `(classes,)`): s; 0 for a class that the classifier was not fitted for.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    share: torch.Tensor

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, dim, dtype=torch.float32))
        self.register_buffer("bias", torch.zeros(classes, dtype=torch.float32))
        self.register_buffer("share", torch.zeros(classes, dtype=torch.float32))

    def forward(self, local_embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Joins the classifier with the local class embeddings.

        Args:
            local_embeddings (`torch.Tensor` of shape `(classes, dim)`): L2-normalised, H.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: `(classes, dim)` and `(classes,)`: the similarity of a patch is its
            product with the first plus the second.
        """
        share, weight = self.share.to(local_embeddings), self.weight.to(local_embeddings)  # (classes,), (classes, dim)
        joined = (1 - share)[:, None] * local_embeddings + share[:, None] * weight  # (classes, dim)
        return joined, share * self.bias.to(local_embeddings)

    @torch.no_grad()
    def copy_classes(self, other: VisualClassifier, indices: Sequence[int | None]) -> None:
        """Takes over classes of another classifier; a class without an index keeps its prompts alone.

        Args:
            other ([`VisualClassifier`]): where from.
            indices (`Sequence[int | None]`): for each class of this one its index there.
        """
        for index, old in enumerate(indices):
            for own, given in zip(self.buffers(), other.buffers(), strict=True):
                own[index] = 0.0 if old is None else given[old]


def attach_classifier(model: PreTrainedModel, classifier: VisualClassifier | None, photographs: int = 0) -> None:
    """Keeps a classifier of patches with a model and joins it to the local prompts, or drops it with `None`.

    Args:
        model ([`TaiDptModel`]): its configuration says from then on that it has one; it is saved with the model.
        classifier ([`VisualClassifier`], *optional*): of the model's classes; see [`fit_visual_classifier`].
        photographs (`int`, *optional*): that it was fitted on.
    """
    statistics = dict(model.config.score_statistics or {}) | {"visual_photographs": photographs}
    if classifier is None:
        del statistics["visual_photographs"]
    model.config.score_statistics = statistics or None
    model.visual_classifier = classifier if classifier is None else classifier.to(model.device)


__all__ = ["SHARE", "VisualClassifier", "attach_classifier"]
