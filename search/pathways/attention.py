"""Attention transfer: where a map is active, whatever its channels."""

from __future__ import annotations

import math

from torch import Tensor

from search.method_card import Card, Need
from search.pathways.directions import SHORTEST, directions
from search.registry import Kind, register


@register(
    Kind.DISTANCE,
    "attention",
    source="Zagoruyko, Komodakis 2017, arXiv 1612.03928",
    card=Card(
        systems=("at",),
        needs=frozenset({Need.STAGE_MAPS}),
        zero_at_equality=True,
        ignores_channels=True,
        compares_places=True,
        differences="Scaled to be 1 between independent maps, so that the paper's weight of 1000 means "
        "nothing here.",
    ),
)
def attention_transfer(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared difference of the spatial activity maps; channels need not agree; 1 by chance.

    A sample's activity map is the mean over channels of the squared activations, divided by its Euclidean
    norm. The squared difference, mean over samples, is divided by what it is between independent maps of
    these sizes. A map of one pixel says nothing: its distance is zero.
    """
    difference = _activity(student_map) - _activity(teacher_map)
    by_chance = _by_chance(difference.shape[1], student_map.shape[1], teacher_map.shape[1])
    return difference.square().sum(dim=1).mean() / by_chance


def _activity(feature_map: Tensor) -> Tensor:
    """Activity maps (B, H * W) of norm 1; those of images that are silent beside the others are shorter."""
    # Their scale is taken out of the activities, not of the maps, which are C times as large: half the time.
    # In float32 it holds for values between 1e-19 and 1e19.
    activity = feature_map.square().sum(dim=1).flatten(1)
    return directions(activity, shortest=SHORTEST**2)


def _by_chance(places: int, *channels: int) -> float:
    """Expected squared difference, 2 - 2 cos, of the activity maps of independent normal maps.

    A place's activity has mean 1 and variance 2 / C; the norm takes one of the places' freedoms away.
    """
    if places == 1:
        return 1.0
    return (1 - 1 / places) * (2 - 2 / math.sqrt(math.prod(1 + 2 / count for count in channels)))
