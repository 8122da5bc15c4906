"""What a distance takes for one vector: a place's channels, unless one of these comes before it."""

from __future__ import annotations

from torch import Tensor

from search.method_card import Card, Need, Reshaping
from search.operators.sides import on_each_side
from search.registry import Kind, register


@register(
    Kind.OPERATOR,
    "image_vectors",
    source="DetKDS, Li et al. 2024, released code's batch",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), reshaping=Reshaping(side=1)),
)
@on_each_side
def image_vectors(feature_map: Tensor) -> Tensor:
    """Each image's whole map as the channels of one place: what follows compares image with image.

    (B, C, H, W) to (B, C H W, 1, 1).
    """
    return feature_map.flatten(1)[:, :, None, None]


@register(
    Kind.OPERATOR,
    "channel_vectors",
    source="DetKDS, Li et al. 2024, released code's channel",
    card=Card(
        needs=frozenset({Need.STAGE_MAPS}),
        reshaping=Reshaping(makes_places_of_channels=True),
        differences="Places come first, so that distances of vectors compare channel with channel; the "
        "released code joins rows and columns only.",
    ),
)
@on_each_side
def channel_vectors(feature_map: Tensor) -> Tensor:
    """Channels and places change roles: what follows compares each channel's pattern over places.

    (B, C, H, W) to (B, H W, C, 1). Both maps need equally many channels.
    """
    return feature_map.flatten(2).transpose(1, 2).unsqueeze(3)
