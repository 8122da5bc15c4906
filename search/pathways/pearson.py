"""Pearson's correlation between channels, place by place."""

from __future__ import annotations

from torch import Tensor

from search.method_card import Card, Need
from search.pathways.directions import apart, centred_directions
from search.registry import Kind, register


@register(
    Kind.DISTANCE,
    "pearson",
    source="DetKDS, Li et al. 2024, released code's distance pear",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), zero_at_equality=True),
)
def pearson_distance(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """One minus the correlation between the channels of a place, mean over places: 1 by chance.

    It ignores means and variances over a place's channels; between 0 and 2. A place whose channels are equal
    in one map counts a half, and nothing in both. Maps of one channel say nothing: their distance is zero.
    """
    return apart(_places(student_map), _places(teacher_map)).mean()


def _places(feature_map: Tensor) -> Tensor:
    """Channel vectors of mean 0 and length 1, (B, H * W, C)."""
    return centred_directions(feature_map.flatten(2).transpose(1, 2))
