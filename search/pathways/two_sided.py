"""Transforms that change the teacher's map too, before the two are compared."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn


class TwoSided(nn.Module):
    """A transform whose `both` takes the place of its `forward` inside a pathway.

    What it makes of the teacher's map may depend on the student's, and on parameters: gradients pass on both
    sides, and end at the teacher's map itself.
    """

    @abstractmethod
    def both(self, student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
        """What the distance compares: the student's and the teacher's side, of one shape."""
