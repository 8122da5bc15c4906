"""Huber's distance: squared near zero, absolute beyond."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from search.method_card import Card, Need
from search.registry import Kind, register


def _by_chance() -> float:
    """Its mean between independent normal maps of unit variance, whose difference is d of N(0, 2).

    E[d^2 / 2; |d| < 1] + E[|d| - 1/2; |d| > 1] by the truncated moments of a normal.
    """
    deviation = math.sqrt(2)
    density = math.exp(-1 / 4) / math.sqrt(2 * math.pi)
    inside = math.erf(1 / 2)
    squared = deviation**2 * (inside - 2 / deviation * density) / 2
    absolute = 2 * deviation * density - (1 - inside) / 2
    return squared + absolute


BY_CHANCE = _by_chance()


@register(
    Kind.DISTANCE,
    "smooth_l1",
    source="Huber 1964; DetKDS, Li et al. 2024, released code's distance",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), zero_at_equality=True),
)
def smooth_absolute_error(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean of d^2/2 where |d| < 1 and |d| - 1/2 elsewhere, over 0.720: what it is between independent maps.

    Unlike its neighbours it has a length of its own, 1: maps much smaller than that see squared differences.
    """
    difference = student_map - teacher_map
    # The square is of the difference: that of its absolute value would lose its curvature at 0.
    size = difference.abs()
    return torch.where(size < 1, difference.square() / 2, size - 0.5).mean() / BY_CHANCE
