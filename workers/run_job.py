"""The driver, `python -m workers.run_job --job ID --attempt N --token T`: the process that carries out a job.

Started by its worker in a session of its own, with the renewal pipe as standard input. It owns its local Ray,
so that the two end together. When the renewals stay away, the lease is lost or SIGTERM comes it ends at once:
all that matters is in SQL and in the artifact root already.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import NoReturn

import structlog

from search.registry import load_plans
from service.logs import configure_logs
from service.settings import Settings
from service.store.errors import LeaseLost
from service.store.leases import Lease
from service.store.session import open_store
from workers import ray_environment
from workers.conductor import ClusterUnreachableError, NoResourcesError
from workers.job_conductor import JobConductor
from workers.recording import Recorder
from workers.renewals import RenewalWatch, Silence
from workers.trial_actor import scratch_of

log = structlog.get_logger(__name__)


REMOVALS, REMOVAL_SECONDS = 10, 0.3


class Exit(IntEnum):
    """Exit statuses. With all but DONE the job is not over, and its worker gives it back."""

    DONE = 0
    TROUBLE = 1
    SILENCE = 3
    LEASE_LOST = 4
    TERMINATED = 143


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Carry out the job; never returns."""
    lease = _lease(arguments)
    settings = Settings()
    configure_logs(settings.log_level)
    structlog.contextvars.bind_contextvars(job_id=lease.job_id, attempt=lease.attempt)
    driver = Driver(lease, settings)
    driver.end(driver.run())


class Driver:
    """One attempt at one job."""

    def __init__(self, lease: Lease, settings: Settings) -> None:
        self._lease, self._settings = lease, settings
        self._recorder = Recorder(open_store(settings.database_url), lease)
        self._conductor: JobConductor | None = None
        self._is_cancelled = False

    def run(self) -> Exit:
        """Watch the renewals, load the job, execute its plan, record its end."""
        self._handle_signals()
        self._watch().start()
        # A predecessor that was killed a moment ago may have left processes that still want to end.
        ray_environment.end_processes_of(self._lease.job_id)
        self._remove_ray_files("*")
        self._remove_scratch()
        try:
            self._carry_out()
            self._remove_scratch()
        except LeaseLost:
            log.warning("lease_lost")
            return Exit.LEASE_LOST
        except Exception as error:
            log.exception("driver_failed")
            with suppress(LeaseLost):
                self._recorder.trouble(_words(error))
            return Exit.TROUBLE
        return Exit.DONE

    def end(self, status: Exit) -> NoReturn:
        """End this process and its Ray, now."""
        ray_environment.end_processes_of(self._lease.job_id, driver=os.getpid())
        self._remove_ray_files(f"{self._lease.attempt}")
        sys.stderr.flush()
        os._exit(status)

    def _handle_signals(self) -> None:
        """SIGTERM ends everything at once. SIGINT, which a terminal sends to all, is left to the worker."""
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _on_terminate(self, number: int, frame: FrameType | None) -> NoReturn:
        self.end(Exit.TERMINATED)

    def _watch(self) -> RenewalWatch:
        return RenewalWatch(
            pipe=sys.stdin.fileno(),
            lease_seconds=self._settings.lease_seconds,
            on_cancel=self._cancel,
            on_silence=self._fall_silent,
        )

    def _cancel(self) -> None:
        """From the watching thread."""
        self._is_cancelled = True
        if self._conductor is not None:
            self._conductor.cancel()

    def _fall_silent(self, silence: Silence) -> None:
        """From the watching thread; the main one may be anywhere."""
        log.warning("driver_ends_itself", reason=silence)
        self.end(Exit.SILENCE)

    def _carry_out(self) -> None:
        load_plans()
        job = self._recorder.load()
        conductor = self._conductor = JobConductor(self._recorder, job, self._settings)
        if self._is_cancelled:
            conductor.cancel()
        if conductor.is_halted or conductor.is_over:
            conductor.conclude()
            return
        self._execute(conductor, self._make_ray_directory())

    def _execute(self, conductor: JobConductor, directory: Path) -> None:
        settings = self._settings
        ray_environment.prepare(job_id=self._lease.job_id, is_local=settings.ray_address is None)
        from workers import tune

        cluster = (
            tune.joined_cluster(settings.ray_address)
            if settings.ray_address
            else tune.local_cluster(cpus=settings.cpus, gpus=settings.gpus, temp_dir=directory)
        )
        with cluster:
            self._handle_signals()  # Ray has put handlers of its own in their place
            try:
                tune.require_resources(conductor.resources)
            except NoResourcesError as error:
                conductor.refuse("no_resources", str(error))
            else:
                tune.execute(
                    conductor,
                    resources=conductor.resources,
                    concurrent_trials=conductor.concurrent_trials,
                    storage=directory / "tune",
                    is_exclusive=settings.ray_address is None,
                )
            conductor.conclude()

    def _make_ray_directory(self) -> Path:
        directory = self._settings.ray_temp_dir / f"{self._directory_prefix}{self._lease.attempt}"
        directory.mkdir(parents=True, mode=0o700)
        return directory

    @property
    def _directory_prefix(self) -> str:
        return f"{self._lease.job_id[-8:].lower()}-"

    def _remove_ray_files(self, attempts: str) -> None:
        """Of one attempt at this job on this machine, or of all (`*`); their processes have been ended."""
        for directory in self._settings.ray_temp_dir.glob(f"{self._directory_prefix}{attempts}"):
            _remove_tree(directory)

    def _remove_scratch(self) -> None:
        """Of all trials of the job: at the start its predecessors' are dead, at the end its own are over."""
        shutil.rmtree(scratch_of(self._settings.cache_root, self._lease.job_id), ignore_errors=True)


def _remove_tree(directory: Path) -> None:
    """Tried a few times: what an ended process still had to write may arrive while its directory goes."""
    for _ in range(REMOVALS):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(REMOVAL_SECONDS)


def _words(error: Exception) -> str:
    if isinstance(error, ClusterUnreachableError):
        return str(error)
    return f"The driver failed: {type(error).__name__}: {error}"


def _lease(arguments: Sequence[str] | None) -> Lease:
    parser = argparse.ArgumentParser(prog="workers.run_job", description="Carry out one claimed job.")
    parser.add_argument("--job", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--token", type=int, required=True, help="the lease token of the claim")
    given = parser.parse_args(arguments)
    return Lease(given.job, given.attempt, given.token)


if __name__ == "__main__":
    main()
