"""A hypergradient of the temperatures alone: the weights stay where they started.

So that a check of learned temperatures measures them, and not what learned weights are worth.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.temperatures_task import TEMPERATURES_ONLY
from search.hypergradient import HyperGradient, Parameters, Step, build_approximation
from search.registry import Kind, register


@register(Kind.HYPERGRADIENT, TEMPERATURES_ONLY, source="the exact one, without the weights")
class TemperaturesOnly:
    """The exact hypergradient, zero for all weights."""

    def __init__(self) -> None:
        self.exact = build_approximation("exact")

    def slope(self, step: Step, direction: Parameters) -> HyperGradient:
        """See `search.hypergradient`."""
        return _without_weights(self.exact.slope(step, direction))

    def pull_back(self, step: Step, direction: Parameters) -> tuple[HyperGradient, dict[str, Tensor]]:
        """See `search.hypergradient`."""
        found, hessian = self.exact.pull_back(step, direction)
        return _without_weights(found), hessian


def _without_weights(found: HyperGradient) -> HyperGradient:
    return replace(
        found,
        logit_weights=torch.zeros_like(found.logit_weights),
        pathway_weights=torch.zeros_like(found.pathway_weights),
    )
