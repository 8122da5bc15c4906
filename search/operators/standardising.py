"""Maps brought to one range, or to one mean and variance."""

from __future__ import annotations

import torch
from torch import Tensor

from search.method_card import Card, Need
from search.operators.norms import SILENT
from search.operators.sides import on_each_side
from search.registry import Kind, register

LEAST_VARIANCE = 1e-5
"""Added to a channel's variance, as batch normalisation does."""
SMALLEST_RANGE = 0.01
"""As a part of the largest absolute value."""
CARD = Card(needs=frozenset({Need.STAGE_MAPS}))


@register(
    Kind.OPERATOR,
    "min_max",
    source="DetKDS, Li et al. 2024, released code's min_max_normalize",
    card=Card(
        needs=frozenset({Need.STAGE_MAPS}),
        differences="A map whose values hardly differ is not stretched to the full range.",
    ),
)
@on_each_side
def min_max(feature_map: Tensor) -> Tensor:
    """(f - min) / (max - min) over the batch's whole map: from 0 to 1.

    (B, C, H, W) as before. A range below a hundredth of the largest absolute value counts as that; a constant
    map, and a silent one, becomes 0.
    """
    least, most = feature_map.amin(), feature_map.amax()
    peak = torch.maximum(-least, most).detach()
    span = torch.maximum(most - least, SMALLEST_RANGE * peak)
    return (feature_map - least) / torch.where(peak > SILENT, span, torch.ones_like(span))


@register(Kind.OPERATOR, "batch_norm", source="DetKDS, Li et al. 2024, released code's batchnorm", card=CARD)
@on_each_side
def batch_norm(feature_map: Tensor) -> Tensor:
    """Batch normalisation by the batch's own statistics, without parameters.

    (B, C, H, W) as before: each channel of mean 0 and variance 1 over batch and places. A constant channel
    becomes 0.
    """
    dims = (0, 2, 3)
    centred = feature_map - feature_map.mean(dim=dims, keepdim=True)
    variance = centred.square().mean(dim=dims, keepdim=True)
    return centred * (variance + LEAST_VARIANCE).rsqrt()
