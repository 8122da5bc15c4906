"""What a driver's Ray finds in its environment, and how its processes are found again."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

import psutil
import pytest

from workers import ray_environment
from workers.ray_environment import OWNER_VARIABLE, end_processes_of, prepare

JOB = f"job_{uuid.uuid4().hex}"  # its own, for another run of these tests may be at work
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(autouse=True)
def _same_environment_afterwards() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def sleeper(owner: str | None) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != OWNER_VARIABLE}
    return subprocess.Popen(SLEEP, env={**environment, **({OWNER_VARIABLE: owner} if owner else {})})


class TestPrepare:
    def test_a_local_cluster_has_a_token_of_its_own(self) -> None:
        os.environ["RAY_ADDRESS"] = "10.0.0.1:6379"
        prepare(job_id=JOB, is_local=True)
        first = os.environ["RAY_AUTH_TOKEN"]
        prepare(job_id=JOB, is_local=True)
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert len(first) == 64
        assert os.environ["RAY_AUTH_TOKEN"] != first
        assert "RAY_ADDRESS" not in os.environ

    def test_a_joined_cluster_keeps_what_its_operator_has_set(self) -> None:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH="/run/secrets/ray")
        prepare(job_id=JOB, is_local=False)
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray"
        assert os.environ[OWNER_VARIABLE] == f"{JOB}:{os.getpid()}"


class TestEndProcesses:
    def test_ends_those_of_the_job_and_no_others(self) -> None:
        ours, other_driver = sleeper(f"{JOB}:17"), sleeper(f"{JOB}:18")
        strangers = [sleeper(f"{JOB}2:17"), sleeper(None)]
        try:
            assert end_processes_of(JOB, driver=17) == 1
            assert not psutil.pid_exists(ours.pid)
            assert other_driver.poll() is None, "a successor's"
            assert end_processes_of(JOB) == 1
            assert not psutil.pid_exists(other_driver.pid)
            assert [stranger.poll() for stranger in strangers] == [None, None]
        finally:
            for process in (ours, other_driver, *strangers):
                process.kill()
                process.wait()

    def test_never_ends_the_caller(self) -> None:
        os.environ[OWNER_VARIABLE] = f"{JOB}:{os.getpid()}"
        assert ray_environment.end_processes_of(JOB) == 0
