"""An exponential average of parameters over their updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Average:
    """Means of named tensors, weighing the newest by 1 - decay; corrected for having begun at nothing.

    Of the parameters of softplus weights this is a mean on a scale that is nearly logarithmic for small ones.
    Before the first update, and with decay 0, it is the newest values themselves.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._updates = 0
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in the values after one more update."""
        if not self.decay:
            return
        self._updates += 1
        for name, value in values.items():
            sum_before = self._sums.get(name, torch.zeros_like(value))
            self._sums[name] = self.decay * sum_before + (1.0 - self.decay) * value

    def of(self, newest: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The means; the newest values where none was taken in, or where nothing is averaged."""
        if not self._updates:
            return {name: value.detach() for name, value in newest.items()}
        correction = 1.0 - self.decay**self._updates
        return {name: self._sums[name] / correction for name in newest}

    def state(self) -> dict[str, Any]:
        """All that is needed to continue."""
        return {"updates": self._updates, "sums": dict(self._sums)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self._updates, self._sums = state["updates"], dict(state["sums"])
