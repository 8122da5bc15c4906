"""A whole Limbeck for tests: API and workers as real processes, on a database and directories of their own.

Everything is found again by a mark in the environment that all processes inherit, drivers and Ray too, so
that a test leaves nothing behind and touches nothing else.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

import workers
from service.store import events, jobs, trials
from service.store.session import Store, migrate, open_store
from service.store.states import JobState
from service.store.tables import Event, Job, Trial
from tests.ports import free_port

MARK = "LIMBECK_TEST_INSTALLATION"
TETHER = str(Path(workers.__file__).with_name("tether.py"))
Document = dict[str, Any]

SMALL_JOB: Document = {
    "teachers": [{"model": "test_resnet", "training": {"epochs": 3, "batch_size": 16}}],
    "student": {"model": "test_efficientnet"},
    "data": {"name": "digits", "splits": {"train": 128, "meta": 64, "validation": 128, "test": 256}},
    "training": {"report_every_steps": 1, "batch_size": 16},
    "search": {
        "concurrent_trials": 2,
        # Strict, so that something is stopped early even in a search of five trials.
        "pruning": {"startup_trials": 1, "warmup_epochs": 0, "percentile": 1.0},
    },
    "proof": {"seeds": [0, 1], "arms": ["student_alone", "tuned_kd", "searched"]},
    "budget": {"trials": 5, "epochs_per_trial": 4},
    "floor_accuracy": 0.0,
}
USELESS_TEACHER: Document = {
    **SMALL_JOB,
    "teachers": [{"model": "test_resnet", "weights": "untrained"}],
    "budget": {"trials": 2, "epochs_per_trial": 2},
    "proof": {**SMALL_JOB["proof"], "seeds": [0, 1, 2]},
}


class Installation:
    """Processes of one Limbeck; a context manager that ends them all."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home, self.mark = home, secrets.token_hex(8)
        # Not below pytest's directory: the names of Ray's sockets are limited to 107 bytes.
        self.ray_directory = Path(tempfile.mkdtemp(prefix="lmb-", dir="/tmp"))
        self.settings: dict[str, Any] = {
            "home": home,
            "database_url": f"sqlite:///{home / 'limbeck.sqlite'}",
            "host": "127.0.0.1",
            "port": free_port(),
            "lease_seconds": 8,
            "heartbeat_seconds": 1,
            "backoff_seconds": 0.5,
            "poll_seconds": 0.2,
            "ray_temp_dir": self.ray_directory,
            "cpus": 2,
            "gpus": 0,
            **settings,
        }
        self.workers: list[subprocess.Popen[bytes]] = []
        self.api: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, exist_ok=True)
        migrate(self.settings["database_url"])
        self.store: Store = open_store(self.settings["database_url"])
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.settings['port']}", timeout=30.0)

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.close()
        self.store.close()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        for process in [*self.workers, *([self.api] if self.api else [])]:
            process.wait(timeout=10)
        shutil.rmtree(self.ray_directory, ignore_errors=True)

    def environment(self, **settings: Any) -> dict[str, str]:
        """What a process of this installation finds in its environment."""
        given = {
            f"LIMBECK_{name.upper()}": str(value) for name, value in {**self.settings, **settings}.items()
        }
        return {
            **os.environ,
            **given,
            MARK: self.mark,
            "OMP_NUM_THREADS": "1",
            "RAY_memory_monitor_refresh_ms": "0",
        }

    def start_api(self) -> subprocess.Popen[bytes]:
        """Start the API and wait until it answers."""
        self.api = self._start("-m", "service", name="api")
        wait_until(self._answers, seconds=30, what="the API's answer")
        return self.api

    def start_worker(self, **settings: Any) -> subprocess.Popen[bytes]:
        """Start a worker; it has registered when GET /v1/workers shows it."""
        worker = self._start("-m", "workers", name=f"worker-{len(self.workers)}", **settings)
        self.workers.append(worker)
        return worker

    def submit(self, spec: Document, *, dry_run: bool = False) -> str:
        """Submit a job over HTTP; its id. Waits for the first worker's catalogue."""
        answers: list[httpx.Response] = []

        def accepted() -> bool:
            answers.append(self.client.post("/v1/jobs", json=spec, params={"dry_run": dry_run}))
            return answers[-1].status_code != 503

        wait_until(accepted, seconds=60, what="a catalogue")
        assert answers[-1].is_success, answers[-1].text
        return str(answers[-1].json()["id"])

    def wait(self, job_id: str, *, seconds: float) -> Job:
        """The job once it has ended; its driver's words if it does not in time."""
        try:
            wait_until(lambda: self.job(job_id).state.is_final, seconds=seconds, what=f"the end of {job_id}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self.job(job_id).progress}\n{self.words()}") from None
        return self.job(job_id)

    def succeed(self, job_id: str, *, seconds: float) -> Job:
        """As `wait`, and the job must have succeeded."""
        job = self.wait(job_id, seconds=seconds)
        assert job.state is JobState.SUCCEEDED, f"{job.status_reason}: {job.status_message}\n{self.words()}"
        return job

    def job(self, job_id: str) -> Job:
        """The job's row."""
        with self.store.session() as session:
            job = jobs.get(session, job_id=job_id)
        assert job is not None
        return job

    def events(self, job_id: str) -> list[Event]:
        """All events of the job."""
        with self.store.session() as session:
            return events.page(session, job_id=job_id, limit=100_000)

    def trials(self, job_id: str) -> list[Trial]:
        """All trials of the job."""
        with self.store.session() as session:
            return trials.list_for_job(session, job_id=job_id)

    def get(self, path: str) -> Any:
        """A document of the API."""
        answer = self.client.get(path)
        assert answer.is_success, f"{answer.status_code} {answer.text}"
        return answer.json()

    def processes(self) -> list[psutil.Process]:
        """All living processes of this installation, drivers and Ray's included."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def drivers(self) -> list[psutil.Process]:
        """The drivers at work: leaders of their groups. A child of one looks like it until its exec."""
        found = []
        for process in self.processes():
            with suppress(ProcessLookupError):
                if "workers.run_job" in command_of(process) and os.getpgid(process.pid) == process.pid:
                    found.append(process)
        return found

    def words(self) -> str:
        """The end of what workers and drivers have said."""
        files = sorted([*self.home.glob("*.log"), *self.home.glob("logs/*.log")], key=os.path.getmtime)
        return "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in files)

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and process.pid != os.getpid() and process.environ().get(MARK) == self.mark
        return False

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return self.client.get("/healthz").is_success
        return False

    def _start(self, *arguments: str, name: str, **settings: Any) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                # Tied to this process: if it is killed, nothing stays behind.
                [sys.executable, "-I", "-S", TETHER, str(os.getpid()), sys.executable, *arguments],
                env=self.environment(**settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


def command_of(process: psutil.Process) -> str:
    """The command line as one text; empty for a process that is gone."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def wait_until(
    condition: Callable[[], bool], *, seconds: float, what: str, every_seconds: float = 0.1
) -> None:
    """Wait for a condition; TimeoutError names what did not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(every_seconds)


def kill(process: psutil.Process | subprocess.Popen[bytes]) -> None:
    """SIGKILL one process."""
    with suppress(psutil.Error, ProcessLookupError):
        process.send_signal(signal.SIGKILL)
