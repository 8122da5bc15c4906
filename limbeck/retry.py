"""When to try again: after no answer, or one that says "not now". Repeated POSTs carry one key."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from limbeck.errors import ApiError, ConnectionFailed, api_error
from limbeck.flow import Call, Flow, Pause, Reply

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
RETRIED_CODES = frozenset({"idempotency_in_flight"})
NO_WORKER_YET = "catalogue_empty"
LONGEST_PAUSE_SECONDS = 10.0


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long. Pauses double from the first, with jitter; the server's advice wins."""

    max_retries: int = 3
    first_pause_seconds: float = 0.25
    wait_for_worker_seconds: float = 60.0
    patience_seconds: float = 60.0
    random: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    def pause_seconds(self, failures: int, advice: float | None = None) -> float:
        """Seconds before the next attempt, after so many failures (from 1); never longer than 10 s."""
        doubled = min(self.first_pause_seconds * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE_SECONDS)
        jittered = doubled * (0.5 + self.random() / 2)
        return min(max(jittered, advice or 0.0), LONGEST_PAUSE_SECONDS)


def _again(error: ApiError, policy: RetryPolicy, *, failures: int, waited_seconds: float) -> bool:
    if error.code == NO_WORKER_YET:
        return waited_seconds < policy.wait_for_worker_seconds
    retried = error.status_code in RETRIED_STATUSES or error.code in RETRIED_CODES
    return retried and failures <= policy.max_retries


def with_retries(attempt: Callable[[Call], Flow[Reply]], call: Call, policy: RetryPolicy) -> Flow[Reply]:
    """Attempt the call until it is answered with a status below 400.

    Raises the last ApiError or ConnectionFailed. "No worker yet" does not count as a failure while
    `wait_for_worker_seconds` last: a fresh server says so until its worker is up.
    """
    failures = 0
    started = policy.clock()
    while True:
        try:
            reply = yield from attempt(call)
            if reply.status < 400:
                return reply
            raise api_error(reply)
        except ConnectionFailed:
            failures += 1
            if failures > policy.max_retries:
                raise
            pause = policy.pause_seconds(failures)
        except ApiError as error:
            failures += 1
            waited = policy.clock() - started
            if not _again(error, policy, failures=failures, waited_seconds=waited):
                raise
            pause = policy.pause_seconds(failures, error.retry_after_seconds)
        yield Pause(pause)
