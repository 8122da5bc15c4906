"""Column types and SQL expressions that mean the same on SQLite and PostgreSQL.

SQLite keeps times as text of fixed width (`2026-01-31T12:00:00.000Z`), so that comparing text compares times.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Boolean, DateTime, Dialect, Float, String, Text, literal
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

_SQLITE_FORMAT = "%Y-%m-%dT%H:%M:%fZ"


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, aware and in UTC on the Python side; milliseconds on SQLite, microseconds on PostgreSQL."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return String(24) if dialect.name == "sqlite" else DateTime(timezone=True)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a moment needs a time zone, {value!r} has none")
        moment = value.astimezone(UTC)
        if dialect.name == "sqlite":
            return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
        return moment

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.astimezone(UTC)


class now(FunctionElement[datetime]):  # noqa: N801  (used like an SQL function)
    """The database's clock, at this moment and not at the transaction's begin."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: SQLCompiler, **keywords: Any) -> str:
    return "clock_timestamp()"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **keywords: Any) -> str:
    return f"strftime('{_SQLITE_FORMAT}', 'now')"


class _ShiftedNow(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True


@compiles(_ShiftedNow, "postgresql")
def _shifted_postgresql(element: _ShiftedNow, compiler: SQLCompiler, **keywords: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **keywords)}))"


@compiles(_ShiftedNow, "sqlite")
def _shifted_sqlite(element: _ShiftedNow, compiler: SQLCompiler, **keywords: Any) -> str:
    seconds = compiler.process(element.clauses, **keywords)
    return f"strftime('{_SQLITE_FORMAT}', 'now', printf('%+.3f seconds', {seconds}))"


def now_plus(seconds: float) -> ColumnElement[datetime]:
    """The database's clock so many seconds from now; negative is the past."""
    return _ShiftedNow(literal(float(seconds), Float(53)))


class _ArrayWithin(FunctionElement[bool]):
    type = Boolean()
    inherit_cache = True


@compiles(_ArrayWithin, "postgresql")
def _within_postgresql(element: _ArrayWithin, compiler: SQLCompiler, **keywords: Any) -> str:
    inner, outer = (compiler.process(clause, **keywords) for clause in element.clauses)
    return f"({inner} <@ CAST({outer} AS JSONB))"


@compiles(_ArrayWithin, "sqlite")
def _within_sqlite(element: _ArrayWithin, compiler: SQLCompiler, **keywords: Any) -> str:
    inner, outer = (compiler.process(clause, **keywords) for clause in element.clauses)
    wanted, offered = f"json_each({inner}) AS wanted", f"json_each({outer}) AS offered"
    return (
        f"NOT EXISTS (SELECT 1 FROM {wanted} WHERE wanted.value NOT IN (SELECT offered.value FROM {offered}))"
    )


def array_within(column: Any, names: Collection[str]) -> ColumnElement[bool]:
    """Whether every string of the JSON array in the column is among the names."""
    return _ArrayWithin(column, literal(json.dumps(sorted(names)), Text))


class _ObjectHas(FunctionElement[bool]):
    type = Boolean()
    inherit_cache = True


@compiles(_ObjectHas, "postgresql")
def _has_postgresql(element: _ObjectHas, compiler: SQLCompiler, **keywords: Any) -> str:
    column, key, value = (compiler.process(clause, **keywords) for clause in element.clauses)
    return f"({column} ->> {key} = {value})"


@compiles(_ObjectHas, "sqlite")
def _has_sqlite(element: _ObjectHas, compiler: SQLCompiler, **keywords: Any) -> str:
    column, key, value = (compiler.process(clause, **keywords) for clause in element.clauses)
    return (
        f"EXISTS (SELECT 1 FROM json_each({column}) AS pair WHERE pair.key = {key} AND pair.value = {value})"
    )


def object_has(column: Any, key: str, value: str) -> ColumnElement[bool]:
    """Whether the JSON object in the column maps the key to the string."""
    return _ObjectHas(column, literal(key, Text), literal(value, Text))
