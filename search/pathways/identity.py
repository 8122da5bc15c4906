"""The student's map as it is, brought to the teacher's size."""

from __future__ import annotations

from torch import Tensor, nn

from search.method_card import Card, Need
from search.pathways.resizing import resize
from search.recipe import Stage
from search.registry import Kind, register


@register(
    Kind.TRANSFORM,
    "identity",
    source="Zagoruyko, Komodakis 2017, arXiv 1612.03928",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), keeps_channels=True),
)
class Identity(nn.Module):
    """Resizes the map only; both stages need equally many channels, unless the distance ignores channels."""

    def __init__(self, student: Stage, teacher: Stage) -> None:
        super().__init__()

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        """The map (B, Cs, Ht, Wt)."""
        return resize(student_map, teacher_shape[1:])
