"""How each value of a map goes along with the teacher's over the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from search.method_card import Card, Need
from search.pathways.directions import apart, centred_directions
from search.registry import Kind, register

EXPONENT = 2.02


@register(
    Kind.DISTANCE,
    "correlation",
    source="DetKDS, Li et al. 2024, released code's distance cor",
    card=Card(
        needs=frozenset({Need.STAGE_MAPS}),
        zero_at_equality=True,
        least_batch=8,
        differences="log2(1 + mean) instead of log2(sum), which has no bound where maps agree. Scaled to be "
        "1 between independent maps.",
    ),
)
def correlation_distance(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """log2(1 + m), m the mean of |1 - r|^2.02 over what it is by chance: 0 at equality, 1 by chance.

    r is the correlation over the batch of the student's and the teacher's value at one place and channel; the
    mean is over places and channels. A value that is constant over the batch in one map counts as r = 1/2,
    and as 1 in both. A batch of one says nothing: its distance is zero.
    """
    missing = apart(_values(student_map), _values(teacher_map))
    share = missing.pow(EXPONENT).mean() / _by_chance(len(student_map))
    return torch.log1p(share) / math.log(2)


def _values(feature_map: Tensor) -> Tensor:
    """Each value over the batch, of mean 0 and length 1, (C * H * W, B)."""
    return centred_directions(feature_map.flatten(1).T)


def _by_chance(batch: int) -> float:
    """Expected (1 - r)^2.02 between independent normal values.

    r is the cosine between directions of B - 1 dimensions: (1 + r) / 2 is of Beta((B - 2) / 2, (B - 2) / 2).
    """
    if batch == 1:
        return 1.0
    if batch == 2:
        return 2**EXPONENT / 2
    half = (batch - 2) / 2
    gammas = (half + EXPONENT, 2 * half), (2 * half + EXPONENT, half)
    above, below = (sum(map(math.lgamma, pair)) for pair in gammas)
    return 2**EXPONENT * math.exp(above - below)
