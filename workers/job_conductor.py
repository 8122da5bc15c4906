"""A job at work: the plan decides, the executor runs, every step is recorded before the next one is taken.

Imports neither torch nor ray. What it remembers is what it has read from SQL, or has committed to it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from search.plan import next_trials, should_stop
from search.records import (
    Action,
    CurvePoint,
    Fail,
    Finish,
    StageName,
    Start,
    TrialError,
    TrialState,
    Wait,
)
from search.spec import Resources
from service.settings import Settings
from workers.assignment import Assignment, Completed, Failed, Message, Reported, Started
from workers.conductor import Answer, Death
from workers.job_memory import JobMemory, KnownTrial
from workers.recording import RecordedJob, RecordedTrial, Recorder
from workers.trial_files import remove_checkpoints

MOST_DEATHS = 3
MOST_DEATHS_OUT_OF_MEMORY = 2
PROGRESS_SECONDS = 1.0
PROGRESS_EVENT_SECONDS = 5.0

log = structlog.get_logger(__name__)


class JobConductor:
    """Executes the plan of one job; see `workers.conductor.Conductor`."""

    def __init__(self, recorder: Recorder, job: RecordedJob, settings: Settings) -> None:
        self._recorder, self._settings = recorder, settings
        self._spec, self._dry_run, self._stage = job.spec, job.dry_run, job.stage
        self._memory = JobMemory(job)
        self._waiting = deque(self._memory.unfinished())
        self._cancelled = threading.Event()
        self._end: Fail | Finish | None = None
        self._is_settled = False
        self._told_at = self._announced_at = -PROGRESS_EVENT_SECONDS

    def cancel(self) -> None:
        """Ask for the end; may be called from another thread."""
        self._cancelled.set()

    @property
    def resources(self) -> Resources:
        """What every trial needs."""
        return self._spec.resources_per_trial

    @property
    def concurrent_trials(self) -> int:
        """How many trials are at work at once."""
        return self._spec.search.concurrent_trials

    @property
    def is_halted(self) -> bool:
        """See `Conductor.is_halted`."""
        return self._cancelled.is_set() or isinstance(self._end, Fail)

    @property
    def may_prepare(self) -> bool:
        """See `Conductor.may_prepare`: in a cluster that others use, too, not while a teacher is trained."""
        return self._settings.ray_address is None or self._stage is not StageName.TEACHER

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to run: true at the start if only the job's end was not recorded."""
        if self._end is None and not self._waiting:
            self._ask_plan()
        return self._end is not None

    def next_assignment(self) -> Assignment | Answer:
        """See `Conductor.next_assignment`."""
        if not self._waiting and self._end is None:
            self._ask_plan()
        if self._waiting:
            return self._assign(self._waiting.popleft())
        return Answer.DONE if self._end is not None else Answer.WAIT

    def heard(self, trial_id: str, message: Message) -> bool:
        """See `Conductor.heard`."""
        trial = self._memory[trial_id]
        match message:
            case Started():
                self._started(trial, message)
            case Reported():
                return self._reported(trial, message)
            case Completed():
                self._completed(trial, message)
            case Failed():
                self._failed(trial, TrialError(message.code, message.message), message.device_seconds)
        return False

    def lost(self, trial_id: str, death: Death) -> None:
        """See `Conductor.lost`: the trial goes on from its checkpoint, but not again and again."""
        trial = self._memory[trial_id]
        trial.deaths += 1
        log.warning("trial_process_died", trial_id=trial_id, deaths=trial.deaths, error=death.message)
        most = MOST_DEATHS_OUT_OF_MEMORY if death.out_of_memory else MOST_DEATHS
        if trial.deaths < most:
            self._waiting.appendleft(trial)
            return
        code = "oom" if death.out_of_memory else "worker_died"
        message = f"the trial's process died {trial.deaths} times; the last time: {death.message}"
        self._failed(trial, TrialError(code, message), trial.record.device_seconds)

    def interrupted(self, trial_id: str) -> None:
        """See `Conductor.interrupted`."""
        self._waiting.appendleft(self._memory[trial_id])

    def refuse(self, code: str, message: str) -> None:
        """End the job because what it needs is not there."""
        if self._stage is None:
            self._come_to(StageName.PREFLIGHT)
        self._end = Fail(code, message)

    def conclude(self) -> None:
        """Record how the job has ended. Raises RuntimeError if it has not."""
        match self._end:
            case Fail(code, message):
                self._recorder.fail(TrialError(code, message))
            case Finish(report):
                recipe = self._memory.recipe() if report is not None else None
                self._recorder.succeed(message=_sentence(report), report=report, recipe=recipe)
            case _ if self._cancelled.is_set():
                self._recorder.cancel()
            case _:
                raise RuntimeError("the executor has ended before the job")
        for trial in self._memory.unfinished():
            self._remove_checkpoints(trial)

    def _ask_plan(self) -> None:
        """Ask again only when a trial has ended since: while one runs the answer stays the same."""
        if self._is_settled:
            return
        self._is_settled = True
        elapsed_seconds = self._recorder.elapsed_seconds()
        action: Action = next_trials(
            self._spec, self._memory.records(), dry_run=self._dry_run, elapsed_seconds=elapsed_seconds
        )
        match action:
            case Start(proposals):
                self._take_in(self._recorder.propose(proposals))
            case Wait():
                if all(record.state.is_final for record in self._memory.records()):
                    raise RuntimeError("the plan waits for a trial, but none is unfinished")
            case Fail() | Finish():
                self._end = action

    def _take_in(self, proposed: list[RecordedTrial]) -> None:
        for new in proposed:
            self._waiting.append(self._memory.add(new))
        self._is_settled = False

    def _assign(self, trial: KnownTrial) -> Assignment:
        key, settings = trial.record.key, self._settings
        self._come_to(key.stage)
        return Assignment(
            job_id=self._recorder.lease.job_id,
            trial_id=trial.id,
            attempt=self._recorder.lease.attempt,
            stage=key.stage,
            arm=key.arm,
            seed=key.seed,
            index=key.index,
            parameters=trial.record.parameters,
            spec=self._spec,
            artifact_root=_absolute(settings.artifact_root),
            cache_root=settings.cache_root.absolute(),
            datasets_file=settings.datasets_file.absolute(),
            weights_root=settings.weights_root.absolute(),
            teacher_file=self._memory.teacher_file(),
            student_file=self._memory.student_file(trial),
            checkpoint_seconds=settings.checkpoint_seconds,
        )

    def _started(self, trial: KnownTrial, message: Started) -> None:
        self._recorder.started(trial.id, node=message.node)
        log.info("trial_started", trial_id=trial.id, key=str(trial.record.key), step=message.step)
        trial.step = message.step
        # What an earlier attempt reported beyond its last checkpoint is about to be reported again.
        kept = tuple(point for point in trial.record.curve if point.step <= message.step)
        trial.record = replace(trial.record, state=TrialState.RUNNING, curve=kept)
        self._tell_progress()

    def _reported(self, trial: KnownTrial, report: Reported) -> bool:
        self._recorder.report(trial.id, report)
        trial.step = report.step
        trial.record = replace(trial.record, device_seconds=report.device_seconds)
        self._tell_progress(at_leisure=True)
        if not report.is_validation or "accuracy" not in report.figures:
            return False
        point = CurvePoint(report.step, report.epoch, report.figures["accuracy"])
        trial.record = replace(trial.record, curve=(*trial.record.curve, point))
        stopped = should_stop(self._spec, self._memory.records(), trial.record.key)
        if stopped is None:
            return False
        self._recorder.stopped_early(
            trial.id, stopped, step=report.step, device_seconds=report.device_seconds
        )
        self._ended(trial, state=TrialState.STOPPED_EARLY, stopped=stopped)
        return True

    def _completed(self, trial: KnownTrial, outcome: Completed) -> None:
        is_preflight = trial.record.key.stage is StageName.PREFLIGHT
        self._recorder.completed(trial.id, outcome, is_preflight=is_preflight)
        trial.files = tuple(outcome.files)
        self._ended(
            trial,
            state=TrialState.COMPLETED,
            result=outcome.result,
            device_seconds=outcome.device_seconds,
        )

    def _failed(self, trial: KnownTrial, error: TrialError, device_seconds: float) -> None:
        self._recorder.failed(trial.id, error, device_seconds=device_seconds)
        self._ended(trial, state=TrialState.FAILED, error=error, device_seconds=device_seconds)

    def _ended(self, trial: KnownTrial, **changes: Any) -> None:
        trial.record = replace(trial.record, **changes)
        self._is_settled = False
        log.info("trial_ended", trial_id=trial.id, key=str(trial.record.key), state=trial.record.state)
        self._remove_checkpoints(trial)
        self._tell_progress()

    def _remove_checkpoints(self, trial: KnownTrial) -> None:
        """A trial that has ended is never continued. What cannot be removed only takes room."""
        try:
            remove_checkpoints(self._settings.artifact_root, self._recorder.lease.job_id, trial.id)
        except OSError as error:
            log.warning("checkpoints_not_removed", trial_id=trial.id, error=str(error))

    def _come_to(self, stage: StageName) -> None:
        if stage is not self._stage:
            self._stage = stage
            self._recorder.stage_begins(stage, progress=self._memory.progress(stage))

    def _tell_progress(self, *, at_leisure: bool = False) -> None:
        """Bring the job's progress up to date; reports do it once a second at most."""
        now = time.monotonic()
        if at_leisure and now < self._told_at + PROGRESS_SECONDS:
            return
        tell = now >= self._announced_at + PROGRESS_EVENT_SECONDS
        self._recorder.progress(self._memory.progress(self._stage), tell=tell)
        self._told_at, self._announced_at = now, now if tell else self._announced_at


def _sentence(report: dict[str, Any] | None) -> str:
    """The verdict in words."""
    return "preflight has found nothing wrong" if report is None else str(report["verdict"]["sentence"])


def _absolute(place: str) -> str:
    """An actor may have another working directory. URLs stay as they are."""
    return place if "://" in place else str(Path(place).absolute())
