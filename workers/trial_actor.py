"""A trial inside its actor: a conversation, one message per call. Imports no ray, and torch only late.

Being asked for the next message means that the driver has recorded the one before: so a checkpoint at step c
is written only when SQL holds every report up to c. Whatever goes wrong becomes a message too, so that the
process, which took seconds to import torch, serves the next trial.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from search.problems import NonFiniteFigure, SearchProblem, ran_out_of_memory, require_finite
from search.records import TrialKey
from search.spec import JobSpec
from workers.assignment import Alive, Assignment, Completed, Failed, Message, Reported, Started
from workers.trial_files import Saved, TrialFiles

QUIET_SECONDS = 2.0


class OpenTrial(Protocol):
    """`search.trial.open_trial`, or a small one in a test."""

    def __call__(
        self,
        spec: JobSpec,
        key: TrialKey,
        parameters: dict[str, Any],
        places: Any,
        *,
        threads: int,
        device: str | None,
        state: bytes | None,
    ) -> Any: ...


def converse(
    assignment: Assignment,
    load: Callable[[], OpenTrial],
    *,
    node: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Message]:
    """All messages of one trial, in order: Started, then Reported and Alive, then Completed or Failed.

    `load` imports torch and returns what opens a trial. It is called after the first message, so that the
    actor counts as at work meanwhile; its seconds are the process's, not the trial's. `node`: where it is.
    """
    work = _Work(assignment, clock)
    try:
        saved = work.take_up()
        yield Started(node=node or platform.node(), process_id=os.getpid(), step=work.step)
        open_trial = load()
        work.start_clock()
        yield from work.messages(open_trial, saved)
    except SearchProblem as problem:
        yield work.failed(problem.code, problem.message)
    except Exception as error:
        work.files.log_failure(traceback.format_exc())
        yield work.failed(_code_of(error), f"{type(error).__name__}: {error}")


class _Work:
    """One trial at work, from the newest checkpoint if there is one."""

    def __init__(self, assignment: Assignment, clock: Callable[[], float]) -> None:
        self.assignment = assignment
        self.files = TrialFiles(assignment)
        self._clock = clock
        self.start_clock()
        self._earlier_device_seconds = 0.0
        self.step = 0
        self._unsaved = False

    def start_clock(self) -> None:
        self._started_at = self._saved_at = self._spoke_at = self._clock()

    def take_up(self) -> Saved | None:
        """The checkpoint to go on from; the log ends there."""
        saved = self.files.newest_checkpoint()
        if saved is not None:
            self.step, self._earlier_device_seconds = saved.step, saved.device_seconds
        self.files.open_log(after_step=self.step)
        return saved

    def messages(self, open_trial: OpenTrial, saved: Saved | None) -> Iterator[Message]:
        with _scratch(self.assignment) as scratch:
            trial = open_trial(
                self.assignment.spec,
                self.assignment.key,
                self.assignment.parameters,
                self._places(scratch),
                threads=self.assignment.threads,
                device=None,
                state=saved.state if saved is not None else None,
            )
            yield from self._train(trial)
            yield self._completed(trial)

    def _train(self, trial: Any) -> Iterator[Message]:
        for report in trial.steps():
            self.step += 1
            self._unsaved = True
            if report is not None:
                yield self._reported(report)
            elif self._clock() - self._spoke_at > QUIET_SECONDS:
                yield self._alive()
            if (report is not None and report.is_validation) or self._is_save_due():
                self._save(trial)
        if self._unsaved:
            self._save(trial)

    def _reported(self, report: Any) -> Reported:
        require_finite(report.figures, step=report.step)
        self.step = report.step
        row = Reported(
            step=report.step,
            epoch=report.epoch,
            figures=dict(report.figures),
            is_validation=report.is_validation,
            device_seconds=self.device_seconds,
        )
        self.files.log(row)
        self._spoke_at = self._clock()
        return row

    def _alive(self) -> Alive:
        self._spoke_at = self._clock()
        return Alive(device_seconds=self.device_seconds)

    def _is_save_due(self) -> bool:
        return self._clock() - self._saved_at > self.assignment.checkpoint_seconds

    def _save(self, trial: Any) -> None:
        self.files.save_checkpoint(Saved(self.step, self.device_seconds, trial.state()))
        self._saved_at = self._clock()
        self._unsaved = False

    def _completed(self, trial: Any) -> Completed:
        outcome = trial.outcome()
        _require_json(outcome.result)
        stored = self.files.store(outcome.files)
        return Completed(result=outcome.result, files=stored, device_seconds=self.device_seconds)

    def failed(self, code: str, message: str) -> Failed:
        return Failed(code=code, message=message, device_seconds=self.device_seconds)

    @property
    def device_seconds(self) -> float:
        """Of all attempts: what the checkpoint had cost, and the time since this attempt's start."""
        return self._earlier_device_seconds + (self._clock() - self._started_at) * self.assignment.devices

    def _places(self, scratch: Path) -> Any:
        from search.trial import Places

        fetched = {
            name: self.files.fetch(stored) if stored is not None else None
            for name, stored in (
                ("teacher_file", self.assignment.teacher_file),
                ("student_file", self.assignment.student_file),
            )
        }
        return Places(
            trial_directory=scratch,
            cache_directory=self.assignment.cache_root,
            datasets_file=self.assignment.datasets_file,
            weights_root=self.assignment.weights_root,
            job_id=self.assignment.job_id,
            **fetched,
        )


def _code_of(error: Exception) -> str:
    return "oom" if ran_out_of_memory(error) else "internal"


def _require_json(result: dict[str, Any]) -> None:
    """What is not finite must not reach SQL, where it would become null."""
    try:
        json.dumps(result, allow_nan=False)
    except ValueError as error:
        raise NonFiniteFigure(f"the trial's result holds a figure that is not finite: {error}") from error


@contextmanager
def _scratch(assignment: Assignment) -> Iterator[Path]:
    """A directory on this node for the trial's own files; gone when the trial is over."""
    name = f"{assignment.trial_id}-{assignment.attempt}-{os.getpid()}"
    directory = scratch_of(assignment.cache_root, assignment.job_id) / name
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def scratch_of(cache_root: Path, job_id: str) -> Path:
    """Where the job's trials on this node have their scratch; the driver removes what killed ones left."""
    return cache_root / "scratch" / job_id
