"""The driver's side of the renewal pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from workers.renewals import CANCEL, RENEWED, RenewalWatch, Silence


class Ear:
    """A watch on a pipe, and what it said."""

    def __init__(self, *, lease_seconds: float) -> None:
        self.read_end, self.write_end = os.pipe()
        self.cancels = 0
        self.silence: Silence | None = None
        self.silent = threading.Event()
        self.watch = RenewalWatch(
            pipe=self.read_end, lease_seconds=lease_seconds, on_cancel=self._cancel, on_silence=self._silence
        )

    def _cancel(self) -> None:
        self.cancels += 1

    def _silence(self, silence: Silence) -> None:
        self.silence = silence
        self.silent.set()

    def send(self, message: bytes) -> None:
        """What the worker would write."""
        os.write(self.write_end, message)


@pytest.fixture
def ear() -> Iterator[Ear]:
    """A watch with a lease of 0.9 s, that is with patience for 0.6 s."""
    made = Ear(lease_seconds=0.9)
    yield made
    os.close(made.write_end)
    made.silent.wait(5)
    os.close(made.read_end)


def test_silence_of_two_thirds_of_the_lease_is_too_long(ear: Ear) -> None:
    began_at = time.monotonic()
    ear.watch.start()
    assert ear.silent.wait(5)
    assert 0.6 <= time.monotonic() - began_at < 3
    assert ear.silence is Silence.NOT_RENEWED


def test_each_renewal_buys_time(ear: Ear) -> None:
    ear.watch.start()
    for _ in range(10):
        time.sleep(0.1)
        ear.send(RENEWED)
    assert not ear.silent.is_set()
    renewed_at = time.monotonic()
    assert ear.silent.wait(5)
    assert time.monotonic() - renewed_at >= 0.58


def test_a_request_to_end_is_told_once_and_buys_no_time(ear: Ear) -> None:
    began_at = time.monotonic()
    ear.watch.start()
    for _ in range(3):
        time.sleep(0.05)
        ear.send(CANCEL)
    assert ear.silent.wait(5)
    assert ear.cancels == 1
    assert ear.silence is Silence.NOT_RENEWED
    assert 0.6 <= time.monotonic() - began_at < 3


def test_the_workers_end_is_noticed_at_once() -> None:
    ear = Ear(lease_seconds=600)
    ear.watch.start()
    os.close(ear.write_end)
    assert ear.silent.wait(2)
    assert ear.silence is Silence.WORKER_ENDED
    os.close(ear.read_end)


STOPPED = """
import os, signal, sys, time
from workers.renewals import RenewalWatch
watch = RenewalWatch(pipe=0, lease_seconds=0.6, on_cancel=print, on_silence=lambda why: os._exit(9))
watch.start()
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(5)
"""


def test_renewals_that_piled_up_while_stopped_are_no_sign_of_life() -> None:
    """A driver that was stopped past its patience must not go on because of what was written meanwhile."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.7)
    process.stdin.write(RENEWED)
    process.send_signal(signal.SIGCONT)
    assert process.wait(3) == 9
    process.stdin.close()
    process.stdout.close()
