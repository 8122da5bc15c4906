"""The queue: how jobs are claimed, kept, given back and finished. All times are the database's clock."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.settings import Settings
from service.store import events, jobs, leases, trials
from service.store.columns import array_within, now, now_plus
from service.store.leases import Lease
from service.store.snapshots import every, one_or_none
from service.store.states import EventKind, JobState, Level, Reason
from service.store.tables import Job

_REQUEUED = {
    Reason.LEASE_LOST: (
        EventKind.JOB_LEASE_LOST,
        Level.WARNING,
        "The worker was silent for longer than its lease",
    ),
    Reason.DRIVER_LOST: (EventKind.JOB_DRIVER_LOST, Level.WARNING, "The driver process died"),
    Reason.WORKER_STOPPED: (EventKind.JOB_RELEASED, Level.INFO, "The worker was stopped"),
}


@dataclass(frozen=True)
class Claimed:
    """A job that was claimed, and the lease to write about it."""

    job: Job
    lease: Lease


@dataclass(frozen=True)
class Renewal:
    """What a heartbeat brought back."""

    cancel_requested: bool


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how soon a job that was lost is tried again."""

    max_fruitless_attempts: int = 5
    backoff_seconds: float = 1.0
    max_backoff_seconds: float = 60.0

    @classmethod
    def from_settings(cls, settings: Settings) -> RetryPolicy:
        """The policy that the settings ask for."""
        return cls(settings.max_fruitless_attempts, settings.backoff_seconds, settings.max_backoff_seconds)

    def wait_seconds(self, fruitless_attempts: int) -> float:
        """Seconds until the next attempt, doubled by every fruitless attempt after the first."""
        doublings = min(max(fruitless_attempts - 1, 0), 62)
        return float(min(self.backoff_seconds * 2**doublings, self.max_backoff_seconds))


def claim(session: Session, *, owner: str, lease_seconds: float, offers: Collection[str]) -> Claimed | None:
    """Set the oldest queued job that is due and that the offers suffice for `running`, under a new lease.

    `owner` is the worker's id. Adds 1 to attempt, lease token and fruitless attempts (progress sets the last
    to zero again). None when there is no such job. Two claims never get the same job.
    """
    candidate = (
        select(Job.id)
        .where(
            Job.state == JobState.QUEUED,
            Job.run_after <= now(),
            Job.cancel_requested_at.is_(None),
            array_within(Job.requirements, offers),
        )
        .order_by(Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
        .scalar_subquery()
    )
    job: Job | None = one_or_none(
        session,
        update(Job)
        .where(Job.id == candidate, Job.state == JobState.QUEUED)
        .values(
            state=JobState.RUNNING,
            status_reason=None,
            status_message=None,
            attempt=Job.attempt + 1,
            fruitless_attempts=Job.fruitless_attempts + 1,
            lease_owner=owner,
            lease_token=Job.lease_token + 1,
            lease_expires_at=now_plus(lease_seconds),
            heartbeat_at=now(),
            started_at=func.coalesce(Job.started_at, now()),
        )
        .returning(Job)
        .execution_options(synchronize_session=False),
    )
    if job is None:
        return None
    events.append(
        session,
        job_id=job.id,
        kind=EventKind.JOB_CLAIMED,
        message=f"Attempt {job.attempt} begins",
        data={"attempt": job.attempt, "worker_id": owner},
    )
    return Claimed(job, Lease(job.id, job.attempt, job.lease_token))


def heartbeat(session: Session, *, lease: Lease, lease_seconds: float) -> Renewal:
    """Extend a lease that is still held to so many seconds from now. One that has run out stays lost."""
    renewed = session.execute(
        update(Job)
        .where(leases.held(lease))
        .values(lease_expires_at=now_plus(lease_seconds), heartbeat_at=now(), updated_at=Job.updated_at)
        .returning(Job.id, Job.cancel_requested_at)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if renewed is None:
        raise leases.lost(lease)
    return Renewal(cancel_requested=renewed.cancel_requested_at is not None)


def is_cancel_requested(session: Session, *, lease: Lease) -> bool:
    """Whether the job's end was asked for while this lease is held; False says nothing of the lease."""
    asked = select(Job.id).where(leases.held(lease), Job.cancel_requested_at.is_not(None))
    return session.scalar(asked) is not None


def has_finished(session: Session, *, lease: Lease) -> bool:
    """Whether the job ended under this lease, and not by losing it."""
    ended = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
    same = (Job.id == lease.job_id, Job.attempt == lease.attempt, Job.lease_token == lease.token)
    return session.scalar(select(Job.id).where(*same, Job.state.in_(ended))) is not None


def update_progress(session: Session, *, lease: Lease, progress: dict[str, Any]) -> None:
    """Replace the job's progress (stage, trials_done, trials_total, running, message)."""
    leases.require(session, lease)
    jobs.change(session, job_id=lease.job_id, progress=progress)


def record_preflight(session: Session, *, lease: Lease, preflight: dict[str, Any]) -> None:
    """Store what preflight found."""
    leases.require(session, lease)
    jobs.change(session, job_id=lease.job_id, preflight=preflight)


def release(
    session: Session, *, lease: Lease, reason: Reason, policy: RetryPolicy, detail: str | None = None
) -> Job:
    """Give a job back before its end: `queued` again; or `cancelled` when that was asked for; or `failed`,
    `worker_lost`, when too many attempts in a row made no progress. A stopped worker's attempt counts not.
    `detail` says more about the reason, to be read by people.
    """
    leases.require(session, lease)
    job = jobs.get(session, job_id=lease.job_id)
    assert job is not None
    return _end_attempt(session, job, reason=reason, policy=policy, detail=detail)


def expire_leases(session: Session, *, policy: RetryPolicy) -> list[Job]:
    """Take back all running jobs whose lease has run out, as `release` does with `lease_lost`."""
    expired = (
        select(Job)
        .where(Job.state == JobState.RUNNING, Job.lease_expires_at <= now())
        .order_by(Job.id)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return [
        _end_attempt(session, job, reason=Reason.LEASE_LOST, policy=policy) for job in every(session, expired)
    ]


def finish(
    session: Session,
    *,
    lease: Lease,
    state: JobState | str,
    reason: str,
    message: str | None = None,
    report: dict[str, Any] | None = None,
    recipe_id: str | None = None,
) -> Job:
    """End the job with the code that says why; its unfinished trials are cancelled."""
    leases.require(session, lease)
    ending = JobState(state)
    if not ending.is_final:
        raise ValueError(f"a job cannot end as {ending}")
    results = {
        name: value for name, value in (("report", report), ("recipe_id", recipe_id)) if value is not None
    }
    return jobs.end(session, job_id=lease.job_id, state=ending, reason=reason, message=message, **results)


def _end_attempt(
    session: Session, job: Job, *, reason: Reason, policy: RetryPolicy, detail: str | None = None
) -> Job:
    # An end gets a new token: the former holder can tell that it was not its own doing.
    token = job.lease_token + 1
    if job.cancel_requested_at is not None:
        return jobs.end(
            session,
            job_id=job.id,
            state=JobState.CANCELLED,
            reason=Reason.CANCELLED,
            message=None,
            lease_token=token,
        )
    kind, level, cause = _REQUEUED[reason]
    cause = f"{cause} ({detail})" if detail else cause
    stopped = reason is Reason.WORKER_STOPPED
    if not stopped and job.fruitless_attempts >= policy.max_fruitless_attempts:
        message = f"{job.fruitless_attempts} attempts in a row made no progress; the last: {cause}"
        events.append(session, job_id=job.id, kind=kind, level=level, message=cause, data=_facts(job))
        return jobs.end(
            session,
            job_id=job.id,
            state=JobState.FAILED,
            reason=Reason.WORKER_LOST,
            message=message,
            lease_token=token,
        )
    fruitless = max(job.fruitless_attempts - 1, 0) if stopped else job.fruitless_attempts
    wait = 0.0 if stopped else policy.wait_seconds(fruitless)
    queued = jobs.change(
        session,
        job_id=job.id,
        state=JobState.QUEUED,
        status_reason=str(reason),
        status_message=cause,
        fruitless_attempts=fruitless,
        run_after=now_plus(wait),
        lease_owner=None,
        lease_expires_at=None,
    )
    trials.interrupt_running(session, job_id=job.id)
    data = {**_facts(job), "wait_seconds": wait}
    events.append(session, job_id=job.id, kind=kind, level=level, message=f"{cause}; queued again", data=data)
    return queued


def _facts(job: Job) -> dict[str, Any]:
    return {"attempt": job.attempt, "fruitless_attempts": job.fruitless_attempts}
