"""Knowledge review: each stage of the student, with what its deeper stages say, beside the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.features.contract import Pair, Seen
from search.features.stage_pairs import StagePairLoss, size_of
from search.method_card import Card, Need
from search.pathways.hcl import hierarchical_context
from search.pathways.resizing import resize
from search.registry import Kind, register

MAX_WIDTH = 512


@register(
    Kind.FEATURE_LOSS,
    "reviewkd",
    source="Chen et al. 2021, arXiv 2104.09044",
    card=Card(
        systems=("reviewkd",),
        needs=frozenset({Need.STAGE_MAPS}),
        trains=True,
        differences="No warm-up: the process learns the weight over time. The embedding is left out. No "
        "BatchNorm, so that maps of one place and batches of one image fit. Maps are resized by averages and "
        "bilinearly. The distance is 1 between independent maps.",
    ),
)
class KnowledgeReview(StagePairLoss):
    """The hierarchical context distance of fused student stages, from the deepest up, to the teacher's maps.

    A stage is brought to a common width, mixed place by place with what came from the stage below it, by
    learned attention, handed up, and brought to the teacher's channels for the comparison. The sum over
    stages.
    """

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        width = min(MAX_WIDTH, self.matched[-1][0].channels)
        self.enter = nn.ModuleList(nn.Conv2d(student.channels, width, 1) for student, _ in self.matched)
        self.mixes = nn.ModuleList(Mix(width) for _ in self.matched[1:])
        self.leave = nn.ModuleList(
            nn.Conv2d(width, teacher.channels, 3, padding=1) for _, teacher in self.matched
        )

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        both = self.maps(seen)
        fused = self.fused([student for student, _ in both])
        losses = [
            hierarchical_context(leave(resize(each, size_of(teacher))), teacher)
            for each, (_, teacher), leave in zip(fused, both, self.leave, strict=True)
        ]
        return torch.stack(losses).sum()

    def fused(self, maps: list[Tensor]) -> list[Tensor]:
        """Each stage's map at the common width, at its own size, with what the deeper stages say."""
        entered = [enter(each) for enter, each in zip(self.enter, maps, strict=True)]
        reviewed = [entered[-1]]
        for shallower, mix in zip(reversed(entered[:-1]), reversed([*self.mixes]), strict=True):
            reviewed.append(mix(shallower, reviewed[-1]))
        return reviewed[::-1]


class Mix(nn.Module):
    """Of a map and the one below, each weighed at each place by attention that sees both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Conv2d(2 * width, 2, 1)

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        """The mix (B, C, H, W), at the size of the upper map; the lower may have another."""
        lower = resize(lower, size_of(upper))
        attention: Tensor = self.attention(torch.cat([upper, lower], dim=1)).sigmoid()
        return upper * attention[:, :1] + lower * attention[:, 1:]
