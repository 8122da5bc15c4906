"""Maps cut into small patches, each channel of a patch a channel of its own."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from search.method_card import Card, Need, Reshaping
from search.operators.cells import in_cells
from search.operators.sides import on_each_side
from search.registry import Kind, register

CARD = Card(needs=frozenset({Need.STAGE_MAPS}))


@register(
    Kind.OPERATOR,
    "local2",
    source="DetKDS, Li et al. 2024, released code's local_s2",
    card=replace(CARD, reshaping=Reshaping(side=2)),
)
@on_each_side
def local2(feature_map: Tensor) -> Tensor:
    """Patches of 2x2 places, each as channels of its own: what follows sees every patch by itself.

    (B, C, H, W) to (B, C H/2 W/2, 2, 2); sides that 2 does not divide are filled up with zeros.
    """
    return in_patches(feature_map, 2)


@register(
    Kind.OPERATOR,
    "local4",
    source="DetKDS, Li et al. 2024, released code's local_s4",
    card=replace(CARD, reshaping=Reshaping(side=4)),
)
@on_each_side
def local4(feature_map: Tensor) -> Tensor:
    """Patches of 4x4 places, each as channels of its own: what follows sees every patch by itself.

    (B, C, H, W) to (B, C H/4 W/4, 4, 4); sides that 4 does not divide are filled up with zeros.
    """
    return in_patches(feature_map, 4)


def in_patches(feature_map: Tensor, side: int) -> Tensor:
    """(B, C * patches, side, side): channels outermost, then the patches' rows and columns."""
    return in_cells(feature_map, side).transpose(3, 4).flatten(1, 3)
