"""A child process that is kept running: its log file, its restarts, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

TETHER = Path(__file__).with_name("tether.py")
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
HEALTHY_AFTER_SECONDS = 60.0
LOG_BYTES = 10_000_000
LAST_BYTES, LAST_LINES = 20_000, 15


class Child:
    """One program in a session of its own: the terminal's Ctrl-C reaches it through us alone."""

    def __init__(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], log_file: Path
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._due_at: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def exit_status(self) -> int | None:
        """How it ended (negative: a signal); None while it runs."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start it; its output is appended to its log file."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".old.log"))
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        self._started_at = time.monotonic()
        self._due_at = None

    def revive(self) -> str | None:
        """Start it again some time after it has died; returns what there is to say about it, once."""
        status = self.exit_status
        if status is None:
            return None
        now = time.monotonic()
        if self._due_at is None:
            if now - self._started_at > HEALTHY_AFTER_SECONDS:
                self._pause_seconds = FIRST_PAUSE_SECONDS
            self._due_at = now + self._pause_seconds
            pause, self._pause_seconds = (
                self._pause_seconds,
                min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS),
            )
            return f"{self.name} {_how(status)}; starting it again in {pause:g} s (log: {self.log_file})"
        if now >= self._due_at:
            self.start()
        return None

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def end(self, *, timeout_seconds: float) -> None:
        """Wait for its end; after the timeout end it and its process group by force."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def end_of_log(self) -> str:
        """The last lines of its log, for a message."""
        text = self.log_file.read_bytes()[-LAST_BYTES:].decode("utf-8", "replace")
        return f"The end of {self.log_file}:\n" + "\n".join(text.splitlines()[-LAST_LINES:])


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by signal {-status} ({signal.Signals(-status).name})"
    return f"ended with status {status}"
