"""Leases: what a driver must hold to write about its job.

It is held while attempt and token agree, the job is running and time is left by the database's clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from service.store.columns import now
from service.store.errors import LeaseLost
from service.store.states import JobState
from service.store.tables import Job


@dataclass(frozen=True)
class Lease:
    """The right to write about one job, won by `queue.claim`, kept by `queue.heartbeat`."""

    job_id: str
    attempt: int
    token: int


def held(lease: Lease) -> ColumnElement[bool]:
    """The condition on `job` under which the lease is still held."""
    return and_(
        Job.id == lease.job_id,
        Job.attempt == lease.attempt,
        Job.lease_token == lease.token,
        Job.state == JobState.RUNNING,
        Job.lease_expires_at > now(),
    )


def require(session: Session, lease: Lease) -> None:
    """Lock the job's row until the transaction ends; raises LeaseLost when the lease is no longer held.

    Because of the lock nobody can take the job away between this check and the commit of what follows.
    """
    locked = select(Job.id).where(held(lease)).with_for_update(key_share=True)
    if session.scalar(locked) is None:
        raise lost(lease)


def lost(lease: Lease) -> LeaseLost:
    """The error for a lease that is no longer held."""
    return LeaseLost(f"{lease.job_id} is no longer held by attempt {lease.attempt} (token {lease.token})")
