"""A worker process for tests, without Ray: its drivers are `tests.workers.driver_program`, or threads.

python -m tests.workers.worker_program URL SETTINGS_JSON [--in-threads] [-- DRIVER_OPTION ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import threading

from service.settings import Settings
from service.store import events, queue
from service.store.queue import Claimed
from service.store.session import Store, open_store
from workers.claim import WorkerLoop, stop_on_signals
from workers.process import Driver, start

OFFERS = ["dataset:digits"]


class ThreadDriver:
    """A driver that is a thread of this process: for tests of the queue alone."""

    pid = 0

    def __init__(self, store: Store, claimed: Claimed) -> None:
        self._store = store
        self._claimed = claimed
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        lease = self._claimed.lease
        owner = self._claimed.job.lease_owner
        with self._store.begin_write() as session:
            events.report(session, lease=lease, kind="job.stage", message="done once", data={"owner": owner})
        with self._store.begin_write() as session:
            queue.finish(session, lease=lease, state="succeeded", reason="by_the_driver")

    def tell(self, message: bytes) -> None:
        """Threads are not told."""

    def poll(self) -> int | None:
        """Status 0 once the thread has ended."""
        return None if self._thread.is_alive() else 0

    def terminate(self) -> None:
        """Threads end by themselves."""

    def kill(self) -> None:
        """Threads end by themselves."""


def main() -> None:
    """Run the loop until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--in-threads", action="store_true")
    parser.add_argument("driver_options", nargs="*")
    arguments = parser.parse_args()
    settings = Settings(database_url=arguments.url, **arguments.settings)
    store = open_store(arguments.url)

    def run(claimed: Claimed) -> Driver:
        if arguments.in_threads:
            return ThreadDriver(store, claimed)
        lease = claimed.lease
        program = [sys.executable, "-m", "tests.workers.driver_program", arguments.url, lease.job_id]
        numbers = [str(lease.attempt), str(lease.token), str(settings.lease_seconds)]
        return start([*program, *numbers, *arguments.driver_options])

    loop = WorkerLoop(store=store, settings=settings, runner=run, offers=OFFERS)
    stop_on_signals(loop)
    loop.run()


if __name__ == "__main__":
    main()
