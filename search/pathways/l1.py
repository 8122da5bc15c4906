"""The mean absolute difference of two maps."""

from __future__ import annotations

import math

from torch import Tensor

from search.method_card import Card, Need
from search.registry import Kind, register

BY_CHANCE = 2 / math.sqrt(math.pi)
"""The mean absolute difference of independent normal maps of unit variance: of N(0, 2)."""


@register(
    Kind.DISTANCE,
    "l1",
    source="DetKDS, Li et al. 2024, released code's distance l1",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), zero_at_equality=True),
)
def mean_absolute_error(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean absolute difference over all elements, over 1.128: what it is between independent maps."""
    return (student_map - teacher_map).abs().mean() / BY_CHANCE
