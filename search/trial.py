"""A trial: one unit of a job, opened from JSON, run step by step, resumable between any two steps.

`open_trial` is the door that workers and local jobs use. What each stage does is in `search.stages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

import torch

from search.checkpoint import from_bytes
from search.devices import device_for
from search.distill import Report
from search.records import StageName, TrialKey
from search.spec import JobSpec


@dataclass(frozen=True)
class Places:
    """Where a trial reads and writes; all directories exist."""

    trial_directory: Path
    cache_directory: Path
    datasets_file: Path | None = None
    weights_root: Path | None = None
    teacher_file: Path | None = None
    student_file: Path | None = None
    job_id: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: the result for SQL, and files by the name under which they are kept."""

    result: dict[str, Any]
    files: dict[str, Path]


class TrialRun(Protocol):
    """A trial at work."""

    def steps(self) -> Iterator[Report | None]:
        """Yields once per optimiser update; a Report when figures are due."""
        ...

    def state(self) -> bytes:
        """All that is needed to continue from here; callable between two yields and after the last."""
        ...

    def outcome(self) -> Outcome:
        """Once steps() is exhausted: evaluates and writes the files."""
        ...


class Purpose(IntEnum):
    """What a seed is for. Equal seeds of a spec must not give teacher, search and proof the same weights."""

    TEACHER = 0
    SEARCH = 1
    PROOF = 2


@dataclass(frozen=True)
class TrialSetting:
    """What every stage needs to know."""

    spec: JobSpec
    key: TrialKey
    parameters: dict[str, Any]
    places: Places
    threads: int
    device: str
    max_steps: int | None = None
    evaluation_limit: int | None = None


def open_trial(
    spec: JobSpec,
    key: TrialKey,
    parameters: dict[str, Any],
    places: Places,
    *,
    threads: int = 1,
    device: str | None = None,
    state: bytes | None = None,
    max_steps: int | None = None,
    evaluation_limit: int | None = None,
) -> TrialRun:
    """Open a trial, from the beginning or from a state.

    Sets this process's number of torch threads: on the CPU the bits of a result depend on it.
    Raises SearchProblem for what the user can mend.
    """
    from search.stages import export, preflight, student, teacher

    torch.set_num_threads(threads)
    setting = TrialSetting(
        spec, key, parameters, places, threads, device_for(spec, device), max_steps, evaluation_limit
    )
    saved = from_bytes(state) if state is not None else None
    match key.stage:
        case StageName.TEACHER:
            return teacher.TeacherRun(setting, saved)
        case StageName.PREFLIGHT:
            return preflight.PreflightRun(setting)
        case StageName.SEARCH | StageName.TUNING | StageName.PROOF:
            return student.StudentRun(setting, saved)
        case StageName.EXPORT:
            return export.ExportRun(setting)
