"""Real worker processes that are stopped, killed and cut off: no job runs twice at once or is forgotten."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import func, select

from service.store import events, jobs, queue, trials, workers
from service.store.session import Store, migrate, open_store
from service.store.states import JobState, TrialState
from service.store.tables import Event, Job, Report
from tests.postgres import Cluster, fresh_database
from tests.service.store.builders import OFFERS, POLICY, queued, read

ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 2.4
SETTINGS: dict[str, Any] = {
    "lease_seconds": LEASE_SECONDS,
    "heartbeat_seconds": 0.4,
    "poll_seconds": 0.1,
    "backoff_seconds": 0.1,
    "cancel_grace_seconds": 0.5,
    "stop_grace_seconds": 1.0,
}


@contextmanager
def worker(
    url: str, *driver_options: str, in_threads: bool = False, **settings: Any
) -> Iterator[psutil.Process]:
    """A worker process; what is left of it and of its drivers afterwards is killed."""
    options = ["--in-threads"] if in_threads else ["--", *driver_options]
    command = [
        sys.executable,
        "-m",
        "tests.workers.worker_program",
        url,
        json.dumps({**SETTINGS, **settings}),
    ]
    process = subprocess.Popen([*command, *options], cwd=ROOT)
    handle = psutil.Process(process.pid)
    try:
        yield handle
    finally:
        family = handle.children(recursive=True) if handle.is_running() else []
        for member in (handle, *family):
            if member.is_running():
                member.kill()
        process.wait(10)


def wait_until(condition: Callable[[], Any], *, seconds: float = 30.0) -> Any:
    """What the condition returns once that is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


def is_gone(pid: int) -> bool:
    """Whether there is no such process, or only its remains."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def url_of(store: Store) -> str:
    """The database that the store has open."""
    return store.engine.url.render_as_string(hide_password=False)


def drivers(store: Store, job_id: str) -> list[dict[str, Any]]:
    """What the job's drivers said when they began: their process ids, oldest first."""
    with store.session() as session:
        return [event.data for event in events.page(session, job_id=job_id) if event.kind == "job.stage"]


def kinds(store: Store, job_id: str) -> list[str]:
    """The kinds of the job's events, in order."""
    with store.session() as session:
        return [event.kind for event in events.page(session, job_id=job_id)]


def first_driver(store: Store, job_id: str) -> dict[str, Any]:
    """Wait until a driver is at work and has reported a step."""

    def reporting() -> bool:
        with store.session() as session:
            return bool(session.scalar(select(func.count()).select_from(Report)))

    wait_until(reporting)
    return drivers(store, job_id)[0]


def has_state(store: Store, job_id: str, state: JobState) -> Callable[[], bool]:
    """Whether the job is in the state, to be asked again and again."""
    return lambda: read(store, job_id).state is state


@pytest.fixture
def opened(store_url: str) -> Iterator[Store]:
    """A store on each engine."""
    store = open_store(store_url)
    yield store
    store.close()


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Store]:
    """A store on SQLite, for what does not depend on the engine."""
    store = open_store(sqlite_url)
    yield store
    store.close()


def test_four_workers_drain_200_jobs_each_exactly_once(opened: Store, store_url: str) -> None:
    made = {queued(opened).id for _ in range(200)}
    with (
        worker(store_url, in_threads=True),
        worker(store_url, in_threads=True),
        worker(store_url, in_threads=True),
        worker(store_url, in_threads=True),
    ):

        def all_done() -> bool:
            with opened.session() as session:
                return jobs.count_by_state(session) == {JobState.SUCCEEDED: 200}

        wait_until(all_done, seconds=60)
    with opened.session() as session:
        done = Counter(session.scalars(select(Event.job_id).where(Event.kind == "job.stage")))
        attempts = set(session.scalars(select(Job.attempt)))
        owners = {
            event["owner"] for event in session.scalars(select(Event.data).where(Event.kind == "job.stage"))
        }
    assert done == dict.fromkeys(made, 1)
    assert attempts == {1}
    assert len(owners) == 4


class TestStoppedWorker:
    def test_leaves_no_driver_at_work_and_writes_nothing_when_it_continues(
        self, opened: Store, store_url: str
    ) -> None:
        job = queued(opened)
        with worker(store_url, "--steps", "100000") as stopped:
            driver = first_driver(opened, job.id)["pid"]
            stopped.send_signal(signal.SIGSTOP)
            wait_until(lambda: is_gone(driver), seconds=LEASE_SECONDS)

            def claim_again() -> queue.Claimed | None:
                with opened.begin_write() as session:
                    queue.expire_leases(session, policy=POLICY)
                    return queue.claim(session, owner="me", lease_seconds=60, offers=OFFERS)

            mine = wait_until(claim_again)
            assert mine.lease.attempt == 2
            before = self._everything_of(opened, job.id)
            stopped.send_signal(signal.SIGCONT)
            time.sleep(1.5)
            assert stopped.status() != psutil.STATUS_STOPPED
            assert self._everything_of(opened, job.id) == before
            assert stopped.children() == []

    def test_alone_finds_its_lease_lost_and_ends_even_a_driver_that_did_not(
        self, sqlite: Store, sqlite_url: str
    ) -> None:
        """Nobody else took the job. Still nothing is written under the old lease, nor is it revived."""
        job = queued(sqlite)
        with worker(sqlite_url, "--steps", "100000", "--stubborn", "--child") as stopped:
            driver = first_driver(sqlite, job.id)
            stopped.send_signal(signal.SIGSTOP)
            time.sleep(LEASE_SECONDS + 0.3)
            assert not is_gone(driver["pid"])
            written = self._everything_of(sqlite, job.id)
            time.sleep(0.3)
            assert self._everything_of(sqlite, job.id) == written
            stopped.send_signal(signal.SIGCONT)
            wait_until(lambda: is_gone(driver["pid"]) and is_gone(driver["child"]), seconds=2)
            wait_until(lambda: len(drivers(sqlite, job.id)) == 2)
        assert "job.lease_lost" in kinds(sqlite, job.id)
        assert "job.driver_lost" not in kinds(sqlite, job.id)

    def _everything_of(self, store: Store, job_id: str) -> list[Any]:
        with store.session() as session:
            job = session.execute(select(Job.__table__).where(Job.id == job_id)).one()
            rows = session.execute(select(Report.__table__)).all()
            return [tuple(job), *map(tuple, rows), *kinds(store, job_id)]


class TestKilled:
    def test_worker_takes_its_driver_with_it(self, opened: Store, store_url: str) -> None:
        job = queued(opened)
        with worker(store_url, "--steps", "100000", "--stubborn") as killed:
            driver = first_driver(opened, job.id)["pid"]
            killed.kill()
            wait_until(lambda: is_gone(driver), seconds=2)
        with worker(store_url, "--steps", "3"):
            wait_until(has_state(opened, job.id, JobState.SUCCEEDED))
        after = read(opened, job.id)
        assert after.attempt == 2
        assert "job.lease_lost" in kinds(opened, job.id)

    def test_driver_is_replaced_at_once(self, sqlite: Store, sqlite_url: str) -> None:
        job = queued(sqlite)
        with worker(sqlite_url, "--steps", "60", "--child", lease_seconds=60.0, heartbeat_seconds=15.0):
            driver = first_driver(sqlite, job.id)
            os.kill(driver["pid"], signal.SIGKILL)
            wait_until(lambda: len(drivers(sqlite, job.id)) == 2, seconds=10)
            assert is_gone(driver["child"])
            wait_until(has_state(sqlite, job.id, JobState.SUCCEEDED))
        assert read(sqlite, job.id).attempt == 2
        told = kinds(sqlite, job.id)
        assert told.index("job.driver_lost") > told.index("job.stage")

    def test_driver_that_always_dies_fails_the_job_in_the_end(self, sqlite: Store, sqlite_url: str) -> None:
        job = queued(sqlite)
        with worker(sqlite_url, "--no-such-option", max_fruitless_attempts=2):
            wait_until(has_state(sqlite, job.id, JobState.FAILED))
        after = read(sqlite, job.id)
        assert (after.attempt, after.status_reason) == (2, "worker_lost")
        assert "exit status 2" in (after.status_message or "")


class TestCancel:
    def _cancel(self, store: Store, job_id: str) -> None:
        with store.begin_write() as session:
            jobs.request_cancel(session, job_id=job_id)

    def test_is_asked_of_the_driver_first(self, sqlite: Store, sqlite_url: str) -> None:
        """The heartbeat is slow here: cancellation is looked for between heartbeats."""
        job = queued(sqlite)
        with worker(sqlite_url, "--steps", "100000", lease_seconds=60.0, heartbeat_seconds=15.0):
            driver = first_driver(sqlite, job.id)["pid"]
            self._cancel(sqlite, job.id)
            wait_until(has_state(sqlite, job.id, JobState.CANCELLED), seconds=3)
            wait_until(lambda: is_gone(driver), seconds=3)
        assert read(sqlite, job.id).status_reason == "by_the_driver"

    def test_ends_a_driver_that_does_not_listen_with_its_group(self, sqlite: Store, sqlite_url: str) -> None:
        job = queued(sqlite)
        with worker(sqlite_url, "--steps", "100000", "--stubborn", "--child"):
            driver = first_driver(sqlite, job.id)
            self._cancel(sqlite, job.id)
            wait_until(has_state(sqlite, job.id, JobState.CANCELLED), seconds=5)
            assert is_gone(driver["pid"])
            assert is_gone(driver["child"])
        assert read(sqlite, job.id).status_reason == "cancelled_by_user"
        with sqlite.session() as session:
            (trial,) = trials.list_for_job(session, job_id=job.id)
        assert trial.state is TrialState.CANCELLED


class TestTerminatedWorker:
    @pytest.mark.parametrize("driver_options", [(), ("--stubborn",)], ids=["willing", "stubborn"])
    def test_gives_its_job_back_without_a_mark_against_it(
        self, sqlite: Store, sqlite_url: str, driver_options: tuple[str, ...]
    ) -> None:
        job = queued(sqlite)
        with worker(sqlite_url, "--steps", "100000", *driver_options) as terminated:
            driver = first_driver(sqlite, job.id)["pid"]
            terminated.terminate()
            assert terminated.wait(10) == 0
            assert is_gone(driver)
        after = read(sqlite, job.id)
        assert (after.state, after.status_reason) == (JobState.QUEUED, "worker_stopped")
        assert after.fruitless_attempts == 0
        with sqlite.session() as session:
            assert workers.live(session, max_age_seconds=60) == []

    def test_twice_does_not_wait(self, sqlite: Store, sqlite_url: str) -> None:
        job = queued(sqlite)
        with worker(sqlite_url, "--steps", "100000", "--stubborn", stop_grace_seconds=60.0) as terminated:
            first_driver(sqlite, job.id)
            terminated.terminate()
            time.sleep(0.3)
            assert terminated.is_running()
            terminated.terminate()
            terminated.wait(5)
        assert read(sqlite, job.id).state is JobState.QUEUED


@pytest.mark.postgres
class TestDatabase:
    @pytest.fixture
    def store(self, postgres_cluster: Cluster) -> Iterator[Store]:
        """A store on a cluster that may be stopped."""
        with fresh_database(postgres_cluster.url) as url:
            migrate(url)
            store = open_store(url)
            yield store
            store.close()

    def test_that_crashes_and_comes_back_within_the_lease_is_ridden_out(
        self, store: Store, postgres_cluster: Cluster
    ) -> None:
        job = queued(store)
        with worker(url_of(store), "--steps", "80", lease_seconds=12.0):
            first_driver(store, job.id)
            postgres_cluster.stop(mode="immediate")
            time.sleep(0.5)
            postgres_cluster.start()
            wait_until(has_state(store, job.id, JobState.SUCCEEDED), seconds=60)
        assert read(store, job.id).attempt == 1
        with store.session() as session:
            steps = list(session.scalars(select(Report.step).order_by(Report.step)))
        assert steps == list(range(1, 81))

    def test_that_hangs_does_not_keep_a_driver_alive_past_its_lease(
        self, store: Store, postgres_cluster: Cluster
    ) -> None:
        job = queued(store)
        with worker(url_of(store), "--steps", "100000", "--stubborn"):
            driver = first_driver(store, job.id)["pid"]
            server = postgres_cluster.processes()
            since = time.monotonic()
            for process in server:
                process.suspend()
            try:
                wait_until(lambda: is_gone(driver), seconds=LEASE_SECONDS + 1)
                # Back in time it would find the lease still good, and record that the driver was lost.
                time.sleep(max(0.0, LEASE_SECONDS + 0.5 - (time.monotonic() - since)))
            finally:
                for process in server:
                    process.resume()
            wait_until(lambda: len(drivers(store, job.id)) == 2)
        assert "job.lease_lost" in kinds(store, job.id)
