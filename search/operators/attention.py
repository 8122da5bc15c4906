"""Maps weighed by their own activity: over places, over channels, over the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from search.method_card import Card, MethodConfig, Need, searched
from search.operators.sides import on_each_side
from search.registry import Kind, register


class AttentionConfig(MethodConfig):
    """Settings of attention."""

    temperature: float = searched(
        0.5,
        low=0.1,
        high=4.0,
        ge=0.01,
        description="What activities are divided by: the lower, the more is said of what is most active.",
    )


CARD = Card(needs=frozenset({Need.STAGE_MAPS}), config=AttentionConfig)


@register(
    Kind.OPERATOR, "spatial_attention", source="DetKDS, Li et al. 2024, released code's satt", card=CARD
)
@on_each_side
def spatial_attention(feature_map: Tensor, *, config: AttentionConfig) -> Tensor:
    """Each place times the root of H * W softmax(activity / temperature) over places.

    A place's activity is the mean over channels of the absolute values. (B, C, H, W) as before. A map of one
    place, and one that is equally active everywhere, is left as it is.
    """
    activity = feature_map.abs().mean(dim=1).flatten(1)
    factors = _root_of_shares(activity / config.temperature)
    return feature_map * factors.reshape(len(feature_map), 1, *feature_map.shape[2:])


@register(
    Kind.OPERATOR, "channel_attention", source="DetKDS, Li et al. 2024, released code's catt", card=CARD
)
@on_each_side
def channel_attention(feature_map: Tensor, *, config: AttentionConfig) -> Tensor:
    """Each channel times the root of C softmax(activity / temperature) over channels.

    A channel's activity is the mean over places of the absolute values. (B, C, H, W) as before. A map of one
    channel, and one whose channels are equally active, is left as it is.
    """
    activity = feature_map.abs().mean(dim=(2, 3))
    return feature_map * _root_of_shares(activity / config.temperature)[:, :, None, None]


@register(Kind.OPERATOR, "sample_attention", source="DetKDS, Li et al. 2024, released code's natt", card=CARD)
@on_each_side
def sample_attention(feature_map: Tensor, *, config: AttentionConfig) -> Tensor:
    """B softmax(value / temperature) over the batch, at every place and channel by itself.

    (B, C, H, W) as before; of mean 1. In a batch of one, 1 everywhere.
    """
    return len(feature_map) * torch.softmax(feature_map / config.temperature, dim=0)


def _root_of_shares(scores: Tensor) -> Tensor:
    """The root of n softmax(scores), (B, n). As an exponential: a root has no slope where a share is 0."""
    return torch.exp((torch.log_softmax(scores, dim=1) + math.log(scores.shape[1])) / 2)
