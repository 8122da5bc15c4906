"""Riding out a database that restarts: try again while there is still a point in it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from service.store.errors import StoreUnavailable

Answer = TypeVar("Answer")
log = structlog.get_logger(__name__)


def patiently(
    action: Callable[[], Answer],
    *,
    give_up: Callable[[], bool],
    first_wait_seconds: float = 0.1,
    longest_wait_seconds: float = 2.0,
    sleep: Callable[[float], object] = time.sleep,
) -> Answer:
    """Carry out a whole transaction, again and again while the database is unavailable.

    `give_up` is asked after each failure; once it says yes, StoreUnavailable is raised. The action may have
    been done although it failed (the connection broke at the commit), so doing it twice must do no harm.
    """
    wait_seconds = first_wait_seconds
    while True:
        try:
            return action()
        except StoreUnavailable as unavailable:
            if give_up():
                raise
            log.warning(
                "store_unavailable", error=str(unavailable).splitlines()[0], wait_seconds=wait_seconds
            )
            sleep(wait_seconds * random.uniform(0.75, 1.25))
            wait_seconds = min(2 * wait_seconds, longest_wait_seconds)
