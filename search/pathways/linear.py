"""An affine map of every token's channels to the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from search.method_card import Card, Need
from search.pathways.resizing import at_smaller_size
from search.recipe import Stage
from search.registry import Kind, register


@register(
    Kind.TRANSFORM,
    "linear",
    source="DeiT's and ViTKD's linear layers on tokens; Yang et al. 2022",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), trains=True),
)
class Linear(nn.Module):
    """An affine map of the student's channels at every place to the teacher's, resized to the teacher's map.

    What a transformer's tokens ask for: with a bias, and started as a linear layer is.
    """

    def __init__(self, student: Stage, teacher: Stage) -> None:
        super().__init__()
        self.layer = nn.Linear(student.channels, teacher.channels)

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        """The map (B, Ct, Ht, Wt)."""
        return at_smaller_size(self._mapped, student_map, teacher_shape[1:])

    def _mapped(self, feature_map: Tensor) -> Tensor:
        mapped: Tensor = self.layer(feature_map.movedim(1, -1)).movedim(-1, 1)
        return mapped
