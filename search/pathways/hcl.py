"""ReviewKD's hierarchical context loss: squared differences at several resolutions."""

from __future__ import annotations

from statistics import fmean

from torch import Tensor

from search.method_card import Card, Need
from search.pathways.derivatives import mean_square
from search.pathways.mse import BY_CHANCE
from search.pathways.resizing import resize
from search.registry import Kind, register

LEVELS = (4, 2, 1)


@register(
    Kind.DISTANCE,
    "hcl",
    source="ReviewKD, Chen et al. 2021, arXiv 2104.09044",
    card=Card(
        needs=frozenset({Need.STAGE_MAPS}),
        zero_at_equality=True,
        differences="Scaled to be 1 between independent maps.",
    ),
)
def hierarchical_context(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of the full maps and of their averages on 4x4, 2x2 and 1x1 grids; 1 by chance.

    Grids smaller than the map only; weights 1, 1/2, 1/4, 1/8 in the order used. The weighted sum is divided
    by what it is between independent maps of this size.
    """
    # Averaging is linear: the maps' difference is averaged, once for both.
    finest = student_map - teacher_map
    height, width = finest.shape[-2:]
    total, by_chance, weight = mean_square(finest), 1.0, 1.0
    for level in LEVELS:
        if level >= min(height, width):
            continue
        weight /= 2
        grid = resize(finest, (level, level))
        total = total + weight * mean_square(grid)
        by_chance += weight * _variance(height, level) * _variance(width, level)
        if height % level == 0 and width % level == 0:
            # Coarser grids average equal cells of this one, which is much smaller than the map.
            finest = grid
    return total / (BY_CHANCE * by_chance)


def _variance(side: int, cells: int) -> float:
    """Mean variance, along one side, of averages over cells of independent values of variance 1."""
    return fmean(1 / (-(-(cell + 1) * side // cells) - cell * side // cells) for cell in range(cells))
