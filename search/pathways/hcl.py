"""ReviewKD's hierarchical context loss: squared differences at several resolutions."""

from __future__ import annotations

from statistics import fmean
from typing import Literal

from pydantic import Field
from torch import Tensor

from search.method_card import Card, MethodConfig, Need, searched
from search.pathways.derivatives import mean_square
from search.pathways.mse import BY_CHANCE
from search.pathways.resizing import resize
from search.registry import Kind, register


class ContextConfig(MethodConfig):
    """Settings of the hierarchical context loss."""

    finest_grid: Literal[1, 2, 4, 8] = Field(
        default=4, description="Cells a side of the finest grid; each further one has half as many, to 1."
    )
    grid_weight: float = searched(
        0.5, low=0.1, high=1.0, ge=0.0, le=10.0, description="Of a grid, as a part of that of the one before."
    )


USUAL = ContextConfig()
GRIDS = (8, 4, 2, 1)


@register(
    Kind.DISTANCE,
    "hcl",
    source="ReviewKD, Chen et al. 2021, arXiv 2104.09044",
    card=Card(
        needs=frozenset({Need.STAGE_MAPS}),
        zero_at_equality=True,
        differences="Scaled to be 1 between independent maps.",
        config=ContextConfig,
    ),
)
def hierarchical_context(
    student_map: Tensor, teacher_map: Tensor, *, config: ContextConfig = USUAL
) -> Tensor:
    """Mean squared difference of the full maps and of their averages on 4x4, 2x2 and 1x1 grids; 1 by chance.

    Grids smaller than the map only; weights 1, 1/2, 1/4, 1/8 in the order used. The weighted sum is divided
    by what it is between independent maps of this size. Settings say with which grid it begins, and how
    weights fall.
    """
    # Averaging is linear: the maps' difference is averaged, once for both.
    finest = student_map - teacher_map
    height, width = finest.shape[-2:]
    total, by_chance, weight = mean_square(finest), 1.0, 1.0
    for level in (grid for grid in GRIDS if grid <= config.finest_grid):
        if level >= min(height, width):
            continue
        weight *= config.grid_weight
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
