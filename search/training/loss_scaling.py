"""Loss scaling for float16: small gradients would round to zero, and large ones overflow."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from search.training.precision import Precision


class LossScaling:
    """torch's gradient scaler; with another precision than float16 it does nothing."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call `backward` on."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> bool:
        """Give the gradients their own size; False: they overflowed, and the step is to be left out."""
        if not self._scaler.is_enabled():
            return True
        self._scaler.unscale_(optimizer)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return bool(torch.stack(torch._foreach_norm(gradients, ord=math.inf)).isfinite().all())

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimiser's step, for gradients that are finite.

        The scaler could leave a step out by itself, but then a fused SGD whose first step is left out begins
        the second with momentum from uninitialised memory (torch 2.15).
        """
        self._scaler.step(optimizer)

    def adapt(self) -> None:
        """After each step, taken or left out: the scale falls after an overflow, and rises in good times."""
        self._scaler.update()

    def figures(self) -> dict[str, float]:
        """The scale, where there is one."""
        return {"loss_scale": self._scaler.get_scale()} if self._scaler.is_enabled() else {}

    def state_dict(self) -> dict[str, Any]:
        """The scale and how long it has held."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state)
