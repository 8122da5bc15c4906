"""The driver process as its worker sees it: started, told things over a pipe, ended with its group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

_TETHER = Path(__file__).with_name("tether.py")


class Driver(Protocol):
    """A process that carries out one job, in a process group of its own."""

    @property
    def pid(self) -> int:
        """Process id, and id of its group."""
        ...

    def tell(self, message: bytes) -> None:
        """Send bytes to the driver's standard input; a driver that has ended or does not read is no error."""
        ...

    def poll(self) -> int | None:
        """None while it runs, then its exit status (negative: a signal), after its group's end."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM to the driver alone, so that it can end what it started."""
        ...

    def kill(self) -> None:
        """Send SIGKILL to the whole group."""
        ...


class DriverProcess:
    """A driver that was started with `start`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lock = threading.Lock()
        assert process.stdin is not None
        self._pipe = process.stdin.fileno()
        os.set_blocking(self._pipe, False)

    @property
    def pid(self) -> int:
        """See `Driver.pid`."""
        return self._process.pid

    def tell(self, message: bytes) -> None:
        """See `Driver.tell`."""
        with self._lock, contextlib.suppress(BrokenPipeError, BlockingIOError):
            if self._process.returncode is None:
                os.write(self._pipe, message)

    def poll(self) -> int | None:
        """See `Driver.poll`."""
        with self._lock:
            if self._process.returncode is not None:
                return self._process.returncode
            # Looked at without reaping: while the leader is a zombie its group's number is taken.
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self._signal_group(signal.SIGKILL)
            status = self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            return status

    def terminate(self) -> None:
        """See `Driver.terminate`."""
        with self._lock:
            self._process.terminate()

    def kill(self) -> None:
        """See `Driver.kill`."""
        with self._lock:
            if self._process.returncode is None:
                self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def start(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, output: Path | None = None
) -> DriverProcess:
    """Start a program in a session of its own that is killed when this process dies; its stdin is our pipe.

    Must be called from a thread that lives as long as this process, best its main thread: the kernel kills
    the program when that *thread* ends. Standard output and error are appended to the file `output`.
    """
    tethered = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *command]
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(output.open("ab")) if output is not None else None
        process = subprocess.Popen(
            tethered,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            bufsize=0,
        )
    return DriverProcess(process)
