"""Events: what happened to a job, in order."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from service.store import leases
from service.store.leases import Lease
from service.store.snapshots import every
from service.store.states import EventKind, Level
from service.store.tables import Event, Job


def append(
    session: Session,
    *,
    job_id: str,
    kind: EventKind | str,
    message: str,
    level: Level = Level.INFO,
    data: dict[str, Any] | None = None,
) -> int:
    """Add an event to the job and return its sequence number. Drivers use `report`, which is fenced.

    The number comes from a counter in the job's row, whose lock is kept until the commit: events become
    visible in the order of their numbers, and no number is left out.
    """
    sequence = session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(event_sequence=Job.event_sequence + 1)
        .returning(Job.event_sequence)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    session.execute(
        insert(Event).values(
            job_id=job_id,
            sequence=sequence,
            kind=str(kind),
            level=str(level),
            message=message,
            data=data or {},
        )
    )
    return sequence


def report(
    session: Session,
    *,
    lease: Lease,
    kind: EventKind | str,
    message: str,
    level: Level = Level.INFO,
    data: dict[str, Any] | None = None,
) -> int:
    """Add an event to the job whose lease is held, and return its sequence number."""
    leases.require(session, lease)
    return append(session, job_id=lease.job_id, kind=kind, message=message, level=level, data=data)


def page(session: Session, *, job_id: str, after: int = 0, limit: int = 100) -> list[Event]:
    """Up to `limit` events of the job with a sequence number above `after`, in order."""
    return every(
        session,
        select(Event)
        .where(Event.job_id == job_id, Event.sequence > after)
        .order_by(Event.sequence)
        .limit(limit),
    )


def newer(session: Session, *, after: dict[str, int], limit: int = 1000) -> list[Event]:
    """Events of several jobs, each above its own sequence number: for one poller that serves many streams."""
    if not after:
        return []
    wanted = [(Event.job_id == job_id) & (Event.sequence > sequence) for job_id, sequence in after.items()]
    condition = wanted[0]
    for other in wanted[1:]:
        condition = condition | other
    return every(session, select(Event).where(condition).order_by(Event.job_id, Event.sequence).limit(limit))


def last_sequence(session: Session, *, job_id: str) -> int:
    """The number of the job's newest event; 0 when it has none."""
    return (
        session.scalar(select(func.coalesce(func.max(Event.sequence), 0)).where(Event.job_id == job_id)) or 0
    )
