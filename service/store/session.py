"""The store and its sessions. Transactions are short and end at the edge: a request, a step of a loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service.store.engine import open_engine, reading, telling_unavailability, writing
from service.store.schema import check_schema, migrate

__all__ = ["Session", "Store", "check_schema", "migrate", "open_store"]


@dataclass(frozen=True)
class Store:
    """One database. May be shared by threads; a session belongs to one thread.

    Sessions raise StoreUnavailable when the database cannot be reached, or is too busy.
    """

    engine: Engine
    _reading: Engine = field(init=False, repr=False)
    _writing: Engine = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_reading", reading(self.engine))
        object.__setattr__(self, "_writing", writing(self.engine))

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction that only reads; a change inside it is an error on both engines."""
        with _transaction(self._reading) as session:
            yield session

    @contextmanager
    def begin_write(self) -> Iterator[Session]:
        """A transaction that may write: committed at the end of the block, rolled back when it raises.

        On SQLite it holds the one write lock from its begin: keep it short, and compute outside.
        """
        with _transaction(self._writing) as session:
            yield session

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


@contextmanager
def _transaction(engine: Engine) -> Iterator[Session]:
    with (
        telling_unavailability(engine),
        Session(engine, autoflush=False, expire_on_commit=False) as session,
        session.begin(),
    ):
        yield session


def open_store(url: str) -> Store:
    """The store behind a database URL; connects on first use. `migrate` makes its tables."""
    return Store(open_engine(url))
