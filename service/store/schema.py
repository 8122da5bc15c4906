"""The schema's version: bringing a database up to date, and refusing one that is not."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import migrations
from service.store.engine import normalise_url, open_engine, reading, telling_unavailability, writing
from service.store.errors import SchemaMissing, SchemaTooNew, SchemaTooOld

_ADVISORY_LOCK = 0x4C494D42  # "LIMB"


def migrate(url: str, *, revision: str = "head") -> None:
    """Bring the database to the revision, in one transaction; processes that do so at once take turns.

    Raises SchemaTooNew, and changes nothing, when the database is newer than this version of Limbeck;
    StoreUnavailable when it cannot be reached.
    """
    engine = open_engine(url)
    try:
        with telling_unavailability(engine), writing(engine).begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL lock_timeout = 0"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            _refuse_newer(_current(connection), url)
            command.upgrade(configuration(connection), revision)
    finally:
        engine.dispose()


def check_schema(url: str) -> None:
    """Raise SchemaMissing, SchemaTooOld or SchemaTooNew unless the database has this version's schema.

    Raises StoreUnavailable when it cannot be reached.
    """
    engine = open_engine(url)
    try:
        with telling_unavailability(engine), reading(engine).connect() as connection:
            current = _current(connection)
    finally:
        engine.dispose()
    place = normalise_url(url).render_as_string()
    if current is None:
        raise SchemaMissing(f"{place} has no Limbeck tables; run `python -m service migrate`")
    _refuse_newer(current, url)
    if current != _scripts().get_current_head():
        raise SchemaTooOld(f"{place} has the older schema {current}; run `python -m service migrate`")


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration, for the migrations that lie beside this package."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__path__[0])).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(configuration())


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(current: str | None, url: str) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if current is not None and current not in known:
        raise SchemaTooNew(
            f"{normalise_url(url).render_as_string()} has the schema {current}, which this version of "
            "Limbeck does not know: it was migrated by a newer one. Update Limbeck, or restore a backup."
        )
