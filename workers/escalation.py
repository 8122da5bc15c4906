"""Ending a driver step by step: asked, told, killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from service.settings import Settings
from workers.process import Driver
from workers.renewals import CANCEL


class Pressure(IntEnum):
    """Why a driver should end; the greater one wins."""

    NONE = 0
    FINISHED = 1  # it has ended its job and should soon be gone
    CANCEL = 2
    STOP = 3  # the worker is being stopped
    STOP_NOW = 4  # it was told so twice
    LOST = 5  # the lease is gone: whatever the driver does is in vain


@dataclass(frozen=True)
class Step:
    """Something to do so many seconds after the step before."""

    after_seconds: float
    action: Callable[[], None]


def steps(pressure: Pressure, *, driver: Driver, settings: Settings) -> Sequence[Step]:
    """What is done to a driver under this pressure, in order."""
    grace_seconds = settings.cancel_grace_seconds
    terminate_then_kill = (Step(grace_seconds, driver.terminate), Step(grace_seconds, driver.kill))
    match pressure:
        case Pressure.NONE:
            return ()
        case Pressure.FINISHED:
            return terminate_then_kill
        case Pressure.CANCEL:
            return (Step(0.0, lambda: driver.tell(CANCEL)), *terminate_then_kill)
        case Pressure.STOP:
            return (Step(0.0, driver.terminate), Step(settings.stop_grace_seconds, driver.kill))
        case Pressure.STOP_NOW | Pressure.LOST:
            return (Step(0.0, driver.kill),)


class Escalation:
    """Applies the steps of the greatest pressure so far, each in its time."""

    def __init__(self, *, driver: Driver, settings: Settings) -> None:
        self._driver = driver
        self._settings = settings
        self._pressure = Pressure.NONE
        self._ahead: list[Step] = []
        self._last = time.monotonic()

    def advance(self, pressure: Pressure) -> None:
        """Take the steps that are due now. Greater pressure starts its own steps; lesser changes nothing."""
        if pressure > self._pressure:
            self._pressure = pressure
            self._ahead = list(steps(pressure, driver=self._driver, settings=self._settings))
            self._last = time.monotonic()
        # From when the step before was taken, not from when it was due: a late one leaves its whole grace.
        while self._ahead and self._last + self._ahead[0].after_seconds <= time.monotonic():
            self._ahead.pop(0).action()
            self._last = time.monotonic()
