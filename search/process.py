"""The process while it runs: learned by a search, or replayed from a record.

Both answer the same question: what do the losses weigh, and how hot are they, at this progress of training?
The losses are unit-scaled (`search.losses`), so one range of weights fits all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from search.hypergradient import HyperGradient
from search.problems import SearchProblem
from search.recipe import Point, Process
from search.records import Learning
from search.registry import Kind, get, register

MIN_TEMPERATURE = 1.0
"""A learned temperature stays above: one-step lookahead pushes temperatures down without end, and below 1 the
target is sharper than what the teacher says."""


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

    def point(self, progress: float) -> Point:
        """The same as a recorded point."""
        return Point(
            progress=progress,
            logit_weights=self.logit_weights.tolist(),
            pathway_weights=self.pathway_weights.tolist(),
            teacher_temperatures=self.teacher_temperatures.tolist(),
            student_temperatures=self.student_temperatures.tolist(),
        )

    def figures(self, process: Process) -> dict[str, float]:
        """Named for reports: `weight/...` and `temperature/...`."""
        named: dict[str, float] = {}
        for index, loss in enumerate(process.logit_losses):
            named[f"weight/{loss.name}-{index}"] = float(self.logit_weights[index])
            named[f"temperature/teacher-{index}"] = float(self.teacher_temperatures[index])
            named[f"temperature/student-{index}"] = float(self.student_temperatures[index])
        for weight, pathway in zip(self.pathway_weights.tolist(), process.pathways, strict=True):
            named[f"weight/{pathway.name}"] = weight
        return named


class Normalisation(Protocol):
    """Maps unconstrained parameters to positive weights, differentiably, and back."""

    def weights(self, raw: Tensor) -> Tensor:
        """(N,) -> (N,), positive."""
        ...

    def raw(self, weights: Tensor) -> Tensor:
        """The inverse of `weights`."""
        ...


@register(Kind.NORMALISATION, "softplus", source="Limbeck; on unit-scaled losses")
class Softplus:
    """Independent weights log(1 + exp(raw)): no pathway competes with another for a fixed total."""

    def weights(self, raw: Tensor) -> Tensor:
        return F.softplus(raw)

    def raw(self, weights: Tensor) -> Tensor:
        return weights + torch.log(-torch.expm1(-weights))


@register(Kind.NORMALISATION, "biased_softmax", source="DistPro, arXiv 2204.05547, released code's style 333")
class BiasedSoftmax:
    """DistPro's softmax with an appended constant logit 1, times the number of pathways.

    The appended logit is a pathway to nowhere: all weights together stay below N and may fade to 0.
    """

    def weights(self, raw: Tensor) -> Tensor:
        null = torch.ones(1, dtype=raw.dtype, device=raw.device)
        return torch.softmax(torch.cat([raw, null]), dim=0)[:-1] * len(raw)

    def raw(self, weights: Tensor) -> Tensor:
        share = weights / max(len(weights), 1)
        rest = 1.0 - share.sum()
        if rest <= 0:
            raise SearchProblem(
                "biased_softmax needs starting weights below 1 on average: lower "
                "search.process.initial_pathway_weight",
                code="bad_start",
            )
        return torch.log(share / rest) + 1.0


class LearnedProcess:
    """A process that follows its hypergradient with Adam, and records itself.

    Pathway weights go through the chosen normalisation; logit weights and temperatures are always
    independent. Parameters are float64: they are few, and a long search adds up many small updates.
    """

    def __init__(self, process: Process, learning: Learning) -> None:
        start = process.points[0]
        self.process = process
        self.learning = learning
        self._softplus = Softplus()
        self._normalisation: Normalisation = get(Kind.NORMALISATION, learning.normalisation).factory()
        temperatures = _vector([*start.teacher_temperatures, *start.student_temperatures])
        self._raw = {
            "logit": self._softplus.raw(_vector(start.logit_weights)),
            "pathway": self._normalisation.raw(_vector(start.pathway_weights)),
            "temperature": self._softplus.raw((temperatures - MIN_TEMPERATURE).clamp(min=1e-3)),
        }
        for raw in self._raw.values():
            raw.requires_grad_(True)
        # DistPro's betas: a low first moment follows the process, which changes over training.
        self._adam = torch.optim.Adam(self._raw.values(), lr=learning.learning_rate, betas=(0.5, 0.999))
        self._points: list[Point] = []

    def _effective(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logit = self._softplus.weights(self._raw["logit"])
        pathway = (
            self._normalisation.weights(self._raw["pathway"]) if len(self.process.pathways) else _vector([])
        )
        temperature = MIN_TEMPERATURE + self._softplus.weights(self._raw["temperature"])
        teacher, student = temperature.tensor_split(2)
        return logit, pathway, teacher, teacher if self.learning.tie_temperatures else student

    def at(self, progress: float) -> Effective:
        """What holds now; recorded when the next point of the record is due."""
        logit, pathway, teacher, student = (part.detach() for part in self._effective())
        effective = Effective(self.process.cross_entropy_weight, logit, pathway, teacher, student)
        if progress >= len(self._points) / (self.learning.record_points - 1):
            self._points.append(effective.point(progress))
        return effective

    def update(self, gradient: HyperGradient, *, active: Sequence[int] | None = None) -> None:
        """One Adam step on the process; `gradient` is with respect to the effective values.

        Pathways that were not active (by default all were) stay as they are, and Adam's moments of them too.
        Raises NonFiniteFigure for a gradient that is not finite.
        """
        gradient.require_finite()
        logit, pathway, teacher, student = self._effective()
        scalar = (logit * gradient.logit_weights).sum() + (pathway * gradient.pathway_weights).sum()
        if self.learning.learn_temperatures:
            scalar = scalar + (teacher * gradient.teacher_temperatures).sum()
            scalar = scalar + (student * gradient.student_temperatures).sum()
        self._adam.zero_grad(set_to_none=False)
        if scalar.requires_grad:
            scalar.backward()  # type: ignore[no-untyped-call]
        with self._held(active):
            self._adam.step()

    @contextmanager
    def _held(self, active: Sequence[int] | None) -> Iterator[None]:
        """Put back what belongs to pathways that were not active."""
        raw = self._raw["pathway"]
        mask = torch.zeros(len(raw), dtype=torch.bool)
        if active is not None:
            mask[[index for index in range(len(raw)) if index not in set(active)]] = True
        before = [tensor.detach().clone() for tensor in self._kept(raw)]
        yield
        with torch.no_grad():
            for tensor, old in zip(self._kept(raw), before, strict=False):
                tensor[mask] = old[mask]

    def _kept(self, raw: Tensor) -> list[Tensor]:
        state = self._adam.state.get(raw, {})
        return [raw, *(state[name] for name in ("exp_avg", "exp_avg_sq") if name in state)]

    def recorded(self, scales: list[float]) -> Process:
        """The process learned so far, its last point at progress 1."""
        logit, pathway, teacher, student = (part.detach() for part in self._effective())
        last = Effective(self.process.cross_entropy_weight, logit, pathway, teacher, student).point(1.0)
        points = [point for point in self._points if point.progress < 1.0]
        return with_scales(self.process.model_copy(update={"points": [*points, last]}), scales)

    def state(self) -> dict[str, Any]:
        """All that is needed to continue."""
        return {
            "raw": {name: raw.detach().clone() for name, raw in self._raw.items()},
            "adam": self._adam.state_dict(),
            "points": [point.model_dump() for point in self._points],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        with torch.no_grad():
            for name, raw in self._raw.items():
                raw.copy_(state["raw"][name])
        self._adam.load_state_dict(state["adam"])
        self._points = [Point.model_validate(point) for point in state["points"]]


class ReplayedProcess:
    """A recorded process, linearly interpolated to any number of steps; constant if it has one point."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._progress = np.array([point.progress for point in process.points])
        self._table = np.array(
            [
                [*p.logit_weights, *p.pathway_weights, *p.teacher_temperatures, *p.student_temperatures]
                for p in process.points
            ],
            dtype=np.float64,
        ).reshape(len(process.points), -1)
        losses = len(process.logit_losses)
        self._cuts = (losses, losses + len(process.pathways), 2 * losses + len(process.pathways))

    def at(self, progress: float) -> Effective:
        """What holds at this progress in [0, 1]."""
        columns = [np.interp(progress, self._progress, column) for column in self._table.T]
        logit, pathway, teacher, student = _vector(columns).tensor_split(self._cuts)
        return Effective(self.process.cross_entropy_weight, logit, pathway, teacher, student)

    def recorded(self, scales: list[float]) -> Process:
        """The process itself, with the scales that this replay measured."""
        return with_scales(self.process, scales)

    def state(self) -> dict[str, Any]:
        """Nothing: a replay is a function of progress."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing to continue from."""


def with_scales(process: Process, scales: list[float]) -> Process:
    """A copy whose pathways carry the scales once measured."""
    pathways = [
        pathway.model_copy(update={"scale": scale})
        for pathway, scale in zip(process.pathways, scales, strict=True)
    ]
    return Process.model_validate(process.model_copy(update={"pathways": pathways}).model_dump())


def _vector(values: Any) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)
