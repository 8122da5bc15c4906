"""Sessions: what may write, and what is never stored."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from service.store import engine, jobs, queue
from service.store.columns import now, now_plus
from service.store.errors import StoreUnavailable
from service.store.session import Store, check_schema, migrate, open_store
from service.store.tables import Job
from tests.service.store.builders import running

NEW = jobs.NewJob(spec={}, requirements=[])


def test_a_reading_session_cannot_write(store: Store) -> None:
    with pytest.raises(DBAPIError), store.session() as session:
        jobs.insert_queued(session, new=NEW)
    with store.session() as session:
        assert jobs.list_page(session).rows == []


def test_a_connection_that_only_read_can_write_afterwards(store: Store) -> None:
    with store.session() as session:
        jobs.list_page(session)
    with store.begin_write() as session:
        job = jobs.insert_queued(session, new=NEW)
    with store.session() as session:
        assert jobs.get(session, job_id=job.id) is not None


def test_a_write_that_raises_leaves_nothing(store: Store) -> None:
    def fail_halfway() -> None:
        with store.begin_write() as session:
            jobs.insert_queued(session, new=NEW)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail_halfway()
    with store.session() as session:
        assert jobs.list_page(session).rows == []


def test_writers_that_read_first_wait_for_each_other(store: Store) -> None:
    """With a plain BEGIN this fails on SQLite with `database is locked`, without waiting."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                with store.begin_write() as session:
                    jobs.count_by_state(session)
                    time.sleep(0.002)
                    jobs.insert_queued(session, new=NEW)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with store.session() as session:
        assert sum(jobs.count_by_state(session).values()) == 40


def test_figures_that_are_not_finite_are_never_stored_as_json(store: Store) -> None:
    with pytest.raises((StatementError, ValueError), match="JSON compliant"), store.begin_write() as session:
        jobs.insert_queued(session, new=jobs.NewJob(spec={"loss": float("nan")}, requirements=[]))


class TestMoments:
    def test_come_back_aware_and_in_utc(self, store: Store) -> None:
        given = datetime(2026, 3, 4, 5, 6, 7, 891_000, tzinfo=timezone(timedelta(hours=5)))
        with store.begin_write() as session:
            job = jobs.insert_queued(session, new=NEW)
            changed = jobs.change(session, job_id=job.id, run_after=given)
        assert changed.run_after == given
        assert changed.run_after.tzinfo is UTC
        assert changed.run_after.hour == 0

    def test_without_a_zone_are_refused(self, store: Store) -> None:
        with pytest.raises(StatementError, match="time zone"), store.begin_write() as session:
            session.scalars(select(Job).where(Job.created_at > datetime(2026, 1, 1))).all()

    @pytest.mark.parametrize("seconds", [-3600.0, -0.25, 0.0, 0.25, 8.0, 86_400.0])
    def test_are_shifted_on_the_databases_clock(self, store: Store, seconds: float) -> None:
        with store.session() as session:
            plain, shifted = session.execute(select(now(), now_plus(seconds))).one()
        assert abs((shifted - plain).total_seconds() - seconds) < 0.01
        assert abs((datetime.now(UTC) - plain).total_seconds()) < 5

    def test_compare_exactly(self, store: Store) -> None:
        with store.session() as session:
            for early, late in [(-0.005, 0.005), (8.0, 8.005), (-86_400.0, -1.0)]:
                assert session.scalar(select(now_plus(early) < now_plus(late)))
                assert not session.scalar(select(now_plus(late) < now_plus(early)))

    def test_go_on_inside_a_transaction(self, store: Store) -> None:
        with store.begin_write() as session:
            first = session.scalar(select(now()))
            time.sleep(0.02)
            second = session.scalar(select(now()))
        assert first is not None
        assert second is not None
        assert second > first


class TestUnavailability:
    def test_of_a_server_that_is_not_there_is_told_by_all_that_connects(self, tmp_path: Path) -> None:
        url = f"postgresql://postgres:hunter2@/postgres?host={tmp_path}"
        store = open_store(url)
        with pytest.raises(StoreUnavailable) as caught, store.session() as session:
            jobs.list_page(session)
        assert "hunter2" not in str(caught.value)
        for connect in (check_schema, migrate):
            with pytest.raises(StoreUnavailable):
                connect(url)

    @pytest.mark.postgres
    def test_of_a_broken_connection_is_over_with_the_next_one(self, postgres_store: Store) -> None:
        with pytest.raises(StoreUnavailable), postgres_store.begin_write() as session:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        with postgres_store.session() as session:
            assert jobs.list_page(session).rows == []

    def test_of_a_busy_database_is_told(self, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "BUSY_TIMEOUT_MILLISECONDS", 50)
        store = open_store(store_url)
        lease = running(store)
        with store.begin_write() as session:
            queue.update_progress(session, lease=lease, progress={})
            with pytest.raises(StoreUnavailable), store.begin_write() as second:
                queue.update_progress(second, lease=lease, progress={})
        store.close()

    def test_is_not_said_of_mistakes(self, store: Store) -> None:
        with pytest.raises(IntegrityError), store.begin_write() as session:
            jobs.insert_queued(session, new=jobs.NewJob(spec={}, requirements=[], parent_id="job_unknown"))


class TestSqlite:
    def test_runs_with_the_pragmas_it_needs(self, sqlite_url: str) -> None:
        with open_store(sqlite_url).session() as session:
            values = {
                name: session.execute(text(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
            }
        assert values == {"journal_mode": "wal", "busy_timeout": 10_000, "foreign_keys": 1, "synchronous": 1}

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
    def test_in_memory_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match="memory"):
            open_store(url)


@pytest.mark.postgres
def test_postgres_ends_a_process_that_sleeps_inside_a_transaction(postgres_url: str) -> None:
    """A stopped process must not keep a job's row locked for ever."""
    store = open_store(postgres_url)
    settings = ("idle_in_transaction_session_timeout", "lock_timeout")
    with store.begin_write() as session:
        limits = [session.scalar(text(f"SELECT current_setting('{name}')")) for name in settings]
        assert limits == ["15s", "10s"]
    with store.begin_write() as session:
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 50"))
        time.sleep(0.3)
        with pytest.raises(DBAPIError, match="idle-in-transaction"):
            session.execute(text("SELECT 1"))
        session.rollback()
    store.close()


def test_other_databases_are_refused() -> None:
    with pytest.raises(ValueError, match="unsupported database 'mysql'"):
        open_store("mysql://root@localhost/limbeck")


def test_plain_postgresql_urls_get_the_driver(postgres_url: str) -> None:
    assert postgres_url.startswith("postgresql://")
    assert open_store(postgres_url).engine.dialect.driver == "psycopg"
