"""The claim loop inside this process, with a driver that does as it is told."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from service.settings import Settings
from service.store import events, jobs, queue, workers
from service.store.errors import StoreUnavailable
from service.store.queue import Claimed
from service.store.session import Store
from service.store.states import JobState
from tests.service.store.builders import OFFERS, expire, queued, read
from workers.claim import WorkerLoop
from workers.escalation import Escalation, Pressure
from workers.patience import patiently

QUICK = Settings(
    lease_seconds=1.2,
    heartbeat_seconds=0.1,
    poll_seconds=0.05,
    backoff_seconds=0.05,
    cancel_grace_seconds=0.2,
    stop_grace_seconds=0.3,
)


@dataclass
class ScriptedDriver:
    """A driver that records what is done to it, and ends at what `ends_at` names."""

    ends_at: str = "kill"
    pid: int = 0
    done: list[tuple[str, float]] = field(default_factory=list)
    status: int | None = None

    def _do(self, name: str, status: int) -> None:
        self.done.append((name, time.monotonic()))
        if self.ends_at == name:
            self.status = status

    def tell(self, message: bytes) -> None:
        """Renewals and the request to end."""
        self._do(message.decode(), 0)

    def poll(self) -> int | None:
        """The status, once it has ended."""
        return self.status

    def terminate(self) -> None:
        """SIGTERM."""
        self._do("terminate", -signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._do("kill", -signal.SIGKILL)

    def names(self) -> list[str]:
        """What was done to it, without repeated renewals."""
        return [name for name, _ in self.done if name != "r"]


@dataclass
class Runner:
    """Starts scripted drivers, and keeps them."""

    ends_at: str = "kill"
    drivers: list[ScriptedDriver] = field(default_factory=list)
    claims: list[Claimed] = field(default_factory=list)

    def __call__(self, claimed: Claimed) -> ScriptedDriver:
        self.claims.append(claimed)
        self.drivers.append(ScriptedDriver(self.ends_at))
        return self.drivers[-1]


@contextmanager
def looping(store: Store, runner: Callable[[Claimed], Any], **settings: Any) -> Iterator[WorkerLoop]:
    """A loop in a thread of its own; stopped at the end of the block."""
    loop = WorkerLoop(
        store=store,
        settings=Settings(**{**QUICK.model_dump(), **settings}),
        runner=runner,
        offers=OFFERS,
        catalogue={"models": ["test_resnet"]},
    )
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop()
        thread.join(10)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], Any], *, seconds: float = 5.0) -> Any:
    """What the condition returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


class TestLoop:
    def test_registers_with_its_catalogue_and_signs_off(self, store: Store) -> None:
        def live() -> list[Any]:
            with store.session() as session:
                return workers.live(session, max_age_seconds=0.5)

        with looping(store, Runner()) as loop:
            (worker,) = wait_until(live)
            assert (worker.id, worker.catalogue) == (loop.worker_id, {"models": ["test_resnet"]})
            time.sleep(0.7)
            assert len(live()) == 1  # it is heard of while it is idle
        assert live() == []

    def test_keeps_its_lease_for_as_long_as_the_driver_works(self, store: Store) -> None:
        job, runner = queued(store), Runner()
        with looping(store, runner):
            wait_until(lambda: runner.drivers)
            time.sleep(2 * QUICK.lease_seconds)
            assert read(store, job.id).state is JobState.RUNNING
            assert read(store, job.id).attempt == 1
            assert [name for name, _ in runner.drivers[0].done].count("r") >= 5
            with store.session() as session:
                assert len(workers.live(session, max_age_seconds=0.5)) == 1  # heard of while busy, too

    def test_goes_on_to_the_next_job_when_the_driver_has_finished_one(self, store: Store) -> None:
        made = [queued(store).id for _ in range(3)]

        def run(claimed: Claimed) -> ScriptedDriver:
            with store.begin_write() as session:
                queue.finish(session, lease=claimed.lease, state="succeeded", reason="completed")
            return ScriptedDriver(status=0)

        with looping(store, run):
            wait_until(lambda: all(read(store, job_id).state is JobState.SUCCEEDED for job_id in made))
        assert [read(store, job_id).attempt for job_id in made] == [1, 1, 1]

    def test_ends_a_driver_that_lingers_after_its_end(self, store: Store) -> None:
        job, runner = queued(store), Runner()
        with looping(store, runner):
            driver = wait_until(lambda: runner.drivers)[0]
            with store.begin_write() as session:
                queue.finish(session, lease=runner.claims[0].lease, state="succeeded", reason="completed")
            wait_until(lambda: driver.status is not None)
        assert driver.names() == ["terminate", "kill"]
        assert read(store, job.id).state is JobState.SUCCEEDED

    def test_takes_back_what_other_workers_lost(self, store: Store) -> None:
        job = queued(store)
        with store.begin_write() as session:
            claimed = queue.claim(session, owner="gone", lease_seconds=60, offers=OFFERS)
        assert claimed is not None
        expire(store, claimed.lease)
        runner = Runner()
        with looping(store, runner):
            wait_until(lambda: runner.claims)
            assert read(store, job.id).attempt == 2

    def test_gives_a_job_back_whose_driver_cannot_be_started(self, store: Store) -> None:
        job = queued(store)

        def run(claimed: Claimed) -> ScriptedDriver:
            raise OSError("no more processes")

        with looping(store, run, max_fruitless_attempts=2):
            wait_until(lambda: read(store, job.id).state is JobState.FAILED)
        after = read(store, job.id)
        assert after.status_reason == "worker_lost"
        assert "no more processes" in (after.status_message or "")

    def test_reports_a_driver_that_left_without_an_end(self, store: Store) -> None:
        job = queued(store)
        with looping(store, lambda claimed: ScriptedDriver(status=-11), max_fruitless_attempts=2):
            wait_until(lambda: read(store, job.id).state is JobState.FAILED)
        with store.session() as session:
            lost = [event for event in events.page(session, job_id=job.id) if event.kind == "job.driver_lost"]
        assert len(lost) == 2
        assert "exit status -11" in lost[0].message


class TestEnding:
    @pytest.mark.parametrize(
        ("ends_at", "expected"),
        [("c", ["c"]), ("terminate", ["c", "terminate"]), ("kill", ["c", "terminate", "kill"])],
    )
    def test_of_a_cancelled_job_comes_in_steps(self, store: Store, ends_at: str, expected: list[str]) -> None:
        job, runner = queued(store), Runner(ends_at)
        with looping(store, runner):
            driver = wait_until(lambda: runner.drivers)[0]
            with store.begin_write() as session:
                jobs.request_cancel(session, job_id=job.id)
            wait_until(lambda: read(store, job.id).state is JobState.CANCELLED)
        assert driver.names() == expected
        times = [at for name, at in driver.done if name != "r"]
        assert all(later - earlier >= 0.2 for earlier, later in pairwise(times))

    def test_of_a_lost_lease_is_a_kill(self, store: Store) -> None:
        job, runner = queued(store), Runner()
        with looping(store, runner):
            driver = wait_until(lambda: runner.drivers)[0]
            with store.begin_write() as session:
                jobs.change(session, job_id=job.id, lease_token=100)
            wait_until(lambda: driver.status is not None, seconds=1)
        assert driver.names()[0] == "kill"
        assert read(store, job.id).state is JobState.RUNNING  # not ours any more: left alone

    @pytest.mark.parametrize(
        ("ends_at", "expected"), [("terminate", ["terminate"]), ("kill", ["terminate", "kill"])]
    )
    def test_of_a_stopped_worker_gives_the_job_back(
        self, store: Store, ends_at: str, expected: list[str]
    ) -> None:
        job, runner = queued(store), Runner(ends_at)
        with looping(store, runner) as loop:
            driver = wait_until(lambda: runner.drivers)[0]
            loop.stop()
            wait_until(lambda: read(store, job.id).state is JobState.QUEUED)
        assert driver.names() == expected
        after = read(store, job.id)
        assert (after.status_reason, after.fruitless_attempts) == ("worker_stopped", 0)


class TestEscalation:
    def test_takes_each_step_in_its_time(self) -> None:
        driver = ScriptedDriver(ends_at="never")
        escalation = Escalation(driver=driver, settings=QUICK)
        began_at = time.monotonic()
        while len(driver.done) < 3 and time.monotonic() - began_at < 10:
            escalation.advance(Pressure.CANCEL)
            time.sleep(0.01)
        assert driver.names() == ["c", "terminate", "kill"]
        earliest = [began_at, began_at + 0.2, began_at + 0.4]
        assert all(at >= due for (_, at), due in zip(driver.done, earliest, strict=True))

    def test_a_late_step_leaves_its_whole_grace(self) -> None:
        driver = ScriptedDriver(ends_at="never")
        escalation = Escalation(driver=driver, settings=QUICK)
        escalation.advance(Pressure.CANCEL)
        time.sleep(0.45)
        escalation.advance(Pressure.CANCEL)
        assert driver.names() == ["c", "terminate"]
        time.sleep(0.25)
        escalation.advance(Pressure.CANCEL)
        assert driver.names() == ["c", "terminate", "kill"]

    def test_greater_pressure_wins_and_lesser_does_not_restart_it(self) -> None:
        driver = ScriptedDriver(ends_at="never")
        escalation = Escalation(driver=driver, settings=QUICK)
        for pressure in (Pressure.NONE, Pressure.CANCEL, Pressure.LOST, Pressure.CANCEL, Pressure.NONE):
            escalation.advance(pressure)
        time.sleep(0.45)
        escalation.advance(Pressure.CANCEL)
        assert driver.names() == ["c", "kill"]


class TestPatience:
    def test_tries_again_and_waits_longer_each_time(self) -> None:
        waits: list[float] = []
        outcomes = iter([StoreUnavailable("a"), StoreUnavailable("b"), StoreUnavailable("c"), "done"])

        def act() -> str:
            outcome = next(outcomes)
            if isinstance(outcome, StoreUnavailable):
                raise outcome
            return outcome

        assert patiently(act, give_up=lambda: False, first_wait_seconds=1.0, sleep=waits.append) == "done"
        assert [0.75 * wait <= seen <= 1.25 * wait for wait, seen in zip((1, 2, 2), waits, strict=True)] == [
            True
        ] * 3

    def test_gives_up_when_there_is_no_point_any_more(self) -> None:
        def act() -> None:
            raise StoreUnavailable("gone")

        with pytest.raises(StoreUnavailable, match="gone"):
            patiently(act, give_up=lambda: True)

    def test_lets_other_errors_through(self) -> None:
        def act() -> None:
            raise ValueError("a mistake")

        with pytest.raises(ValueError, match="a mistake"):
            patiently(act, give_up=lambda: False)
