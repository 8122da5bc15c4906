"""Keeping a lease: renewed from a thread of its own, which tells the driver and learns of cancellation."""

from __future__ import annotations

import threading
import time

import structlog

from service.settings import Settings
from service.store import queue, workers
from service.store.errors import LeaseLost, StoreUnavailable
from service.store.queue import Claimed, RetryPolicy
from service.store.session import Store
from workers.process import Driver
from workers.renewals import RENEWED

log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews one lease until `stop`, and tells the driver of each success; a lost lease ends the driver."""

    def __init__(
        self,
        *,
        store: Store,
        settings: Settings,
        worker_id: str,
        claimed: Claimed,
        driver: Driver,
        claimed_at: float,
    ) -> None:
        """`claimed_at`: the monotonic time before the claim, so that we never count on more than there is."""
        self._store = store
        self._settings = settings
        self._worker_id = worker_id
        self._claimed = claimed
        self._driver = driver
        self._renewed_at = claimed_at
        self._stopped = threading.Event()
        self._lost = False
        self.is_finished = False
        self.is_cancel_requested = claimed.job.cancel_requested_at is not None
        self._thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Whether the lease is gone, by the database's word or by our own clock; asks no database."""
        return not self.is_finished and (self._lost or time.monotonic() >= self.runs_out_at)

    @property
    def runs_out_at(self) -> float:
        """The monotonic time at which the lease runs out unless it is renewed."""
        return self._renewed_at + self._settings.lease_seconds

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Renew no more. Waits for a renewal under way, but not for a database that hangs."""
        self._stopped.set()
        self._thread.join(timeout=self._settings.heartbeat_seconds)

    def _keep(self) -> None:
        settings = self._settings
        while (
            not self._stopped.wait(min(settings.poll_seconds, settings.heartbeat_seconds))
            and not self.is_lost
        ):
            try:
                self._step()
            except StoreUnavailable as unavailable:
                # Unreachable is not dead: the lease is ours as long as it may still be renewed.
                log.warning(
                    "renewal_failed", job_id=self._claimed.job.id, error=str(unavailable).splitlines()[0]
                )
        if self.is_lost:
            self._driver.kill()

    def _step(self) -> None:
        if time.monotonic() >= self._renewed_at + self._settings.heartbeat_seconds:
            self._renew()
            self._look_after_others()
        elif not self.is_cancel_requested:
            with self._store.session() as session:
                self.is_cancel_requested = queue.is_cancel_requested(session, lease=self._claimed.lease)

    def _renew(self) -> None:
        began_at = time.monotonic()
        try:
            with self._store.begin_write() as session:
                renewal = queue.heartbeat(
                    session, lease=self._claimed.lease, lease_seconds=self._settings.lease_seconds
                )
        except LeaseLost:
            self._learn_why()
            return
        self._renewed_at = began_at
        self.is_cancel_requested = renewal.cancel_requested
        self._driver.tell(RENEWED)

    def _learn_why(self) -> None:
        with self._store.session() as session:
            self.is_finished = queue.has_finished(session, lease=self._claimed.lease)
        self._lost = not self.is_finished
        if self.is_finished:
            self._driver.tell(RENEWED)  # it is only clearing up
        else:
            log.warning("lease_lost", job_id=self._claimed.job.id, attempt=self._claimed.lease.attempt)

    def _look_after_others(self) -> None:
        with self._store.begin_write() as session:
            workers.heartbeat(session, worker_id=self._worker_id)
            queue.expire_leases(session, policy=RetryPolicy.from_settings(self._settings))
