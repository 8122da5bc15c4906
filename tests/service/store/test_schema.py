"""Migrations: up, down, the same schema as the tables, one at a time, and no newer one."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from service.store import jobs
from service.store.engine import open_engine, writing
from service.store.errors import SchemaMissing, SchemaTooNew, SchemaTooOld
from service.store.schema import configuration
from service.store.session import check_schema, migrate, open_store
from service.store.tables import Base, metrics


def _names(url: str) -> set[str]:
    with open_engine(url).connect() as connection:
        looked_at = inspect(connection)
        return {*looked_at.get_table_names(), *looked_at.get_view_names()}


def _set_revision(url: str, revision: str) -> None:
    with open_store(url).begin_write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


class TestMigrate:
    def test_makes_all_tables_and_the_view(self, empty_url: str) -> None:
        migrate(empty_url)
        assert _names(empty_url) == {*Base.metadata.tables, "metrics", "alembic_version"}
        check_schema(empty_url)

    def test_gives_the_schema_that_the_tables_describe(self, store_url: str) -> None:
        with open_engine(store_url).connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, Base.metadata) == []

    def test_gives_the_view_its_columns(self, store_url: str) -> None:
        with open_engine(store_url).connect() as connection:
            columns = [column["name"] for column in inspect(connection).get_columns("metrics")]
        assert columns == [column.name for column in metrics.columns]

    def test_again_changes_nothing(self, store_url: str) -> None:
        store = open_store(store_url)
        with store.begin_write() as session:
            job = jobs.insert_queued(session, new=jobs.NewJob(spec={}, requirements=[]))
        migrate(store_url)
        with store.session() as session:
            assert jobs.get(session, job_id=job.id) is not None

    def test_goes_down_and_up_again(self, store_url: str) -> None:
        with writing(open_engine(store_url)).begin() as connection:
            command.downgrade(configuration(connection), "base")
        assert _names(store_url) == {"alembic_version"}
        migrate(store_url)
        check_schema(store_url)

    def test_by_several_at_once_takes_turns(self, empty_url: str) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(migrate, [empty_url] * 4))
        check_schema(empty_url)

    def test_by_several_processes_at_once_takes_turns(self, empty_url: str) -> None:
        program = f"from service.store.session import migrate; migrate({empty_url!r})"
        processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
        check_schema(empty_url)

    def test_that_fails_leaves_nothing(self, empty_url: str) -> None:
        """A table that is in the way stops the migration half-way: it is undone as a whole."""
        with open_store(empty_url).begin_write() as session:
            session.execute(text("CREATE TABLE report (unrelated INTEGER)"))
        with pytest.raises(Exception, match="already exists"):
            migrate(empty_url)
        assert _names(empty_url) == {"report"}


class TestStates:
    def test_unknown_to_the_schema_are_refused(self, store_url: str) -> None:
        store = open_store(store_url)
        with store.begin_write() as session:
            jobs.insert_queued(session, new=jobs.NewJob(spec={}, requirements=[]))
        with pytest.raises(Exception, match="ck_job_state"), store.begin_write() as session:
            session.execute(text("UPDATE job SET state = 'sleeping'"))


class TestCheckSchema:
    def test_says_that_tables_are_missing(self, empty_url: str) -> None:
        with pytest.raises(SchemaMissing, match="python -m service migrate"):
            check_schema(empty_url)

    def test_refuses_a_newer_schema(self, store_url: str) -> None:
        _set_revision(store_url, "9999")
        with pytest.raises(SchemaTooNew, match=r"9999.*Update Limbeck"):
            check_schema(store_url)

    def test_shows_no_password(self, postgres_url: str) -> None:
        _set_revision(postgres_url, "9999")
        with pytest.raises(SchemaTooNew) as caught:
            check_schema(postgres_url.replace("postgres:@", "postgres:hunter2@"))
        assert "hunter2" not in str(caught.value)

    def test_migrate_refuses_it_too_and_changes_nothing(self, store_url: str) -> None:
        _set_revision(store_url, "9999")
        before = _names(store_url)
        with pytest.raises(SchemaTooNew):
            migrate(store_url)
        assert _names(store_url) == before

    def test_says_that_a_schema_is_too_old(self, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is one revision so far: a newer head is pretended."""
        monkeypatch.setattr("alembic.script.ScriptDirectory.get_current_head", lambda scripts: "0002")
        with pytest.raises(SchemaTooOld, match="older schema 0001"):
            check_schema(store_url)
