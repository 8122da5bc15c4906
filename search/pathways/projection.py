"""A linear projection of the student's channels to the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from search.method_card import Card, Need
from search.pathways.resizing import at_smaller_size
from search.recipe import Stage
from search.registry import Kind, register


@register(
    Kind.TRANSFORM,
    "projection",
    source="FitNets, Romero et al. 2015, arXiv 1412.6550",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), trains=True),
)
class Projection(nn.Module):
    """A 1x1 convolution from the student's to the teacher's channels, resized to the teacher's map."""

    def __init__(self, student: Stage, teacher: Stage) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(student.channels, teacher.channels, kernel_size=1, bias=False)

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        """The map (B, Ct, Ht, Wt)."""
        return at_smaller_size(self.convolution, student_map, teacher_shape[1:])
