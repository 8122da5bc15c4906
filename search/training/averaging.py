"""The moving average of a student's weights, which is evaluated and exported in its place."""

from __future__ import annotations

from typing import Any

from timm.utils import ModelEmaV3

from search.models import TappedModel


class WeightAverage:
    """An exponential moving average of weights and buffers, by timm.

    The decay after s updates is at most 1 - s^(-2/3), so that the weights from before training are soon
    forgotten in a short run too.
    """

    def __init__(self, student: TappedModel, *, decay: float) -> None:
        self._average = ModelEmaV3(student, decay=decay, use_warmup=True)
        self._average.module.requires_grad_(False)

    @property
    def model(self) -> TappedModel:
        """The student with averaged weights, in evaluation mode."""
        module: TappedModel = self._average.module
        return module

    def update(self, student: TappedModel, updates: int) -> None:
        """Take in the student's weights after so many optimiser updates."""
        self._average.update(student, step=updates)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from averaged weights."""
        self.model.load_state_dict(state)
