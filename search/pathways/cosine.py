"""The angle between channels, place by place."""

from __future__ import annotations

from torch import Tensor

from search.method_card import Card, Need
from search.pathways.directions import apart, directions
from search.registry import Kind, register


@register(
    Kind.DISTANCE,
    "cosine",
    source="DetKDS, Li et al. 2024, released code's distance cos",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), zero_at_equality=True),
)
def cosine_distance(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """One minus the cosine between the two channel vectors of a place, mean over places: 1 by chance.

    It ignores how long the vectors are; between 0 and 2. A place that is silent in one map counts a half, and
    nothing in both.
    """
    return apart(_places(student_map), _places(teacher_map)).mean()


def _places(feature_map: Tensor) -> Tensor:
    """Channel vectors of length 1, (B, H * W, C)."""
    return directions(feature_map.flatten(2).transpose(1, 2))
