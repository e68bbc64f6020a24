"""The paper's learning rate: one constant warm-up epoch, then a cosine that moves once per epoch."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

EPOCH_COSINE = "epoch_cosine"


def epoch_learning_rate(
    epoch: int, num_epochs: int, learning_rate: float, warmup_learning_rate: float = 1e-5, warmup_epochs: int = 1
) -> float:
    """Learning rate of one epoch, constant within it.

    Epochs count from 0. `warmup_learning_rate` in the warm-up epochs, then
    `0.5 learning_rate (1 + cos(pi (epoch - warmup_epochs) / num_epochs))`. The cosine's period is the number of all
    epochs, so it ends a little above 0.

    Args:
        epoch (`int`): the epoch.
        num_epochs (`int`): number of epochs, warm-up included.
        learning_rate (`float`): rate of the first epoch after the warm-up.
        warmup_learning_rate (`float`, *optional*, defaults to 1e-5): rate of the warm-up epochs.
        warmup_epochs (`int`, *optional*, defaults to 1): number of warm-up epochs.

    Returns:
        `float`: the learning rate.
    """
    if epoch < warmup_epochs:
        return warmup_learning_rate
    return 0.5 * learning_rate * (1 + math.cos(math.pi * (epoch - warmup_epochs) / max(1, num_epochs)))


class _EpochFactor:
    """Factor on the optimizer's rate at a step; a class, so that it can be pickled."""

    def __init__(self, steps_per_epoch: int, num_epochs: int, rates: tuple[float, float, int]) -> None:
        self.steps_per_epoch, self.num_epochs, self.rates = steps_per_epoch, num_epochs, rates

    def __call__(self, step: int) -> float:
        learning_rate = self.rates[0]
        if learning_rate == 0:
            return 0.0
        epoch = step // self.steps_per_epoch
        return epoch_learning_rate(epoch, self.num_epochs, *self.rates) / learning_rate


def epoch_cosine_schedule(
    optimizer: Optimizer,
    steps_per_epoch: int,
    num_epochs: int,
    learning_rate: float,
    warmup_learning_rate: float = 1e-5,
    warmup_epochs: int = 1,
) -> LambdaLR:
    """Scheduler of [`epoch_learning_rate`], stepped after every optimizer step.

    Args:
        optimizer (`Optimizer`): parameter groups with another rate than `learning_rate` keep their ratio to it.
        steps_per_epoch (`int`): optimizer steps in an epoch.
        num_epochs (`int`): number of epochs, warm-up included.
        learning_rate (`float`): rate of the first epoch after the warm-up.
        warmup_learning_rate (`float`, *optional*, defaults to 1e-5): rate of the warm-up epochs.
        warmup_epochs (`int`, *optional*, defaults to 1): number of warm-up epochs.

    Returns:
        `LambdaLR`: the scheduler.
    """
    rates = (learning_rate, warmup_learning_rate, warmup_epochs)
    return LambdaLR(optimizer, _EpochFactor(max(1, steps_per_epoch), num_epochs, rates))


__all__ = ["EPOCH_COSINE", "epoch_cosine_schedule", "epoch_learning_rate"]
