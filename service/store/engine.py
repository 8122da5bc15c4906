"""Engines: how connections to SQLite and PostgreSQL are set up."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.store.errors import StoreUnavailable

BUSY_TIMEOUT_MILLISECONDS = 10_000
# A process that is stopped inside a transaction must not hold its row locks for longer than this.
IDLE_IN_TRANSACTION_MILLISECONDS = 15_000
_OLDEST_SQLITE = (3, 38, 0)  # RETURNING since 3.35; the JSON functions are always built in since 3.38
_WRITES = "limbeck_writes"
_TRANSIENT_SQLITE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_CANTOPEN")


def normalise_url(url: str) -> URL:
    """The URL with the driver Limbeck uses; ValueError for a database it does not support."""
    parsed = make_url(url)
    backend = parsed.drivername.split("+")[0]
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ValueError(f"unsupported database {backend!r}; use sqlite:///FILE or postgresql://...")
    if parsed.database in (None, "", ":memory:"):
        raise ValueError(
            "an SQLite database in memory cannot be shared between processes; use sqlite:///FILE"
        )
    return parsed.set(drivername="sqlite")


def open_engine(url: str) -> Engine:
    """An engine for one of the two supported databases. It may be shared by threads, not across a fork."""
    parsed = normalise_url(url)
    serialise = partial(json.dumps, allow_nan=False, ensure_ascii=False)
    if parsed.drivername == "sqlite":
        return _open_sqlite(parsed, serialise)
    engine = create_engine(
        parsed,
        json_serializer=serialise,
        pool_pre_ping=True,
        pool_size=5,
        max_overflow=15,
        pool_timeout=10,
        connect_args={"connect_timeout": 10},
    )
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def reading(engine: Engine) -> Engine:
    """The same engine and pool, for transactions that only read; a change inside one is an error."""
    return engine.execution_options(postgresql_readonly=True, **{_WRITES: False})


def writing(engine: Engine) -> Engine:
    """The same engine and pool, for transactions that write: on SQLite they take the write lock at once.

    A transaction that first reads and then writes would otherwise fail with `database is locked`, without
    waiting, whenever another one wrote in between.
    """
    return engine.execution_options(**{_WRITES: True})


@contextmanager
def telling_unavailability(engine: Engine) -> Iterator[None]:
    """Turn the errors of a database that is out of reach or too busy into StoreUnavailable."""
    try:
        yield
    except SQLAlchemyError as error:
        if _is_transient(error):
            raise StoreUnavailable(f"{engine.url.render_as_string()}: {error}") from error
        raise


def _is_transient(error: SQLAlchemyError) -> bool:
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    name = getattr(error.orig, "sqlite_errorname", None)
    return isinstance(error, OperationalError) and (name is None or name.startswith(_TRANSIENT_SQLITE))


def _open_sqlite(url: URL, serialise: Any) -> Engine:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise RuntimeError(
            f"SQLite {sqlite3.sqlite_version} is too old, {'.'.join(map(str, _OLDEST_SQLITE))} is needed"
        )
    Path(str(url.database)).expanduser().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, json_serializer=serialise, pool_size=5, max_overflow=15, pool_timeout=10)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # we begin transactions ourselves, see _begin_sqlite
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MILLISECONDS}")
    _switch_to_wal(connection)
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=NORMAL")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # Changing the journal mode does not honour busy_timeout: processes that open a new file at once collide.
    deadline = time.monotonic() + BUSY_TIMEOUT_MILLISECONDS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, True)
    connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MILLISECONDS}")
        cursor.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MILLISECONDS}")
        cursor.execute("SET timezone = 'UTC'")
    connection.commit()
