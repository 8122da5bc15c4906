"""Moments of a job: drawn by the clock of an undisturbed run, and found again in a run that is disturbed.

A moment is kept as the stage that the undisturbed run had come to, how many things had happened in it (steps
reported, trials ended), and the rest of the time that had passed since. So five kills at times uniform over
the measured duration hit five places of the job, however long the repeated starts take.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from search.records import StageName
from service.store.states import EventKind
from service.store.tables import Trial, metrics
from tests.end_to_end.installation import Installation, wait_until

ORDER = [None, *(stage.value for stage in StageName)]


@dataclass(frozen=True)
class Moment:
    """So many seconds after so many things have happened in a stage (None: before the first)."""

    stage: str | None
    happened: int
    seconds_after: float


@dataclass(frozen=True)
class Course:
    """An undisturbed run: when stages began and when things happened in them, in seconds since the claim."""

    begins: dict[str | None, float]
    happened: dict[str | None, list[float]]
    duration_seconds: float

    def at(self, seconds: float) -> Moment:
        """The moment that was reached so many seconds after the claim."""
        stage = [stage for stage, begin in self.begins.items() if begin <= seconds][-1]
        before = [moment for moment in self.happened.get(stage, ()) if moment <= seconds]
        return Moment(stage, len(before), seconds - max(before, default=self.begins[stage]))

    def draw(self, count: int, *, seed: int) -> list[Moment]:
        """Moments uniform over the duration, in order."""
        drawn = random.Random(seed)
        return [self.at(one) for one in sorted(drawn.uniform(0, self.duration_seconds) for _ in range(count))]

    def draw_in_stages(self, *, seed: int) -> list[Moment]:
        """A moment in the first half of each stage: near its end a kill may come too late."""
        drawn = random.Random(seed)
        ends = [*list(self.begins.values())[1:], self.duration_seconds]
        spans = [(begin, (begin + end) / 2) for begin, end in zip(self.begins.values(), ends, strict=True)]
        return [self.at(drawn.uniform(*span)) for span in spans[1:]]


def course_of(installation: Installation, job_id: str) -> Course:
    """The course of a job that nothing has disturbed."""
    job = installation.job(job_id)
    assert job.started_at is not None
    assert job.finished_at is not None
    start = job.started_at

    def seconds(moment: datetime) -> float:
        return (moment - start).total_seconds()

    told = [event for event in installation.events(job_id) if event.kind == EventKind.JOB_STAGE]
    happened: dict[str | None, list[float]] = {}
    for trial in installation.trials(job_id):
        assert trial.finished_at is not None
        happened.setdefault(trial.stage, []).append(seconds(trial.finished_at))
    for stage, moment in _reports(installation, job_id):
        happened.setdefault(stage, []).append(seconds(moment))
    return Course(
        begins={None: 0.0, **{event.data["stage"]: seconds(event.created_at) for event in told}},
        happened=happened,
        duration_seconds=seconds(job.finished_at),
    )


def await_moment(installation: Installation, job_id: str, moment: Moment) -> str | None:
    """Wait for the moment in another run of the job; the stage in which it is then. None if it has ended."""

    def reached() -> bool:
        if installation.job(job_id).state.is_final:
            return True
        stage = _stage(installation, job_id)
        if stage == moment.stage:
            return _happened(installation, job_id, stage) >= moment.happened
        return ORDER.index(stage) > ORDER.index(moment.stage)

    wait_until(reached, seconds=240, what=f"{moment} of {job_id}", every_seconds=0.01)
    time.sleep(moment.seconds_after)
    if installation.job(job_id).state.is_final:
        return None
    return _stage(installation, job_id) or "before the first stage"


def _stage(installation: Installation, job_id: str) -> str | None:
    return (installation.job(job_id).progress or {}).get("stage")


def _happened(installation: Installation, job_id: str, stage: str | None) -> int:
    """How many different things have happened in a stage: steps reported, trials ended."""
    here = (Trial.job_id == job_id, Trial.stage == stage)
    ended = select(func.count()).where(*here, Trial.finished_at.is_not(None))
    reported = select(func.count()).select_from(metrics).join(Trial, Trial.id == metrics.c.trial_id)
    with installation.store.session() as session:
        return (session.scalar(ended) or 0) + (session.scalar(reported.where(*here)) or 0)


def _reports(installation: Installation, job_id: str) -> list[tuple[str, datetime]]:
    joined = select(Trial.stage, metrics.c.created_at).join(Trial, Trial.id == metrics.c.trial_id)
    with installation.store.session() as session:
        rows = session.execute(joined.where(Trial.job_id == job_id)).all()
    return [(row.stage, row.created_at) for row in rows]
