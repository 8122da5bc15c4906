"""Workers: the processes that carry jobs out, and the catalogues they publish."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from service.store.columns import now, now_plus
from service.store.snapshots import every, one_or_none
from service.store.tables import Worker


def register(session: Session, *, worker_id: str, host: str, pid: int, catalogue: dict[str, Any]) -> Worker:
    """Record a worker process that has started, with its catalogue; `worker_id` is a UUID of this start.

    Registering again changes nothing, so that a commit whose answer was lost may be repeated.
    """
    values = {"id": worker_id, "host": host, "pid": pid, "catalogue": catalogue}
    known: Worker | None = one_or_none(session, select(Worker).where(Worker.id == worker_id))
    if known is not None:
        return known
    worker: Worker = one_or_none(session, insert(Worker).values(**values).returning(Worker))
    return worker


def heartbeat(session: Session, *, worker_id: str) -> bool:
    """Say that the worker is alive; False when it is not registered, or has been marked as stopped."""
    return _set(session, worker_id, heartbeat_at=now())


def publish(session: Session, *, worker_id: str, catalogue: dict[str, Any]) -> bool:
    """Replace the worker's catalogue; False as for `heartbeat`."""
    return _set(session, worker_id, heartbeat_at=now(), catalogue=catalogue)


def stop(session: Session, *, worker_id: str) -> bool:
    """Mark the worker as stopped: its catalogue no longer counts. False when it was already."""
    return _set(session, worker_id, stopped_at=now())


def live(session: Session, *, max_age_seconds: float) -> list[Worker]:
    """Workers that were heard of within so many seconds and have not stopped, oldest first."""
    return every(
        session,
        select(Worker)
        .where(Worker.stopped_at.is_(None), Worker.heartbeat_at > now_plus(-max_age_seconds))
        .order_by(Worker.started_at, Worker.id),
    )


def list_all(session: Session) -> list[Worker]:
    """All workers ever registered, oldest first."""
    return every(session, select(Worker).order_by(Worker.started_at, Worker.id))


def _set(session: Session, worker_id: str, **values: Any) -> bool:
    changed = session.execute(
        update(Worker)
        .where(Worker.id == worker_id, Worker.stopped_at.is_(None))
        .values(**values)
        .returning(Worker.id)
        .execution_options(synchronize_session=False)
    )
    return changed.scalar_one_or_none() is not None
