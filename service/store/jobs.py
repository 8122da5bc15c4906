"""Jobs as users see them: submitted, listed, cancelled. The workers' side is `service.store.queue`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from service.store import events, trials
from service.store.columns import now, object_has
from service.store.ids import Prefix, new_id
from service.store.snapshots import Page, one_or_none, page
from service.store.states import EventKind, JobState, Level, Reason
from service.store.tables import Job

_END_EVENTS = {
    JobState.SUCCEEDED: (EventKind.JOB_SUCCEEDED, Level.INFO),
    JobState.FAILED: (EventKind.JOB_FAILED, Level.ERROR),
    JobState.CANCELLED: (EventKind.JOB_CANCELLED, Level.INFO),
}


@dataclass(frozen=True)
class NewJob:
    """A job to be queued. `requirements` (such as `dataset:digits`) must all be among a worker's offers."""

    spec: dict[str, Any]
    requirements: list[str]
    name: str | None = None
    dry_run: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    parent_id: str | None = None
    api_key_id: str | None = None


class CancelOutcome(StrEnum):
    """What a request to cancel did."""

    CANCELLED = "cancelled"  # the job was queued or paused and has ended
    REQUESTED = "requested"  # the job is running; its driver will be told
    REQUESTED_BEFORE = "requested_before"  # as above, by an earlier request
    ENDED_BEFORE = "ended_before"  # the job had ended; nothing was changed


@dataclass(frozen=True)
class Cancellation:
    """A request to cancel: the job after it, and what it did."""

    job: Job
    outcome: CancelOutcome


def insert_queued(session: Session, *, new: NewJob) -> Job:
    """Put a new job into the queue."""
    values = {name: value for name, value in vars(new).items() if name != "metadata"}
    job: Job = one_or_none(
        session,
        insert(Job)
        .values(id=new_id(Prefix.JOB), state=JobState.QUEUED, metadata_=new.metadata, **values)
        .returning(Job),
    )
    events.append(session, job_id=job.id, kind=EventKind.JOB_QUEUED, message="Queued")
    return job


def get(session: Session, *, job_id: str) -> Job | None:
    """The job, or None."""
    job: Job | None = one_or_none(session, select(Job).where(Job.id == job_id))
    return job


def list_page(
    session: Session,
    *,
    states: Collection[JobState] | None = None,
    labels: Mapping[str, str] | None = None,
    cancel_requested: bool | None = None,
    after: str | None = None,
    limit: int = 20,
) -> Page[Job]:
    """Jobs in one of the states that bear all the labels, newest first; `after` is the last id seen."""
    statement = select(Job).order_by(Job.id.desc())
    if states is not None:
        statement = statement.where(Job.state.in_(states))
    for key, value in (labels or {}).items():
        statement = statement.where(object_has(Job.labels, key, value))
    if cancel_requested is not None:
        requested = Job.cancel_requested_at.is_not(None)
        statement = statement.where(requested if cancel_requested else ~requested)
    if after is not None:
        statement = statement.where(Job.id < after)
    return page(session, statement, limit=limit)


def request_cancel(session: Session, *, job_id: str) -> Cancellation | None:
    """Cancel a queued or paused job at once, ask for the end of a running one; None without such a job."""
    job: Job | None = one_or_none(
        session, select(Job).where(Job.id == job_id).with_for_update(key_share=True)
    )
    if job is None:
        return None
    if job.state.is_final:
        return Cancellation(job, CancelOutcome.ENDED_BEFORE)
    if job.state is not JobState.RUNNING:
        ended = end(session, job_id=job_id, state=JobState.CANCELLED, reason=Reason.CANCELLED, message=None)
        return Cancellation(ended, CancelOutcome.CANCELLED)
    if job.cancel_requested_at is not None:
        return Cancellation(job, CancelOutcome.REQUESTED_BEFORE)
    requested = change(session, job_id=job_id, cancel_requested_at=now())
    events.append(
        session, job_id=job_id, kind=EventKind.JOB_CANCEL_REQUESTED, message="Cancellation requested"
    )
    return Cancellation(requested, CancelOutcome.REQUESTED)


def count_by_state(session: Session) -> dict[JobState, int]:
    """How many jobs are in each state; states without a job are left out."""
    rows = session.execute(select(Job.state, func.count()).group_by(Job.state)).all()
    return {JobState(state): count for state, count in rows}


def oldest_queued_seconds(session: Session) -> float | None:
    """Seconds for which the longest waiting job has been due; 0 while all are in back-off, None without."""
    row = session.execute(
        select(Job.run_after, select(now()).scalar_subquery().label("present"))
        .where(Job.state == JobState.QUEUED)
        .order_by(Job.run_after)
        .limit(1)
    ).one_or_none()
    return None if row is None else max(0.0, (row.present - row.run_after).total_seconds())


def elapsed_seconds(session: Session, *, job_id: str) -> float:
    """Seconds since the job was first claimed, by the database's clock; 0 before."""
    row = session.execute(
        select(Job.started_at, select(now()).scalar_subquery().label("present")).where(Job.id == job_id)
    ).one_or_none()
    return (
        0.0
        if row is None or row.started_at is None
        else float((row.present - row.started_at).total_seconds())
    )


def change(session: Session, *, job_id: str, **values: Any) -> Job:
    """Set columns of a job whose row the caller has locked. For the store's own functions only."""
    job: Job = one_or_none(
        session,
        update(Job)
        .where(Job.id == job_id)
        .values(**values)
        .returning(Job)
        .execution_options(synchronize_session=False),
    )
    return job


def end(
    session: Session, *, job_id: str, state: JobState, reason: str, message: str | None, **values: Any
) -> Job:
    """End a job whose row the caller has locked: its unfinished trials are cancelled. For the store only."""
    job = change(
        session,
        job_id=job_id,
        state=state,
        status_reason=str(reason),
        status_message=message,
        finished_at=now(),
        lease_owner=None,
        lease_expires_at=None,
        **values,
    )
    trials.cancel_unfinished(session, job_id=job_id)
    kind, level = _END_EVENTS[state]
    text = message or f"{state.capitalize()} ({reason})"
    events.append(session, job_id=job_id, kind=kind, level=level, message=text, data={"reason": str(reason)})
    return job
