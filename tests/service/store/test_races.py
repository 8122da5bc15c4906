"""Two connections at once: one wins, the other learns of it, nothing is overwritten."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.store import jobs, queue, reports
from service.store.errors import LeaseLost
from service.store.jobs import CancelOutcome
from service.store.reports import NewReport
from service.store.session import Store, open_store
from service.store.states import JobState
from tests.service.store.builders import OFFERS, claim, expire, queued, read, reap, running, started

ROUNDS = 25
ROOT = Path(__file__).parents[3]

CLAIM_ALL = """
import sys
from service.store import queue
from service.store.session import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
while True:
    with store.begin_write() as session:
        claimed = queue.claim(session, owner="w", lease_seconds=60, offers=["dataset:digits"])
    if claimed is None:
        break
    print(claimed.job.id)
"""


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Run the actions in threads that start together; what each returned, or raised."""
    outcomes: list[Any] = [None] * len(actions)
    start = threading.Barrier(len(actions))

    def run(number: int, action: Callable[[], Any]) -> None:
        start.wait()
        try:
            outcomes[number] = action()
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_one_job_is_claimed_by_one_of_two(store: Store) -> None:
    for _ in range(ROUNDS):
        job = queued(store)
        first, second = at_once(lambda: claim(store, owner="a"), lambda: claim(store, owner="b"))
        assert (first is None) != (second is None)
        assert read(store, job.id).attempt == 1


def test_two_jobs_are_claimed_by_two_without_waiting(store: Store) -> None:
    for _ in range(ROUNDS):
        made = {queued(store).id, queued(store).id}
        claims = at_once(lambda: claim(store, owner="a"), lambda: claim(store, owner="b"))
        assert {claimed.job.id for claimed in claims if claimed is not None} <= made
        for claimed in [*claims, claim(store)]:  # one may have found only the other's row, and skipped it
            made -= {claimed.job.id} if claimed else set()
        assert made == set()


def test_processes_share_the_queue_without_doubles(store_url: str) -> None:
    store = open_store(store_url)
    made = {queued(store).id for _ in range(60)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_ALL, store_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate("\n", timeout=60)[0].split() for process in processes]
    counts = Counter(job_id for output in outputs for job_id in output)
    assert counts == dict.fromkeys(made, 1)
    assert [process.returncode for process in processes] == [0, 0, 0]
    store.close()


def test_a_job_is_either_claimed_or_cancelled(store: Store) -> None:
    """A cancellation that comes second asks the driver; a claim that comes second gets nothing."""

    def cancel() -> jobs.Cancellation | None:
        with store.begin_write() as session:
            return jobs.request_cancel(session, job_id=job.id)

    for _ in range(ROUNDS):
        job = queued(store)
        claimed, cancellation = at_once(lambda: claim(store), cancel)
        after = read(store, job.id)
        if claimed is None:
            assert cancellation.outcome is CancelOutcome.CANCELLED
            assert after.state is JobState.CANCELLED
        else:
            assert cancellation.outcome is CancelOutcome.REQUESTED
            assert (after.state, after.cancel_requested_at is not None) == (JobState.RUNNING, True)


def test_a_lease_that_runs_out_is_taken_back_by_one_of_two(store: Store) -> None:
    for _ in range(ROUNDS):
        lease = running(store)
        expire(store, lease)
        taken = at_once(lambda: reap(store), lambda: reap(store))
        assert sorted(map(len, taken)) == [0, 1]
        assert read(store, lease.job_id).state is JobState.QUEUED
        assert claim(store) is not None


@pytest.mark.postgres
def test_a_fenced_write_and_the_loss_of_its_lease_do_not_cross(postgres_store: Store) -> None:
    """PostgreSQL runs both at once: the reaper passes over a job whose driver is just writing."""
    store = postgres_store
    lease = running(store)
    with store.begin_write() as session:
        queue.heartbeat(
            session, lease=lease, lease_seconds=-0.001
        )  # not committed: the others see a live lease
        queue_of_others = reap(store)
        assert queue_of_others == []
    assert [job.id for job in reap(store)] == [lease.job_id]
    with pytest.raises(LeaseLost), store.begin_write() as session:
        queue.update_progress(session, lease=lease, progress={})


@pytest.mark.postgres
def test_a_lease_that_runs_out_while_its_holder_writes_is_lost_only_after_the_commit(
    postgres_store: Store,
) -> None:
    """What was begun under the lease is committed under it: nobody claims the job in between."""
    store = postgres_store
    lease = running(store)
    trial = started(store, lease)
    rows = [NewReport(1, 0.1, {"loss": 1.0})]
    with store.begin_write() as session:
        reports.upsert(session, lease=lease, trial_id=trial.id, rows=rows)
        queue.heartbeat(session, lease=lease, lease_seconds=0.3)
    with store.begin_write() as session:
        reports.upsert(session, lease=lease, trial_id=trial.id, rows=rows)  # touches no row of the job
        time.sleep(0.4)
        assert reap(store) == []
    assert [job.id for job in reap(store)] == [lease.job_id]


@pytest.mark.postgres
def test_a_claim_passes_over_a_job_that_is_locked(postgres_store: Store) -> None:
    store = postgres_store
    first, second = queued(store), queued(store)
    with store.begin_write() as session:
        mine = queue.claim(session, owner="a", lease_seconds=60, offers=OFFERS)
        other = claim(store, owner="b")
        assert mine is not None
        assert other is not None
        assert mine.job.id == first.id
        assert other.job.id == second.id
