"""The largest value of every cell of places, at one scale or at several."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from search.method_card import Card, Evidence, Need, Reshaping
from search.operators.cells import in_cells
from search.operators.sides import on_each_side
from search.registry import Kind, register

CARD = Card(
    needs=frozenset({Need.STAGE_MAPS}),
    differences="Cells at the lower and right edges may be smaller; the released code fills them with zeros.",
)


@register(
    Kind.OPERATOR,
    "max_pool2",
    source="DetKDS, Li et al. 2024, released code's multi_scale_r2",
    card=replace(CARD, reshaping=Reshaping(shrinks=2)),
)
@on_each_side
def max_pool2(feature_map: Tensor) -> Tensor:
    """The largest value of each cell of 2x2 places.

    (B, C, H, W) to half of height and width, rounded up; one place is left as it is.
    """
    return largest_of_cells(feature_map, 2)


@register(
    Kind.OPERATOR,
    "max_pool4",
    source="DetKDS, Li et al. 2024, released code's multi_scale_r4",
    card=replace(CARD, reshaping=Reshaping(shrinks=4)),
)
@on_each_side
def max_pool4(feature_map: Tensor) -> Tensor:
    """The largest value of each cell of 4x4 places.

    (B, C, H, W) to a quarter of height and width, rounded up; one place is left as it is.
    """
    return largest_of_cells(feature_map, 4)


@register(
    Kind.OPERATOR,
    "multi_scale",
    source="Auto-KD, Li et al. 2023: its multi-scale transforms",
    card=Card(
        needs=frozenset({Need.STAGE_MAPS}),
        evidence=Evidence.OUR_READING,
        differences="The three scales are compared at once, each as much as the others.",
    ),
)
@on_each_side
def multi_scale(feature_map: Tensor) -> Tensor:
    """The map, the maxima of its 2x2 cells and those of its 4x4 cells, one after the other as channels.

    (B, C, H, W) to (B, 3C, H, W): each place has the maximum of the cell that it lies in.
    """
    scales = [_spread(largest_of_cells(feature_map, side), side, feature_map) for side in (2, 4)]
    return torch.cat([feature_map, *scales], dim=1)


def largest_of_cells(feature_map: Tensor, side: int) -> Tensor:
    """The maxima (B, C, ceil(H / side), ceil(W / side)); where several values are largest they share."""
    # PyTorch's own max-pooling is not deterministic on its way back on GPUs.
    return in_cells(feature_map, side, fill=-math.inf).amax(dim=(3, 5))


def _spread(pooled: Tensor, side: int, like: Tensor) -> Tensor:
    """Each value at all places of its cell, at the size of the map that was pooled."""
    height, width = like.shape[2:]
    cells = pooled[:, :, :, None, :, None].expand(-1, -1, -1, side, -1, side)
    return cells.flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
