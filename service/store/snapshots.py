"""Reading rows as detached snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy.orm import Session
from sqlalchemy.sql import Executable, Select

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """A part of a list; ask for what follows with the last row's id as `after`."""

    rows: list[Row]
    has_more: bool


def one_or_none(session: Session, statement: Executable) -> Any:
    """The only object that the statement returns, or None; detached."""
    found = session.execute(statement).scalars().one_or_none()
    session.expunge_all()
    return found


def every(session: Session, statement: Executable) -> list[Any]:
    """All objects that the statement returns; detached."""
    found: Sequence[Any] = session.execute(statement).scalars().all()
    session.expunge_all()
    return list(found)


def page(session: Session, statement: Select[Any], *, limit: int) -> Page[Any]:
    """The first `limit` objects that the statement returns, and whether there are more."""
    rows = every(session, statement.limit(limit + 1))
    return Page(rows[:limit], has_more=len(rows) > limit)
