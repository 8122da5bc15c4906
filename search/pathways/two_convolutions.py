"""DistPro's connector of a 1x1 and a 3x3 convolution."""

from __future__ import annotations

from torch import Tensor, nn

from search.method_card import Card, Need
from search.pathways.convolutions import (
    USUAL_WIDTH,
    Gate,
    WidthConfig,
    convolution,
    nearest,
    width_between,
)
from search.recipe import Stage
from search.registry import Kind, register


@register(
    Kind.TRANSFORM,
    "two_convolutions",
    source="DistPro, Deng et al. 2022, arXiv 2204.05547, its 2conv",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), trains=True, config=WidthConfig),
)
class TwoConvolutions(nn.Module):
    """Conv1x1-BN, gate x * conv1x1(x), nearest resize, Conv3x3-BN.

    The usual width between is min(512, Ct, Cs).
    """

    def __init__(self, student: Stage, teacher: Stage, *, config: WidthConfig = USUAL_WIDTH) -> None:
        super().__init__()
        width = width_between(student, teacher, config)
        self.enter = nn.Sequential(convolution(student.channels, width, 1), nn.BatchNorm2d(width))
        self.gate = Gate(width)
        self.leave = nn.Sequential(convolution(width, teacher.channels, 3), nn.BatchNorm2d(teacher.channels))

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        """The map (B, Ct, Ht, Wt)."""
        left: Tensor = self.leave(nearest(self.gate(self.enter(student_map)), teacher_shape[1:]))
        return left
