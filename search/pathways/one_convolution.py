"""DistPro's smallest connector."""

from __future__ import annotations

from torch import Tensor, nn

from search.method_card import Card, Need
from search.pathways.convolutions import convolution, nearest
from search.recipe import Stage
from search.registry import Kind, register


@register(
    Kind.TRANSFORM,
    "one_convolution",
    source="DistPro, Deng et al. 2022, arXiv 2204.05547, its 1conv",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), trains=True),
)
class OneConvolution(nn.Module):
    """Conv1x1-BN, nearest resize.

    Resizing comes last even where it shrinks the map: the batch's statistics are of the whole student map.
    """

    def __init__(self, student: Stage, teacher: Stage) -> None:
        super().__init__()
        self.project = nn.Sequential(
            convolution(student.channels, teacher.channels, 1), nn.BatchNorm2d(teacher.channels)
        )

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        """The map (B, Ct, Ht, Wt)."""
        return nearest(self.project(student_map), teacher_shape[1:])
