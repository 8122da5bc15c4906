"""Processes are killed at moments drawn from the whole job: it succeeds, and nothing is lost or done twice.

The seed is printed; LIMBECK_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from search.records import StageName
from service.store.states import EventKind, JobState
from tests.end_to_end.installation import SMALL_JOB, Installation, kill, wait_until
from tests.end_to_end.moments import Course, Moment, await_moment, course_of
from tests.end_to_end.soundness import check_sound

KILLS = 5
GIVEN_SEED = os.environ.get("LIMBECK_TEST_SEED")
SEED = int(GIVEN_SEED) if GIVEN_SEED else random.SystemRandom().randrange(10**6)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Installation]:
    """An installation of one's own, that forgives every attempt."""
    with Installation(tmp_path / "home", max_fruitless_attempts=1000) as installation:
        installation.start_api()
        installation.start_worker()
        yield installation


@pytest.fixture(scope="module")
def course(shared: Installation, finished: str) -> Course:
    """How the small job goes when nothing disturbs it, with its teacher trained anew."""
    print(f"LIMBECK_TEST_SEED={SEED}")  # noqa: T201
    return course_of(shared, finished)


def kill_driver(installation: Installation) -> None:
    """The driver alone; its worker lives. Between two attempts the next driver is waited for."""
    wait_until(lambda: bool(installation.drivers()), seconds=30, what="a driver", every_seconds=0.01)
    for driver in installation.drivers():
        kill(driver)


def kill_worker(installation: Installation) -> None:
    """The worker alone, which takes its driver with it; another is started."""
    worker = installation.workers[-1]
    kill(worker)
    worker.wait(timeout=10)
    installation.start_worker()


def kill_api(installation: Installation) -> None:
    """The API alone; another is started."""
    assert installation.api is not None
    kill(installation.api)
    installation.api.wait(timeout=10)
    installation.start_api()


def disturb(
    installation: Installation, moments: list[Moment], strike: Callable[[Installation], None]
) -> tuple[str, list[str]]:
    """A job that is struck at each of these moments; the stages in which it was."""
    job_id = installation.submit(SMALL_JOB)
    hit = []
    for moment in moments:
        stage = await_moment(installation, job_id, moment)
        if stage is not None:
            hit.append(stage)
            strike(installation)
    installation.succeed(job_id, seconds=240)
    return job_id, hit


def repeated_results(installation: Installation, job_id: str) -> dict[tuple[str, int], object]:
    """Of trials that depend on nothing but their seeds: the CPU repeats them to the bit."""
    return {
        (trial.arm, trial.seed): (trial.result["accuracy"], trial.result.get("student_sha256"))
        for trial in installation.trials(job_id)
        if trial.arm in ("teacher", "student_alone") and trial.result is not None
    }


def test_a_job_survives_its_driver_its_worker_and_the_api(shared: Installation, course: Course) -> None:
    """The short form of the tests below: one kill of each."""
    first, second, third = course.draw(3, seed=SEED)
    job_id = shared.submit(SMALL_JOB)
    for moment, strike in ((first, kill_driver), (second, kill_api), (third, kill_worker)):
        if await_moment(shared, job_id, moment) is not None:
            strike(shared)
    shared.succeed(job_id, seconds=240)
    check_sound(shared, job_id)


@pytest.mark.slow
class TestFiveKills:
    def test_of_the_driver(
        self, shared: Installation, finished: str, course: Course, fresh: Installation
    ) -> None:
        job_id, hit = disturb(fresh, course.draw(KILLS, seed=SEED), kill_driver)
        assert len(hit) == KILLS, hit
        assert fresh.job(job_id).attempt == KILLS + 1
        check_sound(fresh, job_id)
        assert repeated_results(fresh, job_id) == repeated_results(shared, finished)

    def test_of_the_worker(
        self, shared: Installation, finished: str, course: Course, fresh: Installation
    ) -> None:
        job_id, hit = disturb(fresh, course.draw(KILLS, seed=SEED + 1), kill_worker)
        assert len(hit) == KILLS, hit
        check_sound(fresh, job_id)
        assert repeated_results(fresh, job_id) == repeated_results(shared, finished)

    def test_of_the_api(self, course: Course, fresh: Installation) -> None:
        """The job does not notice."""
        job_id, hit = disturb(fresh, course.draw(KILLS, seed=SEED + 2), kill_api)
        assert len(hit) == KILLS, hit
        assert fresh.job(job_id).attempt == 1
        check_sound(fresh, job_id)

    def test_in_every_stage(
        self, shared: Installation, finished: str, course: Course, fresh: Installation
    ) -> None:
        moments = course.draw_in_stages(seed=SEED + 3)
        job_id, hit = disturb(fresh, moments, kill_driver)
        assert set(hit) == {stage.value for stage in StageName}
        check_sound(fresh, job_id)
        assert repeated_results(fresh, job_id) == repeated_results(shared, finished)


@pytest.mark.slow
def test_a_killed_driver_leaves_nothing_at_work(fresh: Installation) -> None:
    """Actors die with Ray's node process, that dies with the driver; the worker ends the rest."""
    job_id = fresh.submit(SMALL_JOB)
    wait_until(lambda: fresh.job(job_id).preflight is not None, seconds=120, what="the search")
    (driver,) = fresh.drivers()
    family = driver.children(recursive=True)
    assert any(member.name().startswith("ray::") for member in family)
    kill(driver)
    _, alive = psutil.wait_procs(family, timeout=3)
    assert not alive, alive
    fresh.succeed(job_id, seconds=240)


@pytest.mark.slow
def test_a_stopped_worker_leaves_no_driver_and_writes_nothing_afterwards(fresh: Installation) -> None:
    job_id = fresh.submit(SMALL_JOB)
    wait_until(lambda: fresh.job(job_id).preflight is not None, seconds=120, what="the search")
    stopped = fresh.workers[0]
    lease_seconds = float(fresh.settings["lease_seconds"])
    stopped.send_signal(signal.SIGSTOP)
    since = time.monotonic()
    wait_until(lambda: not fresh.drivers(), seconds=lease_seconds, what="the driver's end")
    assert time.monotonic() - since < lease_seconds, "before anybody else may claim the job"
    fresh.start_worker()
    wait_until(lambda: fresh.job(job_id).attempt == 2, seconds=60, what="the second attempt")
    stopped.send_signal(signal.SIGCONT)
    fresh.succeed(job_id, seconds=240)
    events = fresh.events(job_id)
    claimed_again = [event for event in events if event.kind == EventKind.JOB_CLAIMED][1].sequence
    of_the_first = [
        event for event in events if event.sequence > claimed_again and event.data.get("attempt") == 1
    ]
    assert of_the_first == []
    assert EventKind.JOB_LEASE_LOST in [event.kind for event in events]
    check_sound(fresh, job_id)


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_gives_its_job_back(fresh: Installation) -> None:
    job_id = fresh.submit(SMALL_JOB)
    wait_until(lambda: fresh.job(job_id).preflight is not None, seconds=120, what="the search")
    (worker,) = fresh.workers
    assert fresh.api is not None
    worker.terminate()
    assert worker.wait(timeout=10) == 0
    assert [process for process in fresh.processes() if process.pid != fresh.api.pid] == []
    job = fresh.job(job_id)
    assert (job.state, job.status_reason) == (JobState.QUEUED, "worker_stopped")
    fresh.start_worker()
    fresh.succeed(job_id, seconds=240)
    check_sound(fresh, job_id)


@pytest.mark.slow
def test_two_workers_never_run_the_same_job_at_once(fresh: Installation) -> None:
    """They share the work, and when one is killed the other goes on with its job, too."""
    fresh.start_worker()
    jobs = [fresh.submit(SMALL_JOB) for _ in range(3)]
    killed_at = time.monotonic() + random.Random(SEED + 4).uniform(15, 40)
    deadline = time.monotonic() + 400
    is_killed = False
    while not all(fresh.job(job_id).state.is_final for job_id in jobs):
        assert time.monotonic() < deadline, fresh.words()
        at_work = [
            argument
            for driver in fresh.drivers()
            for argument in driver.cmdline()
            if argument.startswith("--job=")
        ]
        assert len(at_work) == len(set(at_work)), at_work
        if not is_killed and time.monotonic() > killed_at:
            kill(fresh.workers[0])
            is_killed = True
        time.sleep(0.02)
    for job_id in jobs:
        assert fresh.job(job_id).state is JobState.SUCCEEDED, fresh.words()
        check_sound(fresh, job_id)
