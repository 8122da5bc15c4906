"""What a temperature rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

Temperatures = tuple[Tensor, Tensor]
"""Of teacher and student, 0-dim float64 on the CPU."""


class TemperatureRuleModule(nn.Module, ABC):
    """Base of all temperature rules."""

    is_learned: ClassVar[bool] = False
    """Whether a search moves the process's temperatures by their hypergradient."""
    follows_training: ClassVar[bool] = False
    """Whether `observe` is to be called after each step."""

    @abstractmethod
    def forward(self, base: Temperatures, progress: float) -> Temperatures:
        """What holds at this progress in [0, 1], where the process says `base`."""

    def observe(
        self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, progress: float
    ) -> None:
        """Take in a step's training batch: logits (B, K) from before the step, without gradient, on the run's
        device; targets (B,), or probabilities (B, K) where images are mixed.
        """

    def keep(self, name: str, value: Tensor) -> None:
        """Write into a buffer, outside of any gradient."""
        with torch.no_grad():
            self.get_buffer(name).copy_(value)
