"""A driver for tests: reports a step every few milliseconds, under its lease, then finishes its job.

python -m tests.workers.driver_program URL JOB ATTEMPT TOKEN LEASE_SECONDS [--steps N] [--stubborn] [--child]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time

from service.store import events, queue, reports, trials
from service.store.errors import LeaseLost
from service.store.leases import Lease
from service.store.session import open_store
from workers.patience import patiently
from workers.renewals import RenewalWatch

LEASE_LOST_STATUS = 3
SILENCE_STATUS = 4


def main() -> int:
    """Carry out the job; the exit status says how it ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("job")
    parser.add_argument("attempt", type=int)
    parser.add_argument("token", type=int)
    parser.add_argument("lease_seconds", type=float)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument(
        "--stubborn", action="store_true", help="ignore cancellation, silence, SIGTERM and a lost lease"
    )
    parser.add_argument("--child", action="store_true", help="start a child process in the same group")
    arguments = parser.parse_args()
    cancelled = threading.Event()
    if arguments.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        RenewalWatch(
            pipe=0,
            lease_seconds=arguments.lease_seconds,
            on_cancel=cancelled.set,
            on_silence=lambda silence: os._exit(SILENCE_STATUS),
        ).start()
    child = subprocess.Popen(["sleep", "60"]).pid if arguments.child else None
    try:
        work(arguments, child=child, cancelled=cancelled)
    except LeaseLost:
        if arguments.stubborn:
            time.sleep(60)
        return LEASE_LOST_STATUS
    return 0


def work(arguments: argparse.Namespace, *, child: int | None, cancelled: threading.Event) -> None:
    """One trial of some steps, then the end of the job; each write rides out a database that restarts."""
    store = open_store(arguments.url)
    lease = Lease(arguments.job, arguments.attempt, arguments.token)

    def begin() -> str:
        with store.begin_write() as session:
            pids = {"pid": os.getpid(), "child": child}
            events.report(session, lease=lease, kind="job.stage", message="at work", data=pids)
            (trial,) = trials.insert_proposals(
                session, lease=lease, proposals=[trials.NewTrial("search", "searched", 0, 0)]
            )
            trials.mark_running(session, lease=lease, trial_id=trial.id)
            return trial.id

    trial_id = patiently(begin, give_up=lambda: False)
    for step in range(1, arguments.steps + 1):

        def report(step: int = step) -> None:
            with store.begin_write() as session:
                row = reports.NewReport(step, 0.0, {"loss": 1.0})
                reports.upsert(session, lease=lease, trial_id=trial_id, rows=[row])

        patiently(report, give_up=lambda: False)
        if cancelled.wait(0.02):
            break

    def finish() -> None:
        with store.begin_write() as session:
            state = "cancelled" if cancelled.is_set() else "succeeded"
            trials.finish(
                session,
                lease=lease,
                trial_id=trial_id,
                state="cancelled" if cancelled.is_set() else "completed",
            )
            queue.finish(session, lease=lease, state=state, reason="by_the_driver")

    patiently(finish, give_up=lambda: False)
    time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
