"""DistPro's connector of three 3x3 convolutions: the one that its release uses."""

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
    "gated",
    source="DistPro, Deng et al. 2022, arXiv 2204.05547, released code",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), trains=True, config=WidthConfig),
)
class Gated(nn.Module):
    """Conv3x3-BN-ReLU, gate x * conv1x1(x), Conv3x3-BN-ReLU, nearest resize, Conv3x3-BN.

    The usual width between is min(512, Ct, Cs).
    """

    def __init__(self, student: Stage, teacher: Stage, *, config: WidthConfig = USUAL_WIDTH) -> None:
        super().__init__()
        width = width_between(student, teacher, config)
        self.enter = nn.Sequential(convolution(student.channels, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.gate = Gate(width)
        self.middle = nn.Sequential(convolution(width, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.leave = nn.Sequential(convolution(width, teacher.channels, 3), nn.BatchNorm2d(teacher.channels))

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        """The map (B, Ct, Ht, Wt)."""
        middle = self.middle(self.gate(self.enter(student_map)))
        left: Tensor = self.leave(nearest(middle, teacher_shape[1:]))
        return left
