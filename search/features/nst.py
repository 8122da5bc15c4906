"""Neuron selectivity transfer: which patterns over places the channels have, in whatever order."""

from __future__ import annotations

import torch
from torch import Tensor

from search.features.contract import Seen
from search.features.stage_pairs import StagePairLoss, size_of
from search.method_card import Card, Need
from search.pathways.directions import directions
from search.pathways.resizing import resize
from search.registry import Kind, register


@register(
    Kind.FEATURE_LOSS,
    "nst",
    source="Huang and Wang 2017, arXiv 1707.01219",
    card=Card(
        systems=("nst",),
        needs=frozenset({Need.STAGE_MAPS}),
        zero_at_equality=True,
        differences="The mean over stages, not their sum. Channels that are nearly silent are not brought to "
        "the length of the others.",
    ),
)
class NeuronSelectivity(StagePairLoss):
    """Maximum mean discrepancy of both models' channels, each a pattern over places of length 1.

    The kernel is the squared product of two patterns. Channels may differ in number and order. The larger map
    is averaged to the size of the smaller. A map of one place has no patterns: there it is zero.
    """

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        losses = [discrepancy(*at_smaller(student, teacher)) for student, teacher in self.maps(seen)]
        return torch.stack(losses).mean()


def at_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and width."""
    (high, wide), (other_high, other_wide) = size_of(student), size_of(teacher)
    size = min(high, other_high), min(wide, other_wide)
    return resize(student, size), resize(teacher, size)


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """0-dim, the mean over images, of maps (B, Cs, H, W) and (B, Ct, H, W)."""
    one, other = directions(student.flatten(2)), directions(teacher.flatten(2))
    by_image = kernel(other, other) + kernel(one, one) - 2 * kernel(one, other)
    return by_image.mean()


def kernel(one: Tensor, other: Tensor) -> Tensor:
    """(B,): the mean squared product of a pattern (B, C, P) of one and a pattern (B, D, P) of the other."""
    return (one @ other.transpose(1, 2)).square().mean(dim=(1, 2))
