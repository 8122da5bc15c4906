"""The pipe between worker and driver: one byte per renewed lease, another to ask for a cooperative end.

The driver's side is here, the worker's in `workers.claim`. A driver whose worker is silent for two thirds of
the lease ends itself, so that it is gone before anybody else can claim the job.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from enum import StrEnum

RENEWED = b"r"
CANCEL = b"c"
PATIENCE = 2 / 3  # of the lease


class Silence(StrEnum):
    """Why a driver must end itself."""

    WORKER_ENDED = "the worker has ended"
    NOT_RENEWED = "the lease was not renewed in time"


class RenewalWatch:
    """Reads the pipe in a thread of its own, by the monotonic clock, which does not stop with the process."""

    def __init__(
        self,
        *,
        pipe: int,
        lease_seconds: float,
        on_cancel: Callable[[], None],
        on_silence: Callable[[Silence], None],
    ) -> None:
        """`pipe` is a file descriptor. Both calls come from the watching thread, each at most once."""
        self._pipe = pipe
        self._patience_seconds = PATIENCE * lease_seconds
        self._on_cancel = on_cancel
        self._on_silence = on_silence
        self._cancelled = False
        self._thread = threading.Thread(target=self._watch, name="renewals", daemon=True)

    def start(self) -> None:
        """Begin to watch; the lease counts as renewed now."""
        self._deadline = time.monotonic() + self._patience_seconds
        self._thread.start()

    def _watch(self) -> None:
        while (silence := self._listen()) is None:
            pass
        self._on_silence(silence)

    def _listen(self) -> Silence | None:
        left = self._deadline - time.monotonic()
        # Asked before reading: bytes that waited in the pipe while we were stopped are no sign of life.
        if left <= 0:
            return Silence.NOT_RENEWED
        ready, _, _ = select.select([self._pipe], [], [], left)
        if not ready or time.monotonic() >= self._deadline:
            return Silence.NOT_RENEWED
        received = os.read(self._pipe, 4096)
        if not received:
            return Silence.WORKER_ENDED
        if RENEWED in received:
            self._deadline = time.monotonic() + self._patience_seconds
        if CANCEL in received and not self._cancelled:
            self._cancelled = True
            self._on_cancel()
        return None
