"""Variational information distillation: how likely the teacher's map is, given the student's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from search.features.contract import Pair, Seen
from search.features.stage_pairs import StagePairLoss, size_of
from search.method_card import Card, Need
from search.pathways.resizing import resize
from search.registry import Kind, register

FIRST_VARIANCE = 5.0
LEAST_VARIANCE = 1e-5


@register(
    Kind.FEATURE_LOSS,
    "vid",
    source="Ahn et al. 2019, arXiv 1904.05835",
    card=Card(
        systems=("vid",),
        needs=frozenset({Need.STAGE_MAPS}),
        trains=True,
        differences="The mean over stages, not their sum. The layers between have the teacher's channels.",
    ),
)
class VariationalInformation(StagePairLoss):
    """Negative log-likelihood of the teacher's maps under a normal distribution that the student predicts.

    The mean comes from three 1x1 convolutions of the student's map, the variance is learned for each of the
    teacher's channels. It is no distance: where variances are below 1 it may be negative.
    """

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        widths = [(student.channels, teacher.channels) for student, teacher in self.matched]
        self.means = nn.ModuleList(regressor(*each) for each in widths)
        start = math.log(math.expm1(FIRST_VARIANCE - LEAST_VARIANCE))
        self.raw_variances = nn.ParameterList(torch.full((teacher,), start) for _, teacher in widths)

    def variances(self) -> list[Tensor]:
        """Of each pair of stages (Ct,)."""
        return [F.softplus(raw) + LEAST_VARIANCE for raw in self.raw_variances]

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        losses = [
            unlikelihood(mean(resize(student, size_of(teacher))), teacher, variance)
            for (student, teacher), mean, variance in zip(
                self.maps(seen), self.means, self.variances(), strict=True
            )
        ]
        return torch.stack(losses).mean()


def regressor(student: int, teacher: int) -> nn.Sequential:
    """From so many channels to so many."""
    return nn.Sequential(
        nn.Conv2d(student, teacher, 1),
        nn.ReLU(),
        nn.Conv2d(teacher, teacher, 1),
        nn.ReLU(),
        nn.Conv2d(teacher, teacher, 1),
    )


def unlikelihood(mean: Tensor, teacher_map: Tensor, variance: Tensor) -> Tensor:
    """0-dim, less its constant: the mean over elements of maps (B, C, H, W), with a variance (C,)."""
    by_channel = variance[:, None, None]
    return 0.5 * ((mean - teacher_map).square() / by_channel + by_channel.log()).mean()
