"""A linear projection of the student's channels to the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from search.pathways.resizing import is_shrinking, resize
from search.recipe import Stage
from search.registry import Kind, register


@register(Kind.TRANSFORM, "projection", source="FitNets, Romero et al. 2015, arXiv 1412.6550")
class Projection(nn.Module):
    """A 1x1 convolution from the student's to the teacher's channels, resized to the teacher's map.

    The convolution runs at the smaller of the two sizes: without a bias it commutes with averaging and with
    interpolation, so this changes the cost and not the value.
    """

    def __init__(self, student: Stage, teacher: Stage) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(student.channels, teacher.channels, kernel_size=1, bias=False)

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        """The map (B, Ct, Ht, Wt)."""
        size = teacher_shape[1:]
        projected: Tensor
        if is_shrinking(student_map, size):
            projected = self.convolution(resize(student_map, size))
        else:
            projected = resize(self.convolution(student_map), size)
        return projected
