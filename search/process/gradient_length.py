"""What keeps the student's gradient as long as the starting weights' would be, while the weights change.

Under SGD the losses' weights together are a factor of the learning rate. A search that judges losses by where
they point alone (`search.hypergradient.window.across`) does not feel that factor, and lets it drift: with
weights grown tenfold a training at a good learning rate diverges. So all weights, cross-entropy's too, are
multiplied by |g of the starting weights| / |g of the weights|, both gradients of the student at the same
parameters on the same batch. The idea is GradNorm's (Chen et al. 2018, arXiv 1711.02257), which balances
tasks by their gradients' lengths; here only the sum's length is held, and the balance is learned.
"""

from __future__ import annotations

import math
from typing import Any

EVERY_UPDATES = 5
"""Updates of the process from one measurement to the next; each costs a training step's passes."""
NEWEST_SHARE = 0.5
"""Of the newest measurement in the mean of the factor's logarithm."""


class GradientLength:
    """The factor of all weights; 1 until it is measured. Where it is not to be held, it stays 1."""

    def __init__(self, *, is_held: bool) -> None:
        self.is_held = is_held
        self._updates = 0
        self._logarithm = 0.0

    @property
    def factor(self) -> float:
        """What all weights are to be multiplied by."""
        return math.exp(self._logarithm)

    @property
    def is_due(self) -> bool:
        """Whether it is to be measured at the next update of the process."""
        return self.is_held and self._updates % EVERY_UPDATES == 0

    def updated(self) -> None:
        """Count an update of the process."""
        self._updates += 1

    def measured(self, *, start: float, now: float) -> None:
        """Take in two squared lengths: of the starting weights' gradient, and of the gradient of a step taken
        with the factor of now. A length of zero, or one that is not finite, says nothing."""
        if 0.0 < start < math.inf and 0.0 < now < math.inf:
            self._logarithm += NEWEST_SHARE * 0.5 * math.log(start / now)

    def state(self) -> dict[str, Any]:
        """All that is needed to continue."""
        return {"updates": self._updates, "logarithm": self._logarithm}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self._updates, self._logarithm = state["updates"], state["logarithm"]
