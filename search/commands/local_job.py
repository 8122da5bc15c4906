"""A job without any service: the plan, executed trial by trial in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from search.commands.job_file import JobFile
from search.commands.kept_trial import Begun, KeptTrial
from search.distill import Report
from search.plan import next_trials, should_stop
from search.planning.costs import devices_per_trial
from search.planning.given import GivenProcess
from search.problems import SearchProblem, ran_out_of_memory
from search.records import (
    Action,
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
from search.trial import Places, TrialRun, open_trial

OnReport = Callable[[TrialKey, Report], None]
OnStart = Callable[[Proposal], None]
OnEnd = Callable[[TrialRecord], None]


@dataclass
class LocalJob:
    """Executes a spec's plan in one process, one trial at a time; `records` is all that it knows.

    `given`: a process to be proved without a search. With `is_kept` the records, and every so many seconds
    the state of the trial at work, are written into the directory: a job of the same spec goes on from there.
    """

    spec: JobSpec
    directory: Path
    datasets_file: Path | None = None
    threads: int = 1
    device: str | None = None
    max_steps: int | None = None
    evaluation_limit: int | None = None
    on_report: OnReport = lambda key, report: None
    records: list[TrialRecord] = field(default_factory=list)
    given: GivenProcess | None = None
    is_kept: bool = False
    state_every_seconds: float = 30.0
    on_start: OnStart = lambda proposal: None
    on_end: OnEnd = lambda record: None

    @cached_property
    def planned(self) -> JobSpec:
        """The spec as the plan is to see it: here trials run one after the other, each on all the threads, or
        on the whole of another device."""
        search = self.spec.search.model_copy(update={"concurrent_trials": 1})
        resources = self.spec.resources_per_trial
        if resources.gpus == 0:
            is_cpu = self.device is None or self.device.startswith("cpu")
            changes = {"cpus": float(self.threads)} if is_cpu else {"gpus": 1.0}
            resources = resources.model_copy(update=changes)
        return self.spec.model_copy(update={"search": search, "resources_per_trial": resources})

    def run(self, *, until: StageName | None = None) -> dict[str, Any] | None:
        """Execute the plan to its end, or up to the first trial of stage `until`; the report, if there is
        one.

        Raises SearchProblem when the plan fails.
        """
        kept = self._kept_before()
        if isinstance(self._asked(kept.elapsed_seconds), Fail):
            self.records = _without_last_failures(self.records)
        started = time.monotonic() - kept.elapsed_seconds
        while True:
            match self._asked(time.monotonic() - started):
                case Start(proposals):
                    if until is not None and proposals[0].key.stage == until:
                        return None
                    for proposal in proposals:
                        self.records.append(self.trial(proposal))
                        if self.is_kept:
                            kept.write(self._job_file, self.records, time.monotonic() - started)
                case Fail(code, message):
                    raise SearchProblem(message, code=code)
                case Finish(report):
                    return report
                case _:
                    raise RuntimeError("the plan waits for a trial, but none is running")

    def _asked(self, elapsed_seconds: float) -> Action:
        return next_trials(self.planned, self.records, elapsed_seconds=elapsed_seconds, given=self.given)

    def trial(self, proposal: Proposal) -> TrialRecord:
        """Run one trial to its end; a failure of it is recorded, not raised."""
        self.on_start(proposal)
        record = self._ended(proposal)
        if self.is_kept:
            self._trial_state(proposal).forget()
        self.on_end(record)
        return record

    def places(self, proposal: Proposal) -> Places:
        """This trial's directory, and the files of earlier trials that it needs."""
        cache = self.directory / "cache"
        for directory in (self._trial_directory(proposal.key), cache):
            directory.mkdir(parents=True, exist_ok=True)
        student = None
        if proposal.key.stage == StageName.EXPORT:
            student = self._proof_student(proposal)
        return Places(
            trial_directory=self._trial_directory(proposal.key),
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
                return self._trial_directory(record.key) / "teacher.safetensors"
        return None

    def _ended(self, proposal: Proposal) -> TrialRecord:
        begun, state = Begun.now(), None
        record = TrialRecord(proposal.key, TrialState.RUNNING, proposal.parameters)
        try:
            if self.is_kept:
                begun, state = self._trial_state(proposal).read()
            run = self._open(proposal, state)
            written = time.monotonic()
            for report in run.steps():
                if report is not None:
                    self.on_report(proposal.key, report)
                if report is not None and report.is_validation:
                    point = CurvePoint(report.step, report.epoch, report.figures["accuracy"])
                    begun.curve.append(point)
                    record = self._updated(record, begun)
                    stopped = should_stop(self.spec, [*self.records, record], proposal.key)
                    if stopped is not None:
                        return self._updated(record, begun, state=TrialState.STOPPED_EARLY, stopped=stopped)
                if self.is_kept and time.monotonic() - written >= self.state_every_seconds:
                    self._trial_state(proposal).keep(run, begun)
                    written = time.monotonic()
            outcome = run.outcome()
        except (SearchProblem, MemoryError, RuntimeError) as error:
            return self._updated(record, begun, state=TrialState.FAILED, error=_in_words(error))
        return self._updated(record, begun, state=TrialState.COMPLETED, result=outcome.result)

    def _open(self, proposal: Proposal, state: bytes | None) -> TrialRun:
        return open_trial(
            self.spec,
            proposal.key,
            proposal.parameters,
            self.places(proposal),
            threads=self.threads,
            device=self.device,
            state=state,
            max_steps=self.max_steps,
            evaluation_limit=self.evaluation_limit,
        )

    def _kept_before(self) -> JobFile:
        identity = {
            "spec": self.spec.model_dump(mode="json"),
            "given": self._given_identity(),
            "max_steps": self.max_steps,
            "threads": self.threads,
            "device": self.device,
        }
        if not self.is_kept:
            return JobFile(identity=identity)
        kept = JobFile.opened(self._job_file, identity)
        known = {record.key for record in self.records}
        self.records += [record for record in kept.trials() if record.key not in known]
        return kept

    def _given_identity(self) -> dict[str, Any] | None:
        if self.given is None:
            return None
        process = self.given.process.model_dump(mode="json")
        return {"process": process, "search_device_seconds": self.given.search_device_seconds}

    @property
    def _job_file(self) -> Path:
        return self.directory / "job.json"

    def _trial_state(self, proposal: Proposal) -> KeptTrial:
        return KeptTrial(self._trial_directory(proposal.key), proposal)

    def _trial_directory(self, key: TrialKey) -> Path:
        return self.directory / "trials" / str(key)

    def _proof_student(self, proposal: Proposal) -> Path | None:
        """The winning proof run's student; None for a process that was found and not proved."""
        arm, seed = proposal.parameters["arm"], proposal.parameters["seed"]
        for record in self.records:
            if (record.key.stage, record.key.arm, record.key.seed) == (StageName.PROOF, arm, seed):
                return self._trial_directory(record.key) / "student.safetensors"
        return None

    def _updated(self, record: TrialRecord, begun: Begun, **changes: Any) -> TrialRecord:
        seconds = begun.seconds() * devices_per_trial(self.planned)
        now = {"curve": tuple(begun.curve), "device_seconds": seconds}
        return TrialRecord(**{**record.__dict__, **now, **changes})


def _without_last_failures(records: list[TrialRecord]) -> list[TrialRecord]:
    """Without the failed trials of the stage that came last: what made them fail may have been mended.

    Failures of earlier stages stay. Later trials were proposed with them in view.
    """
    order = list(StageName)
    stages = [order.index(record.key.stage) for record in records if record.state is TrialState.FAILED]
    last = max(stages, default=0)
    return [
        record
        for record in records
        if record.state is not TrialState.FAILED or order.index(record.key.stage) < last
    ]


def _in_words(error: Exception) -> TrialError:
    """What a trial failed of. Raises what is neither the user's nor memory's."""
    if isinstance(error, SearchProblem):
        return TrialError(error.code, error.message)
    if ran_out_of_memory(error):
        return TrialError("oom", f"out of memory: {error}; lower training.batch_size")
    raise error
