"""Limbeck on one machine: API and worker as child processes, with SQLite and a local Ray."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from limbeck.child import Child
from limbeck.errors import LimbeckError

DEFAULT_PORT = 8300
API_START_SECONDS = 60.0
WORKER_START_SECONDS = 180.0
API_GRACE_SECONDS = 8.0
WORKER_GRACE_SECONDS = 30.0
LOOK_SECONDS = 0.2


class HouseDown(LimbeckError):  # noqa: N818
    """Limbeck could not be started; the message holds the end of the log that says why."""


def limbeck_home() -> Path:
    """Where the embedded defaults keep everything: `LIMBECK_HOME`, or `~/.limbeck`."""
    return Path(os.environ.get("LIMBECK_HOME") or Path.home() / ".limbeck").expanduser().absolute()


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str) -> int:
    """Some port that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class House:
    """API and worker, started together, kept running, ended together."""

    def __init__(
        self, *, home: Path, host: str, port: int, environment: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._say = say
        self._stop = threading.Event()
        variables = {
            **environment,
            "LIMBECK_HOME": str(home),
            "LIMBECK_HOST": host,
            "LIMBECK_PORT": str(port),
        }
        self.api = Child(
            "the API",
            [sys.executable, "-m", "service"],
            environment=variables,
            log_file=home / "logs" / "api.log",
        )
        self.worker = Child(
            "the worker",
            [sys.executable, "-m", "workers"],
            environment=variables,
            log_file=home / "logs" / "worker.log",
        )
        self._http = httpx.Client(base_url=self.address, timeout=5.0, trust_env=False)

    def start(self) -> None:
        """Start both and return when jobs can be submitted. Raises HouseDown.

        The thread that calls it must stay: the children end with it. The API is first, because it brings the
        database's schema up to date.
        """
        self.api.start()
        self._wait(self.api, lambda: self._readiness() is not None, API_START_SECONDS)
        self.worker.start()
        self._wait(self.worker, self._has_own_worker, WORKER_START_SECONDS)

    def keep(self) -> None:
        """Start again what dies, until `stop`."""
        while not self._stop.wait(LOOK_SECONDS):
            for child in (self.api, self.worker):
                if (said := child.revive()) is not None:
                    self._say(said)

    def request_stop(self) -> None:
        """Let `start` and `keep` return. May be called from a signal handler or another thread."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        """Whether its end has been asked for."""
        return self._stop.is_set()

    def end(self) -> None:
        """End both, the worker first: what it gives back is still shown by the API."""
        self._stop.set()
        self.worker.terminate()
        self.worker.end(timeout_seconds=WORKER_GRACE_SECONDS)
        self.api.terminate()
        self.api.end(timeout_seconds=API_GRACE_SECONDS)
        self._http.close()

    @contextmanager
    def kept(self, while_starting: AbstractContextManager[object]) -> Iterator[None]:
        """Up and kept up by a thread of its own for the length of the block. Raises HouseDown."""
        started = threading.Event()
        failures: list[BaseException] = []

        def care() -> None:
            # The children's lives are tied to this thread's: it stays until they have ended.
            try:
                self.start()
                started.set()
                self.keep()
            except BaseException as failure:
                failures.append(failure)
            finally:
                self.end()
                started.set()

        carer = threading.Thread(target=care, name="house", daemon=True)
        carer.start()
        try:
            with while_starting:
                started.wait()
            if failures:
                raise failures[0]
            yield
        finally:
            self.request_stop()
            carer.join()

    def wait_for_stop(self) -> None:
        """Return when its end has been asked for."""
        self._stop.wait()

    def _wait(self, child: Child, is_up: Callable[[], bool], timeout_seconds: float) -> None:
        ends_at = time.monotonic() + timeout_seconds
        while not self._stop.is_set():
            if is_up():
                return
            if child.exit_status is not None:
                raise HouseDown(f"{child.name} did not start. {child.end_of_log()}")
            if time.monotonic() > ends_at:
                raise HouseDown(
                    f"{child.name} was not ready after {timeout_seconds:g} s. {child.end_of_log()}"
                )
            self._stop.wait(LOOK_SECONDS)

    def _readiness(self) -> dict[str, Any] | None:
        with suppress(httpx.HTTPError, ValueError):
            answer = self._http.get("/readyz")
            if answer.status_code == httpx.codes.OK:
                found: dict[str, Any] = answer.json()
                return found
        return None

    def _has_own_worker(self) -> bool:
        """A worker that died without a word still counts as live for a while: ours has our child's number.

        Where a key is needed to ask, that any worker is live has to do.
        """
        readiness = self._readiness()
        if readiness is None or not readiness.get("live_workers"):
            return False
        with suppress(httpx.HTTPError, ValueError, KeyError):
            answer = self._http.get("/v1/workers", params={"limit": 100})
            if answer.status_code == httpx.codes.OK:
                return any(worker["pid"] == self.worker.pid for worker in answer.json()["data"])
        return True
