"""A job without any service: the plan, executed trial by trial in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.costs import devices_per_trial
from search.distill import Report
from search.plan import next_trials, should_stop
from search.problems import SearchProblem
from search.records import (
    CurvePoint,
    Fail,
    Finish,
    Proposal,
    StageName,
    Start,
    TrialError,
    TrialKey,
    TrialRecord,
    TrialState,
)
from search.spec import JobSpec
from search.trial import Places, open_trial

OnReport = Callable[[TrialKey, Report], None]


@dataclass
class LocalJob:
    """Executes a spec's plan in one process, one trial at a time; `records` is all that it knows."""

    spec: JobSpec
    directory: Path
    datasets_file: Path | None = None
    threads: int = 1
    device: str | None = None
    max_steps: int | None = None
    evaluation_limit: int | None = None
    on_report: OnReport = lambda key, report: None
    records: list[TrialRecord] = field(default_factory=list)

    def run(self, *, until: StageName | None = None) -> dict[str, Any] | None:
        """Execute the plan to its end, or up to the first trial of stage `until`; the report, if there is
        one.

        Raises SearchProblem when the plan fails.
        """
        started = time.monotonic()
        while True:
            action = next_trials(self.spec, self.records, elapsed_seconds=time.monotonic() - started)
            match action:
                case Start(proposals):
                    if until is not None and proposals[0].key.stage == until:
                        return None
                    for proposal in proposals:
                        self.records.append(self.trial(proposal))
                case Fail(code, message):
                    raise SearchProblem(message, code=code)
                case Finish(report):
                    return report
                case _:
                    raise RuntimeError("the plan waits for a trial, but none is running")

    def trial(self, proposal: Proposal) -> TrialRecord:
        """Run one trial to its end; a failure of it is recorded, not raised."""
        started = time.perf_counter()
        curve: list[CurvePoint] = []
        record = TrialRecord(proposal.key, TrialState.RUNNING, proposal.parameters)
        try:
            run = open_trial(
                self.spec,
                proposal.key,
                proposal.parameters,
                self.places(proposal),
                threads=self.threads,
                device=self.device,
                max_steps=self.max_steps,
                evaluation_limit=self.evaluation_limit,
            )
            for report in run.steps():
                if report is None:
                    continue
                self.on_report(proposal.key, report)
                if report.is_validation:
                    curve.append(CurvePoint(report.step, report.epoch, report.figures["accuracy"]))
                    record = self._updated(record, started, curve=tuple(curve))
                    stopped = should_stop(self.spec, [*self.records, record], proposal.key)
                    if stopped is not None:
                        return self._updated(record, started, state=TrialState.STOPPED_EARLY, stopped=stopped)
            outcome = run.outcome()
        except SearchProblem as problem:
            error = TrialError(problem.code, problem.message)
            return self._updated(record, started, state=TrialState.FAILED, error=error)
        return self._updated(record, started, state=TrialState.COMPLETED, result=outcome.result)

    def places(self, proposal: Proposal) -> Places:
        """This trial's directory, and the files of earlier trials that it needs."""
        directory = self.directory / "trials" / str(proposal.key)
        directory.mkdir(parents=True, exist_ok=True)
        cache = self.directory / "cache"
        cache.mkdir(exist_ok=True)
        student = None
        if proposal.key.stage == StageName.EXPORT:
            student = self._proof_student(proposal)
        return Places(
            trial_directory=directory,
            cache_directory=cache,
            datasets_file=self.datasets_file,
            teacher_file=self.teacher_file,
            student_file=student,
        )

    @property
    def teacher_file(self) -> Path | None:
        """The teacher's weights, once its trial has completed."""
        for record in self.records:
            if record.key.stage == StageName.TEACHER and record.state == TrialState.COMPLETED:
                return self.directory / "trials" / str(record.key) / "teacher.safetensors"
        return None

    def _proof_student(self, proposal: Proposal) -> Path | None:
        """The winning proof run's student; None for a process that was found and not proved."""
        arm, seed = proposal.parameters["arm"], proposal.parameters["seed"]
        for record in self.records:
            if (record.key.stage, record.key.arm, record.key.seed) == (StageName.PROOF, arm, seed):
                return self.directory / "trials" / str(record.key) / "student.safetensors"
        return None

    def _updated(self, record: TrialRecord, started: float, **changes: Any) -> TrialRecord:
        seconds = (time.perf_counter() - started) * devices_per_trial(self.spec)
        return TrialRecord(**{**record.__dict__, **changes, "device_seconds": seconds})
