"""Huber's distance: squared near zero, absolute beyond."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from search.method_card import Card, MethodConfig, Need, searched
from search.registry import Kind, register


class SmoothConfig(MethodConfig):
    """Settings of Huber's distance."""

    threshold: float = searched(
        1.0, low=0.1, high=4.0, ge=1e-3, description="Differences below it are squared, t, as d^2 / 2t."
    )


USUAL = SmoothConfig()


@register(
    Kind.DISTANCE,
    "smooth_l1",
    source="Huber 1964; DetKDS, Li et al. 2024, released code's distance",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), zero_at_equality=True, config=SmoothConfig),
)
def smooth_absolute_error(
    student_map: Tensor, teacher_map: Tensor, *, config: SmoothConfig = USUAL
) -> Tensor:
    """Mean of d^2/2t where |d| < t and |d| - t/2 elsewhere, over what it is between independent maps.

    That is 0.720 for the usual threshold t = 1. Unlike its neighbours it has a length of its own, t: maps
    much smaller than that see squared differences.
    """
    threshold, difference = config.threshold, student_map - teacher_map
    # The square is of the difference: that of its absolute value would lose its curvature at 0.
    size = difference.abs()
    near, far = difference.square() / (2 * threshold), size - threshold / 2
    return torch.where(size < threshold, near, far).mean() / _by_chance(threshold)


@cache
def _by_chance(threshold: float) -> float:
    """Its mean between independent normal maps of unit variance, whose difference is d of N(0, 2).

    E[d^2 / 2t; |d| < t] + E[|d| - t/2; |d| > t] by the truncated moments of a normal.
    """
    deviation = math.sqrt(2)
    density = math.exp(-(threshold**2) / 4) / math.sqrt(2 * math.pi)
    inside = math.erf(threshold / 2)
    squared = deviation**2 * (inside - 2 * threshold / deviation * density) / (2 * threshold)
    absolute = 2 * deviation * density - threshold * (1 - inside) / 2
    return squared + absolute
