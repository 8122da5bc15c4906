"""Idempotency keys: a request that is sent twice acts once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.store.columns import now, now_plus
from service.store.snapshots import one_or_none
from service.store.tables import IdempotencyKey


@dataclass(frozen=True)
class Request:
    """What identifies a request: the client's key, who sent it, and the route (method and path)."""

    key: str
    principal: str
    route: str


def reserve(
    session: Session, *, request: Request, body_sha256: str, stale_after_seconds: float = 60.0
) -> IdempotencyKey | None:
    """Record the request as in flight and return None: the caller shall act, then call `complete`.

    If it is there already, its row is returned and nothing is changed; the caller compares the body and
    replays the response (`status` None: still in flight). One that has been in flight for longer than
    `stale_after_seconds` was left behind by a crash, and is taken over.
    """
    connection = session.connection()
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = {**vars(request), "body_sha256": body_sha256}
    added = connection.execute(
        dialect.insert(IdempotencyKey.__table__)
        .values(**values)
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.__table__.c.key)
    ).scalar_one_or_none()
    if added is not None or _take_over(session, request, body_sha256, stale_after_seconds):
        return None
    return get(session, request=request)


def complete(session: Session, *, request: Request, status: int, response: dict[str, Any] | None) -> None:
    """Record the response of a request in flight, for replays."""
    session.execute(
        update(IdempotencyKey)
        .where(_is(request), IdempotencyKey.status.is_(None))
        .values(status=status, response=response)
        .execution_options(synchronize_session=False)
    )


def forget(session: Session, *, request: Request) -> None:
    """Delete a request in flight that failed, so that it may be sent again."""
    session.execute(delete(IdempotencyKey).where(_is(request), IdempotencyKey.status.is_(None)))


def get(session: Session, *, request: Request) -> IdempotencyKey | None:
    """The request's row, or None."""
    row: IdempotencyKey | None = one_or_none(session, select(IdempotencyKey).where(_is(request)))
    return row


def purge(session: Session, *, older_than_seconds: float) -> int:
    """Delete requests older than so many seconds; returns how many."""
    gone = session.execute(
        delete(IdempotencyKey)
        .where(IdempotencyKey.created_at < now_plus(-older_than_seconds))
        .returning(IdempotencyKey.key)
    )
    return len(gone.all())


def _is(request: Request) -> Any:
    return and_(
        IdempotencyKey.key == request.key,
        IdempotencyKey.principal == request.principal,
        IdempotencyKey.route == request.route,
    )


def _take_over(session: Session, request: Request, body_sha256: str, stale_after_seconds: float) -> bool:
    taken = session.execute(
        update(IdempotencyKey)
        .where(
            _is(request),
            IdempotencyKey.status.is_(None),
            IdempotencyKey.body_sha256 == body_sha256,
            IdempotencyKey.created_at < now_plus(-stale_after_seconds),
        )
        .values(created_at=now())
        .returning(IdempotencyKey.key)
        .execution_options(synchronize_session=False)
    )
    return taken.scalar_one_or_none() is not None
