"""Optimisers and learning-rate schedules of a run, from its training settings."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from search.spec import Training


def make_optimizer(training: Training, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """SGD or AdamW. Biases and norms are decayed like weights: the arms of a job only have to be alike."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=training.nesterov and training.momentum > 0,
        )
    return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)


def make_schedule(training: Training, optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler:
    """Stepped once per update over `total_steps` updates."""
    if training.schedule == "onecycle":
        # Momentum is not cycled: the hypergradient's adjoint reads one momentum per run.
        return OneCycleLR(
            optimizer, max_lr=training.learning_rate, total_steps=total_steps + 1, cycle_momentum=False
        )
    if training.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=total_steps)
    return ConstantLR(optimizer, factor=1.0, total_iters=1)
