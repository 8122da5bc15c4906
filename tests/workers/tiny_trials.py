"""Trials without torch that keep the real contract: steps, reports, states, outcomes, files.

Figures are pure functions of (trial key, step), so that a continued trial can be held against a whole one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.problems import SearchProblem
from search.records import StageName, TeacherResult, TrialKey, TrialRecord, TrialState
from search.spec import JobSpec
from tests.search.planning.simulated_job import accuracy_by_arm, noise, preflight_result, run_result
from workers.trial_actor import OpenTrial

STEPS_PER_EPOCH = 3
TEACHER_EPOCHS = 2
ACCURACY = accuracy_by_arm()


@dataclass(frozen=True)
class TinyReport:
    """As `search.distill.Report`."""

    step: int
    epoch: float
    figures: dict[str, float]
    is_validation: bool


@dataclass(frozen=True)
class TinyOutcome:
    """As `search.trial.Outcome`."""

    result: dict[str, Any]
    files: dict[str, Path]


@dataclass
class TinyRun:
    """As `search.trial.TrialRun`."""

    spec: JobSpec
    key: TrialKey
    parameters: dict[str, Any]
    places: Any
    step: int = 0
    on_step: Callable[[TinyRun], None] = lambda run: None

    @property
    def epochs(self) -> int:
        if self.key.stage is StageName.TEACHER:
            return TEACHER_EPOCHS
        return int(self.parameters.get("epochs", 0))

    def steps(self) -> Iterator[TinyReport | None]:
        while self.step < self.epochs * STEPS_PER_EPOCH:
            self.step += 1
            self.on_step(self)
            validates = self.step % STEPS_PER_EPOCH == 0 and self.key.stage is not StageName.PROOF
            due = validates or self.step % self.spec.training.report_every_steps == 0
            yield self.report(validates) if due else None

    def report(self, validates: bool) -> TinyReport:
        figures = {"loss": 1.0 / self.step + 0.01 * noise(self.key, self.step)}
        epoch = self.step / STEPS_PER_EPOCH
        if validates:
            goal = 0.9 if self.key.stage is StageName.TEACHER else ACCURACY(self.key, self.parameters)
            figures["accuracy"] = goal * (1 - 0.5**epoch)
        return TinyReport(self.step, epoch, figures, validates)

    def state(self) -> bytes:
        return json.dumps(self.step).encode()

    def outcome(self) -> TinyOutcome:
        match self.key.stage:
            case StageName.TEACHER:
                result = TeacherResult(accuracy=0.9, weights_sha256="t" * 64, cached=False)
                return TinyOutcome(result.model_dump(), self._file("teacher.safetensors"))
            case StageName.PREFLIGHT:
                assert self.places.teacher_file.read_bytes() == b"teacher-teacher-0-0"
                return TinyOutcome(preflight_result(), {})
            case StageName.EXPORT:
                return self._export()
            case _:
                record = TrialRecord(self.key, TrialState.RUNNING, self.parameters)
                result = run_result(record, ACCURACY(self.key, self.parameters))
                is_proof = self.key.stage is StageName.PROOF
                return TinyOutcome(result, self._file("student.safetensors") if is_proof else {})

    def _export(self) -> TinyOutcome:
        chosen = f"proof-{self.parameters['arm']}-{self.parameters['seed']}-0"
        assert self.places.student_file.read_bytes() == chosen.encode()
        task = {"teachers": [{"model": "teacher"}], "student": {"model": "student"}, "data": "digits"}
        recipe = {"schema_version": 1, "arm": self.parameters["arm"], "task": task}
        return TinyOutcome({"accuracy": 0.5, "recipe": recipe}, self._file("recipe.json"))

    def _file(self, name: str) -> dict[str, Path]:
        path: Path = self.places.trial_directory / name
        path.write_bytes(str(self.key).encode())
        return {name: path}


@dataclass
class TinyTrials:
    """What the actors of a test load. `problems` fail a trial before its first step."""

    on_step: Callable[[TinyRun], None] = lambda run: None
    problems: dict[StageName, SearchProblem] = field(default_factory=dict)
    opened: list[tuple[TrialKey, int]] = field(default_factory=list)

    def load(self) -> OpenTrial:
        return self.open

    def open(
        self,
        spec: JobSpec,
        key: TrialKey,
        parameters: dict[str, Any],
        places: Any,
        *,
        threads: int,
        device: str | None,
        state: bytes | None,
    ) -> TinyRun:
        if key.stage in self.problems:
            raise self.problems[key.stage]
        step = json.loads(state) if state is not None else 0
        self.opened.append((key, step))
        return TinyRun(spec, key, parameters, places, step=step, on_step=self.on_step)
