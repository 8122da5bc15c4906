"""The claim loop of a worker: it wins jobs, keeps their leases, and sees to it that a lost job has no driver.

Knows neither torch nor Ray: what a driver is, the injected runner says. One job at a time.
Two threads: the main one watches the driver and never waits for the database while a job runs; the keeper
renews the lease. So a database that hangs cannot keep a driver alive past its lease.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import structlog

from service.settings import Settings
from service.store import queue, workers
from service.store.errors import LeaseLost, StoreUnavailable
from service.store.queue import Claimed, RetryPolicy
from service.store.session import Store
from service.store.states import Reason
from workers.escalation import Escalation, Pressure
from workers.lease_keeper import LeaseKeeper
from workers.patience import patiently
from workers.process import Driver

Runner = Callable[[Claimed], Driver]
WATCH_SECONDS = 0.05

log = structlog.get_logger(__name__)


@dataclass
class WorkerLoop:
    """A worker process: `run` until `stop`. `runner` starts the driver of a claimed job and returns at once.

    `offers` are the requirements this worker can meet, `catalogue` is what it publishes.
    """

    store: Store
    settings: Settings
    runner: Runner
    offers: Collection[str]
    catalogue: dict[str, Any] = field(default_factory=dict)
    worker_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    # A plain number: setting a threading.Event in a signal handler can deadlock with a wait for it.
    _stops: int = field(default=0, init=False)
    _heard_at: float = field(default=0.0, init=False)

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` has been called."""
        return self._stops > 0

    def stop(self) -> None:
        """Claim no more, end the driver, give its job back, leave `run`; the second time without grace."""
        self._stops += 1

    def run(self) -> None:
        """Register, then claim and carry out jobs until stopped.

        Call it from the process's main thread: drivers die with the thread that starts them.
        """
        with contextlib.suppress(StoreUnavailable):
            patiently(self._register, give_up=lambda: self.is_stopping, sleep=self._pause)
        while not self.is_stopping:
            claimed_at = time.monotonic()
            claimed = self._look_for_job()
            if claimed is None:
                self._pause(self.settings.poll_seconds * random.uniform(0.5, 1.0))
            else:
                self._carry_out(claimed, claimed_at=claimed_at)
        with contextlib.suppress(StoreUnavailable), self.store.begin_write() as session:
            workers.stop(session, worker_id=self.worker_id)
        log.info("worker_stopped", worker_id=self.worker_id)

    def _register(self) -> None:
        with self.store.begin_write() as session:
            workers.register(
                session,
                worker_id=self.worker_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                catalogue=self.catalogue,
            )
        self._heard_at = time.monotonic()
        log.info("worker_started", worker_id=self.worker_id)

    def _look_for_job(self) -> Claimed | None:
        try:
            with self.store.begin_write() as session:
                if time.monotonic() >= self._heard_at + self.settings.heartbeat_seconds:
                    workers.heartbeat(session, worker_id=self.worker_id)
                    self._heard_at = time.monotonic()
                queue.expire_leases(session, policy=RetryPolicy.from_settings(self.settings))
                return queue.claim(
                    session,
                    owner=self.worker_id,
                    lease_seconds=self.settings.lease_seconds,
                    offers=self.offers,
                )
        except StoreUnavailable as unavailable:
            log.warning("store_unavailable", error=str(unavailable).splitlines()[0])
            return None

    def _carry_out(self, claimed: Claimed, *, claimed_at: float) -> None:
        log.info("job_claimed", job_id=claimed.job.id, attempt=claimed.lease.attempt)
        lost_at = claimed_at + self.settings.lease_seconds
        try:
            driver = self.runner(claimed)
        except Exception as error:  # whatever the trouble is, the job must go back
            log.exception("driver_not_started", job_id=claimed.job.id)
            self._give_back(claimed, detail=f"it could not be started: {error}", until=lost_at)
            return
        keeper = LeaseKeeper(
            store=self.store,
            settings=self.settings,
            worker_id=self.worker_id,
            claimed=claimed,
            driver=driver,
            claimed_at=claimed_at,
        )
        keeper.start()
        status = self._watch(driver, keeper)
        keeper.stop()
        log.info("driver_ended", job_id=claimed.job.id, attempt=claimed.lease.attempt, exit_status=status)
        if not keeper.is_lost:
            self._give_back(claimed, detail=f"exit status {status}", until=keeper.runs_out_at)

    def _watch(self, driver: Driver, keeper: LeaseKeeper) -> int:
        escalation = Escalation(driver=driver, settings=self.settings)
        while (status := driver.poll()) is None:
            escalation.advance(self._pressure(keeper))
            time.sleep(WATCH_SECONDS)
        return status

    def _pressure(self, keeper: LeaseKeeper) -> Pressure:
        if keeper.is_lost:
            return Pressure.LOST
        if self.is_stopping:
            return Pressure.STOP if self._stops == 1 else Pressure.STOP_NOW
        if keeper.is_cancel_requested:
            return Pressure.CANCEL
        return Pressure.FINISHED if keeper.is_finished else Pressure.NONE

    def _give_back(self, claimed: Claimed, *, detail: str, until: float) -> None:
        """Release the job, unless its driver has finished it, as is the rule: the lease is gone then."""
        reason = Reason.WORKER_STOPPED if self.is_stopping else Reason.DRIVER_LOST

        def release() -> None:
            with self.store.begin_write() as session:
                queue.release(
                    session,
                    lease=claimed.lease,
                    reason=reason,
                    policy=RetryPolicy.from_settings(self.settings),
                    detail=None if self.is_stopping else detail,
                )

        if self.is_stopping:
            until = min(until, time.monotonic() + self.settings.stop_grace_seconds)
        with contextlib.suppress(LeaseLost, StoreUnavailable):
            patiently(release, give_up=lambda: time.monotonic() >= until)
            log.warning("job_released", job_id=claimed.job.id, reason=reason, detail=detail)

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.is_stopping and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))


def stop_on_signals(loop: WorkerLoop) -> None:
    """Let SIGTERM and SIGINT stop the loop in order; a second one without grace. For the main thread."""

    def stop(number: int, frame: FrameType | None) -> None:
        loop.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
