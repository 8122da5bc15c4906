"""Which images of a batch a model finds alike."""

from __future__ import annotations

import math

from torch import Tensor

from search.method_card import LEAST_BATCH, Card, Need
from search.pathways.directions import directions, scaled
from search.registry import Kind, register


@register(
    Kind.DISTANCE,
    "gram",
    source="Similarity-preserving KD, Tung, Mori 2019, arXiv 1907.09682",
    card=Card(
        systems=("sp",),
        least_batch=LEAST_BATCH,
        needs=frozenset({Need.STAGE_MAPS}),
        zero_at_equality=True,
        ignores_channels=True,
        differences="Scaled to be 1 between independent maps.",
    ),
)
def similarity_preserving(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared difference of the batch's similarity matrices (B, B), rows of length 1; 1 by chance.

    A similarity is the inner product of two whole maps, so neither channels nor sizes need to agree. The mean
    over rows is divided by what it is between independent maps of these sizes. A batch of one says nothing:
    its distance is zero.
    """
    difference = _similarity(student_map) - _similarity(teacher_map)
    by_chance = _by_chance(len(student_map), student_map[0].numel(), teacher_map[0].numel())
    return difference.square().sum(dim=1).mean() / by_chance


def _similarity(feature_map: Tensor) -> Tensor:
    flat = scaled(feature_map).flatten(1)
    return directions(flat @ flat.T)


def _by_chance(batch: int, *sizes: int) -> float:
    """Expected squared difference of two rows, 2 - 2 cos, for independent normal maps of D elements each.

    Beside D on the diagonal a row has B - 1 values of variance D: they turn it, the diagonal does not.
    """
    if batch == 1:
        return 1.0
    return 2 - 2 / math.sqrt(math.prod(1 + (batch - 1) / size for size in sizes))
