"""Maps whose places, channels or samples are brought to one size."""

from __future__ import annotations

import torch
from torch import Tensor

from search.method_card import Card, Need
from search.operators.sides import on_each_side
from search.registry import Kind, register

SMALLEST = 0.01
"""As a part of the root mean square of the whole map."""
SILENT = 1e-8
"""Of the largest value of a map: below, its slopes would be without bound, and it is left as it is."""
CARD = Card(
    needs=frozenset({Need.STAGE_MAPS}),
    differences="To a root mean square of 1 instead of a length of 1, so that distances keep their scale. "
    "What is nearly silent beside the rest of the map is not brought to the size of the others.",
)


@register(Kind.OPERATOR, "l2_places", source="DetKDS, Li et al. 2024, released code's norm_HW", card=CARD)
@on_each_side
def l2_places(feature_map: Tensor) -> Tensor:
    """Each channel of each image over its L2 norm over places, times the root of their number.

    (B, C, H, W) as before. Of maps of one place signs are left.
    """
    return at_unit_size(feature_map, (2, 3))


@register(Kind.OPERATOR, "l2_channels", source="DetKDS, Li et al. 2024, released code's norm_C", card=CARD)
@on_each_side
def l2_channels(feature_map: Tensor) -> Tensor:
    """Each place over the L2 norm of its channels, times the root of their number.

    (B, C, H, W) as before. Of maps of one channel signs are left.
    """
    return at_unit_size(feature_map, (1,))


@register(Kind.OPERATOR, "l2_samples", source="DetKDS, Li et al. 2024, released code's norm_N", card=CARD)
@on_each_side
def l2_samples(feature_map: Tensor) -> Tensor:
    """Each value over the L2 norm of those at its place and channel in the batch, times the root of B.

    (B, C, H, W) as before. In a batch of one signs are left.
    """
    return at_unit_size(feature_map, (0,))


def at_unit_size(feature_map: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Values over their root mean square over these dimensions, where that is not below SMALLEST; a silent
    map is left as it is.
    """
    # Over the largest value first, so that squares neither vanish nor overflow; scale itself does not matter.
    peak = feature_map.detach().abs().amax()
    is_loud, one = peak > SILENT, torch.ones_like(peak)
    values = feature_map / torch.where(is_loud, peak, one)
    squared = values.square().mean(dim=dims, keepdim=True)
    kept = torch.maximum(squared, SMALLEST**2 * squared.detach().mean())
    return values / torch.where(is_loud, kept, one).sqrt()
