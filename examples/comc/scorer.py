"""CoMC's classifier and its scores, as published.

Source: Liu et al., "Language-Driven Cross-Modal Classifier for Zero-Shot Multi-Label Image Recognition" (ICML 2024);
published code `yic20/CoMC` (MIT), `trainers/comc.py` and `configs/trainers/comc/rn50_coco2014.yaml`. Its bank has one
feature a class. The sentences that it was trained on are a language model's; here they are captions.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from modeling_taidpt import CaptionFeatures, TaiDptModel
from modeling_taidpt.losses import RankingLoss
from modeling_taidpt.modeling_outputs import TaiDptOutput

BANK_SHARE, BANK_SCALE = 0.3, 100.0
NOISE, BATCH_SIZE, EPOCHS = 0.1, 512, 20
LEARNING_RATE, WARMUP_LEARNING_RATE = 1e-3, 1e-5


class CoMCScorer(nn.Module):
    """Scores image features with a linear classifier of caption features; `score_features` takes it as a model.

    Args:
        weight (`torch.Tensor` of shape `(classes, dim)`): the classifier, which has no bias.
        bank (`torch.Tensor` of shape `(texts, dim)`): L2-normalised features of texts that images are moved toward.
        local_weight (`float`, *optional*, defaults to 0.5): share of the local score in the merged one.
        bank_share (`float`, *optional*, defaults to 0.3): how far images are moved; 0 leaves them.
    """

    def __init__(
        self, weight: torch.Tensor, bank: torch.Tensor, local_weight: float = 0.5, bank_share: float = BANK_SHARE
    ) -> None:
        super().__init__()
        self.local_weight, self.bank_share = local_weight, bank_share
        self.register_buffer("weight", weight)
        self.register_buffer("bank", bank)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.weight.device

    def cached_class_embeddings(self) -> AbstractContextManager[None]:
        """Nothing to cache: the classifier is one matrix."""
        return nullcontext()

    def forward(
        self,
        image_embeds: torch.Tensor,
        dense_embeds: torch.Tensor,
        standardize: bool | None = None,
        return_dict: bool | None = None,
    ) -> TaiDptOutput:
        """Scores images.

        Args:
            image_embeds (`torch.Tensor` of shape `(batch, dim)`): L2-normalised pooled features.
            dense_embeds (`torch.Tensor` of shape `(batch, height, width, dim)`): L2-normalised features of cells.
            standardize (`bool`, *optional*): changes nothing, scores are plain.
            return_dict (`bool`, *optional*): changes nothing.

        Returns:
            [`TaiDptOutput`]: `logits`, `logits_global` and `logits_local`, `(batch, classes)` each.
        """
        logits_global = self.toward_bank(image_embeds) @ self.weight.T  # (batch, classes)
        cells = self.toward_bank(dense_embeds.flatten(1, 2)) @ self.weight.T  # (batch, cells, classes)
        logits_local = cells.amax(dim=1)  # (batch, classes)
        logits = (1 - self.local_weight) * logits_global + self.local_weight * logits_local  # (batch, classes)
        return TaiDptOutput(logits=logits, logits_global=logits_global, logits_local=logits_local)

    def toward_bank(self, features: torch.Tensor) -> torch.Tensor:
        """Features `(..., dim)` moved toward the texts of the bank that are near; the sum is not normalised again."""
        near = (BANK_SCALE * features @ self.bank.T).softmax(dim=-1)  # (..., texts)
        mapped = nn.functional.normalize(near @ self.bank, dim=-1)  # (..., dim)
        return (1 - self.bank_share) * features + self.bank_share * mapped


def fit_comc(
    model: TaiDptModel,
    captions: CaptionFeatures,
    bank: torch.Tensor | None = None,
    num_train_epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    generator: torch.Generator | None = None,
) -> CoMCScorer:
    """Trains CoMC's classifier on cached caption features: noise, ranking loss, Adam.

    Args:
        model ([`TaiDptModel`]): its base encoded the captions, and encodes the bank.
        captions ([`CaptionFeatures`]): captions with labels.
        bank (`torch.Tensor` of shape `(texts, dim)`, *optional*): L2-normalised text features that images are moved
            toward; one template of each class by default.
        num_train_epochs (`int`, *optional*, defaults to 20): the first at a low constant rate, then a cosine schedule.
        batch_size (`int`, *optional*, defaults to 512): captions of a step; an incomplete batch at the end of an epoch
            is left out.
        generator (`torch.Generator`, *optional*): draws the start, the order and the noise, on the CPU; seed 0 by
            default.

    Returns:
        [`CoMCScorer`]: in eval mode, on the model's device.
    """
    generator = generator or torch.Generator().manual_seed(0)
    embeds = torch.stack([captions.shards[int(row)][0] for row in captions.rows]).float()  # (captions, dim)
    labels = torch.from_numpy(captions.labels).float()  # (captions, classes)
    weight = torch.empty(labels.shape[1], embeds.shape[1])  # (classes, dim)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)  # as nn.Linear starts
    weight = nn.Parameter(weight)
    optimizer, loss = torch.optim.Adam([weight], lr=LEARNING_RATE), RankingLoss()
    batch_size = min(batch_size, len(embeds))
    for epoch in range(num_train_epochs):
        optimizer.param_groups[0]["lr"] = learning_rate(epoch, num_train_epochs)
        order = torch.randperm(len(embeds), generator=generator)  # (captions,)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]  # (batch,)
            noise = NOISE * torch.randn(len(rows), embeds.shape[1], generator=generator)  # (batch, dim)
            optimizer.zero_grad()
            loss((embeds[rows] + noise) @ weight.T, labels[rows]).backward()
            optimizer.step()
    if bank is None:
        bank = model.encode_templates()  # (classes, dim)
    scorer = CoMCScorer(weight.detach(), bank.detach().cpu().clone(), model.config.local_weight)
    return scorer.to(model.device).eval()


def learning_rate(epoch: int, num_train_epochs: int = EPOCHS) -> float:
    """Rate of an epoch: constant and low in the first, then a cosine of as many epochs that starts one late."""
    if epoch == 0:
        return WARMUP_LEARNING_RATE
    return LEARNING_RATE * (1 + math.cos(math.pi * (epoch - 1) / num_train_epochs)) / 2


__all__ = ["CoMCScorer", "fit_comc", "learning_rate"]
