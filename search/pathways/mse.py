"""The mean squared difference of two maps."""

from __future__ import annotations

from torch import Tensor

from search.method_card import Card, Need
from search.pathways.derivatives import mean_square
from search.registry import Kind, register

BY_CHANCE = 2.0
"""The mean squared difference of independent maps of unit variance."""


@register(
    Kind.DISTANCE,
    "mse",
    source="FitNets, Romero et al. 2015, arXiv 1412.6550",
    card=Card(
        systems=("fitnet",),
        needs=frozenset({Need.STAGE_MAPS}),
        zero_at_equality=True,
        differences="Halved, so that it is 1 between independent maps. The regressor is the transform.",
    ),
)
def mean_squared_error(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference over all elements, over 2: what it is between independent maps."""
    return mean_square(student_map - teacher_map) / BY_CHANCE
