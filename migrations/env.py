"""Alembic's entry: runs the revisions on the connection that `service.store.schema` hands over.

For `alembic revision --autogenerate` in a checkout there is none; then the settings' database is opened.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from service.settings import Settings
from service.store.engine import open_engine, writing
from service.store.tables import Base


def run(connection: Connection) -> None:
    """Run the revisions inside the caller's transaction (both engines roll back DDL)."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        render_as_batch=True,
        transactional_ddl=True,
    )
    context.run_migrations()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    with writing(open_engine(Settings().database_url)).begin() as opened:
        run(opened)
