"""Waiting without giving up too soon, and not for ever: deadlines, and servers that restart meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from limbeck.errors import ConnectionFailed
from limbeck.flow import Flow, Pause
from limbeck.retry import RetryPolicy

T = TypeVar("T")


class Deadline:
    """A point in time by the monotonic clock; never, for a timeout of None."""

    def __init__(self, timeout_seconds: float | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends_at = math.inf if timeout_seconds is None else clock() + timeout_seconds

    @property
    def remaining_seconds(self) -> float:
        """Seconds left; not below zero."""
        return max(self._ends_at - self._clock(), 0.0)

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.remaining_seconds == 0.0


class Patience:
    """Allows failures to connect as long as the last answer is not too old."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._restart()

    def _restart(self) -> None:
        self._ends = Deadline(self._policy.patience_seconds, self._policy.clock)

    def answered(self) -> None:
        """The server spoke: start over."""
        self._failures = 0
        self._restart()

    def pause_seconds(self, error: Exception) -> float:
        """Seconds until the next attempt; raises the error when patience is at its end."""
        self._failures += 1
        if self._ends.passed:
            raise error
        return self._policy.pause_seconds(self._failures)


def patiently(flow: Callable[[], Flow[T]], policy: RetryPolicy) -> Flow[T]:
    """Carry the flow out, again and again while the server cannot be reached and patience lasts."""
    patience = Patience(policy)
    while True:
        try:
            return (yield from flow())
        except ConnectionFailed as error:
            pause = patience.pause_seconds(error)
        yield Pause(pause)
