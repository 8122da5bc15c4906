"""Maps as shares, and their logarithms: over places, over channels, over the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from search.method_card import Card, Need
from search.operators.sides import on_each_side
from search.registry import Kind, register

SHARES = Card(
    needs=frozenset({Need.STAGE_MAPS}),
    differences="Times the number of shares, so that their mean is 1 and distances keep their scale.",
)
LOGARITHMS = Card(needs=frozenset({Need.STAGE_MAPS}))


@register(
    Kind.OPERATOR, "softmax_places", source="DetKDS, Li et al. 2024, released code's softmax_HW", card=SHARES
)
@on_each_side
def softmax_places(feature_map: Tensor) -> Tensor:
    """H W softmax of each channel over its places.

    (B, C, H, W) as before; of mean 1. 1 everywhere where a channel is constant.
    """
    shares = torch.softmax(feature_map.flatten(2), dim=2)
    return shares.shape[2] * shares.reshape(feature_map.shape)


@register(
    Kind.OPERATOR, "softmax_channels", source="DetKDS, Li et al. 2024, released code's softmax_C", card=SHARES
)
@on_each_side
def softmax_channels(feature_map: Tensor) -> Tensor:
    """C softmax of each place over its channels.

    (B, C, H, W) as before; of mean 1. 1 everywhere where channels are equal.
    """
    return feature_map.shape[1] * torch.softmax(feature_map, dim=1)


@register(
    Kind.OPERATOR, "softmax_samples", source="DetKDS, Li et al. 2024, released code's softmax_N", card=SHARES
)
@on_each_side
def softmax_samples(feature_map: Tensor) -> Tensor:
    """B softmax of each place and channel over the batch.

    (B, C, H, W) as before; of mean 1. 1 everywhere in a batch of one.
    """
    return len(feature_map) * torch.softmax(feature_map, dim=0)


@register(
    Kind.OPERATOR,
    "log_softmax_places",
    source="DetKDS, Li et al. 2024, released code's logsoftmax_HW",
    card=LOGARITHMS,
)
@on_each_side
def log_softmax_places(feature_map: Tensor) -> Tensor:
    """The logarithm of the softmax of each channel over its places.

    (B, C, H, W) as before. -log(H W) where a channel is constant.
    """
    return torch.log_softmax(feature_map.flatten(2), dim=2).reshape(feature_map.shape)


@register(
    Kind.OPERATOR,
    "log_softmax_channels",
    source="DetKDS, Li et al. 2024, released code's logsoftmax_C",
    card=LOGARITHMS,
)
@on_each_side
def log_softmax_channels(feature_map: Tensor) -> Tensor:
    """The logarithm of the softmax of each place over its channels.

    (B, C, H, W) as before. -log(C) where channels are equal.
    """
    return torch.log_softmax(feature_map, dim=1)


@register(
    Kind.OPERATOR,
    "log_softmax_samples",
    source="DetKDS, Li et al. 2024, released code's logsoftmax_N",
    card=LOGARITHMS,
)
@on_each_side
def log_softmax_samples(feature_map: Tensor) -> Tensor:
    """The logarithm of the softmax of each place and channel over the batch.

    (B, C, H, W) as before. 0 in a batch of one.
    """
    return torch.log_softmax(feature_map, dim=0)
