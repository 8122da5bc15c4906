"""A real API process for tests: started as users start it, on a free loopback port, ended by its id."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 20.0


class Server:
    """A running `python -m service serve`; its log lines are kept as objects."""

    def __init__(
        self, home: Path, *, python_options: tuple[str, ...] = (), port: int = 0, **settings: Any
    ) -> None:
        self.home = home
        self.log: list[dict[str, Any]] = []
        self.other_output: list[str] = []
        self._addresses: queue.Queue[str | None] = queue.Queue()
        command = [sys.executable, *python_options, "-m", "service", "serve", "--port", str(port)]
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            command, env=environment(home, **settings), stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        address = self._addresses.get(timeout=START_SECONDS)
        assert address is not None, f"the server did not start: {self.log} {self.other_output}"
        self.url = address
        self.client = httpx.Client(base_url=self.url, timeout=20.0)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                self.other_output.append(line)
                continue
            self.log.append(entry)
            if entry.get("event") == "listening":
                self._addresses.put(entry["url"])
        self._addresses.put(None)

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> float:
        """Ask the process to end; seconds until it had."""
        asked_at = time.monotonic()
        self.client.close()
        self.process.send_signal(sign)
        try:
            self.process.wait(timeout=20)
        finally:
            self.process.kill()
        self._reader.join(timeout=5)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return time.monotonic() - asked_at

    def log_of(self, request_id: str) -> list[dict[str, Any]]:
        """The log lines of a request, waited for: the last one is written after its answer has gone out."""
        found: list[dict[str, Any]] = []
        for _ in range(100):
            found = [entry for entry in self.log if entry.get("request_id") == request_id]
            if any(entry["event"] == "request" for entry in found):
                break
            time.sleep(0.02)
        return found


def environment(home: Path, **settings: Any) -> dict[str, str]:
    """The environment of a process with these settings and no others."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LIMBECK_")}
    given = {f"LIMBECK_{name.upper()}": str(value) for name, value in settings.items()}
    return {**inherited, "LIMBECK_HOME": str(home), "LIMBECK_WORKER_TIMEOUT_SECONDS": "86400", **given}


@contextmanager
def running_server(home: Path, **settings: Any) -> Iterator[Server]:
    """A server that lives as long as the block."""
    server = Server(home, **settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def run_service(home: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m service` with arguments to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=environment(home, **settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
