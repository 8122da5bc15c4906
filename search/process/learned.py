"""A process that is learned by its hypergradient while a student trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from search.process.average import Average
from search.process.effective import Effective, vector
from search.process.gradient_length import GradientLength
from search.process.normalisations import Normalisation, Softplus
from search.process.replayed import with_scales
from search.recipe import Point, Process
from search.records import Learning
from search.registry import Kind, get
from search.temperature import TemperatureRules

if TYPE_CHECKING:
    from search.hypergradient import HyperGradient

MIN_TEMPERATURE = 1.0
"""A learned temperature stays above: one-step lookahead pushes temperatures down without end, and below 1 the
target is sharper than what the teacher says."""
LEAST_WEIGHT = 1e-6
"""Starting weights below are lifted: parameters of weight zero would be infinite, or without a gradient."""
LEAST_OF_SKIPPED = 0.5
"""As a part of the weight below which a pathway is skipped: there it waits, and does not sink further. Else
the few retries that a skipped pathway gets could not bring it back."""
LEAST_ABOVE = 1e-3
"""How far above their minimum temperatures start at least."""


class LearnedProcess:
    """A process that follows its hypergradient with Adam, and records itself.

    Pathway weights go through the chosen normalisation, times a factor; logit weights and temperatures are
    always independent. Temperatures that a rule of their own makes are recorded as it made them, and not
    moved. Parameters are float64: they are few, and a long search adds up many small updates.
    Where losses are judged at constant length of the gradient, `length` keeps it: all weights, that of
    cross-entropy too, are multiplied by its factor.
    """

    def __init__(self, process: Process, learning: Learning) -> None:
        self.process = process
        self.learning = learning
        own = process.points[0].cross_entropy_weight
        # A warm-started search begins where another ended, which may have changed it.
        self._cross_entropy_weight = process.cross_entropy_weight if own is None else own
        self._least = max(LEAST_WEIGHT, LEAST_OF_SKIPPED * process.skip_below)
        self._softplus = Softplus()
        self._normalisation: Normalisation = get(Kind.NORMALISATION, learning.normalisation).factory()
        self._raw = self._start(process.points[0])
        for raw in self._raw.values():
            raw.requires_grad_(True)
        # DistPro's betas: a low first moment follows the process, which changes over training.
        self._adam = torch.optim.Adam(self._raw.values(), lr=learning.learning_rate, betas=(0.5, 0.999))
        self._average = Average(learning.average_decay)
        self.length = GradientLength(is_held=learning.at_constant_length)
        self.rules = TemperatureRules(process)
        self._moved = self.rules.moved(by_default=learning.learn_temperatures)
        self._points: list[Point] = []
        self._progress = 0.0

    def _start(self, start: Point) -> dict[str, Tensor]:
        logit = vector(start.logit_weights).clamp(min=LEAST_WEIGHT)
        pathway = vector(start.pathway_weights).clamp(min=self._least)
        temperatures = vector([*start.teacher_temperatures, *start.student_temperatures])
        return {
            "logit": self._softplus.raw(logit),
            "pathway": self._normalisation.raw(pathway / self.learning.pathway_weight_factor),
            "temperature": self._softplus.raw((temperatures - MIN_TEMPERATURE).clamp(min=LEAST_ABOVE)),
        }

    def _values(self, raw: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logit and pathway weights, teacher and student temperatures."""
        pathway = raw["pathway"]
        if len(pathway):
            pathway = self._normalisation.weights(pathway) * self.learning.pathway_weight_factor
        temperature = MIN_TEMPERATURE + self._softplus.weights(raw["temperature"])
        teacher, student = temperature.tensor_split(2)
        tied = self.learning.tie_temperatures
        return self._softplus.weights(raw["logit"]), pathway, teacher, teacher if tied else student

    def _effective(self, raw: Mapping[str, Tensor]) -> Effective:
        values = (part.detach() for part in self._values(raw))
        effective = Effective(self._cross_entropy_weight, *values).times(self.length.factor)
        return self.rules.applied(effective, self._progress)

    def starting(self) -> Effective:
        """The weights from which the search began, at the temperatures of now."""
        start, now = self.process.points[0], self._effective(self._raw)
        return replace(
            now,
            cross_entropy_weight=self._cross_entropy_weight,
            logit_weights=vector(start.logit_weights),
            pathway_weights=vector(start.pathway_weights),
        )

    def at(self, progress: float) -> Effective:
        """What holds now; recorded, averaged as asked, when the next point of the record is due."""
        self._progress = progress
        if progress >= len(self._points) / (self.learning.record_points - 1):
            self._points.append(self._averaged().point(progress))
        return self._effective(self._raw)

    def _averaged(self) -> Effective:
        return self._effective(self._average.of(self._raw))

    def update(self, gradient: HyperGradient, *, active: Sequence[int] | None = None) -> None:
        """One Adam step on the process; `gradient` is with respect to the effective values.

        Pathways that were not active (by default all were) stay as they are, and Adam's moments of them too.
        Raises NonFiniteFigure for a gradient that is not finite.
        """
        gradient.require_finite()
        logit, pathway, teacher, student = self._values(self._raw)
        scalar = (logit * gradient.logit_weights).sum() + (pathway * gradient.pathway_weights).sum()
        scalar = scalar * self.length.factor
        if self._moved.any():
            scalar = scalar + (self._moved * teacher * gradient.teacher_temperatures).sum()
            scalar = scalar + (self._moved * student * gradient.student_temperatures).sum()
        self._adam.zero_grad(set_to_none=False)
        if scalar.requires_grad:
            scalar.backward()  # type: ignore[no-untyped-call]
        with self._held(active), self._floored(gradient.pathway_weights):
            self._adam.step()
        self._average.add(self._raw)
        self.length.updated()

    @contextmanager
    def _floored(self, gradient: Tensor) -> Iterator[None]:
        """Put back the parameters of pathways that their gradient drives further below the least weight.

        Where weights compete, one may fall because of the others: then its parameter goes on.
        """
        raw = self._raw["pathway"]
        before = raw.detach().clone()
        yield
        with torch.no_grad():
            old, new = (self._values({**self._raw, "pathway": each})[1] for each in (before, raw))
            has_sunk = (new < self._least) & (new < old) & (gradient > 0)
            raw[has_sunk] = before[has_sunk]

    @contextmanager
    def _held(self, active: Sequence[int] | None) -> Iterator[None]:
        """Put back what belongs to pathways that were not active."""
        raw = self._raw["pathway"]
        if active is None or len(set(active)) == len(raw):
            yield
            return
        skipped = torch.ones(len(raw), dtype=torch.bool)
        skipped[list(active)] = False
        before = {name: tensor.detach().clone() for name, tensor in self._adapting().items()}
        yield
        with torch.no_grad():
            for name, tensor in self._adapting().items():
                # Adam's moments are nothing before its first step.
                tensor[skipped] = before[name][skipped] if name in before else 0.0

    def _adapting(self) -> dict[str, Tensor]:
        raw = self._raw["pathway"]
        state = self._adam.state.get(raw, {})
        return {"raw": raw, **{name: state[name] for name in ("exp_avg", "exp_avg_sq") if name in state}}

    def recorded(self, scales: list[float]) -> Process:
        """The process learned so far, its last point at progress 1."""
        points = [point for point in self._points if point.progress < 1.0]
        points.append(self._averaged().point(1.0))
        return with_scales(self.process.model_copy(update={"points": points}), scales)

    def state(self) -> dict[str, Any]:
        """All that is needed to continue."""
        return {
            "raw": {name: raw.detach().clone() for name, raw in self._raw.items()},
            "adam": self._adam.state_dict(),
            "average": self._average.state(),
            "length": self.length.state(),
            "points": [point.model_dump() for point in self._points],
            "progress": self._progress,
            "rules": self.rules.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        with torch.no_grad():
            for name, raw in self._raw.items():
                raw.copy_(state["raw"][name])
        self._adam.load_state_dict(state["adam"])
        self._average.load(state["average"])
        self.length.load(state["length"])
        self._points = [Point.model_validate(point) for point in state["points"]]
        self._progress = state.get("progress", 0.0)
        self.rules.load_state_dict(state.get("rules", {}))
