"""The overhaul of feature distillation: nothing is learned of how far below zero the teacher is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.features.contract import Lessons, Pair, Seen
from search.features.stage_pairs import StagePairLoss, size_of
from search.method_card import Card, Need
from search.models.normalisation import Normalisation
from search.pathways.resizing import resize
from search.registry import Kind, register


@register(
    Kind.FEATURE_LOSS,
    "ofd",
    source="Heo et al. 2019, arXiv 1904.01866",
    card=Card(
        systems=("ofd",),
        needs=frozenset({Need.STAGE_MAPS}),
        trains=True,
        differences="Margins are measured on the training images instead of computed from BatchNorm, so that "
        "networks without it have them too. The mean over elements, not their sum. Maps are those before the "
        "last ReLU, as in the paper, where the process taps `pre_activation`; else no value of a ReLU's map "
        "is negative and all margins are 0. One value per channel is normalised by the running statistics.",
    ),
)
class FeatureOverhaul(StagePairLoss):
    """Squared differences from the teacher's maps, clipped below at a margin; where that is negative, only
    what exceeds it.

    A channel's margin is the mean of its negative values, 0 where it has none. The student's maps go through
    a 1x1 convolution and BatchNorm. Each stage weighs twice as much as the one before, the last 1.
    """

    needs_lessons = True

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        widths = [(student.channels, teacher.channels) for student, teacher in self.matched]
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(student, teacher, 1, bias=False), Normalisation(teacher))
            for student, teacher in widths
        )
        for place, (_, teacher) in enumerate(widths):
            self.register_buffer(f"margin_{place}", torch.zeros(teacher))

    def margins(self) -> list[Tensor]:
        """Of each pair of stages (Ct,)."""
        return [self.get_buffer(f"margin_{place}") for place in range(len(self.matched))]

    def prepare(self, lessons: Lessons, *, seed: int) -> None:
        """Measure the margins."""
        sums = [torch.zeros(teacher.channels, dtype=torch.float64) for _, teacher in self.matched]
        counts = [torch.zeros_like(each) for each in sums]
        for outputs, _, _ in lessons.teacher(self.teacher_taps):
            for place, (_, teacher) in enumerate(self.matched):
                below = outputs.maps[teacher.index].detach().cpu().double().clamp(max=0)
                sums[place] = sums[place] + below.sum(dim=(0, 2, 3))
                counts[place] = counts[place] + (below < 0).sum(dim=(0, 2, 3))
        for place, (total, count) in enumerate(zip(sums, counts, strict=True)):
            self.keep(f"margin_{place}", total / count.clamp(min=1))

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        total, weight = seen.student.logits.new_zeros(()), 0.5 ** (len(self.matched) - 1)
        for (student, teacher), project, margin in zip(
            self.maps(seen), self.projections, self.margins(), strict=True
        ):
            projected = resize(project(student), size_of(teacher))
            total = total + weight * partial_distance(projected, teacher, margin)
            weight *= 2
        return total


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """0-dim, the mean over elements of maps (B, C, H, W), with margins (C,) that are not positive."""
    target = torch.maximum(teacher, margin[:, None, None])
    apart = student - target
    counts = (target > 0) | (apart > 0)
    return torch.where(counts, apart, torch.zeros_like(apart)).square().mean()
