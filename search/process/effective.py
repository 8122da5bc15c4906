"""What holds at one step of training: the weights of all losses, and the temperatures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from search.recipe import Point, Process


@dataclass(frozen=True)
class Effective:
    """What holds at one step: float64 vectors without gradient; L logit losses, P pathways."""

    cross_entropy_weight: float
    logit_weights: Tensor  # (L,)
    pathway_weights: Tensor  # (P,)
    teacher_temperatures: Tensor  # (L,)
    student_temperatures: Tensor  # (L,)

    def active(self, threshold: float) -> tuple[int, ...]:
        """The pathways whose weight is at least so much."""
        return tuple(i for i, weight in enumerate(self.pathway_weights.tolist()) if weight >= threshold)

    def times(self, factor: float) -> Effective:
        """All weights so many times as large; the temperatures as they are."""
        return replace(
            self,
            cross_entropy_weight=factor * self.cross_entropy_weight,
            logit_weights=factor * self.logit_weights,
            pathway_weights=factor * self.pathway_weights,
        )

    def point(self, progress: float) -> Point:
        """The same as a recorded point."""
        return Point(
            progress=progress,
            cross_entropy_weight=self.cross_entropy_weight,
            logit_weights=self.logit_weights.tolist(),
            pathway_weights=self.pathway_weights.tolist(),
            teacher_temperatures=self.teacher_temperatures.tolist(),
            student_temperatures=self.student_temperatures.tolist(),
        )

    def figures(self, process: Process) -> dict[str, float]:
        """Named for reports: `weight/...` and `temperature/...`."""
        named = {"weight/cross_entropy": self.cross_entropy_weight}
        for index, loss in enumerate(process.logit_losses):
            named[f"weight/{loss.name}-{index}"] = float(self.logit_weights[index])
            named[f"temperature/teacher-{index}"] = float(self.teacher_temperatures[index])
            named[f"temperature/student-{index}"] = float(self.student_temperatures[index])
        for weight, pathway in zip(self.pathway_weights.tolist(), process.pathways, strict=True):
            named[f"weight/{pathway.name}"] = weight
        return named


def vector(values: Iterable[float]) -> Tensor:
    """Values as a float64 vector."""
    return torch.tensor([float(value) for value in values], dtype=torch.float64)
