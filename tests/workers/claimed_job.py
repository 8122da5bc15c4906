"""A job under one lease after the other, and what must hold of it at its end whatever happened in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.spec import JobSpec
from service.settings import Settings
from service.store import events, jobs, queue, reports, trials
from service.store.leases import Lease
from service.store.queue import RetryPolicy
from service.store.session import Store
from service.store.states import EventKind, Reason, TrialState
from service.store.tables import Event, Job, Trial
from tests.search.planning.simulated_job import make_spec
from workers.job_conductor import JobConductor
from workers.recording import Recorder

POLICY = RetryPolicy(max_fruitless_attempts=1000, backoff_seconds=0.0, max_backoff_seconds=0.0)
SMALL: dict[str, Any] = {
    "training": {"report_every_steps": 1},
    "budget": {"trials": 3, "epochs_per_trial": 3},
    "proof": {"seeds": [0, 1], "arms": ["student_alone", "tuned_kd", "searched"]},
    "search": {"pruning": {"startup_trials": 1, "warmup_epochs": 0, "percentile": 30.0}},
}


class ClaimedJob:
    """A job that is running under `lease`."""

    def __init__(
        self, store: Store, settings: Settings, spec: JobSpec | None = None, *, dry_run: bool = False
    ) -> None:
        self.store, self.settings = store, settings
        self.spec = spec or make_spec(**SMALL)
        new = jobs.NewJob(spec=self.spec.model_dump(mode="json"), requirements=[], dry_run=dry_run)
        with store.begin_write() as session:
            self.id = jobs.insert_queued(session, new=new).id
        self.lease = self.claim()

    def claim(self) -> Lease:
        """Begin the next attempt."""
        with self.store.begin_write() as session:
            claimed = queue.claim(session, owner="worker", lease_seconds=600.0, offers=())
        assert claimed is not None
        assert claimed.job.id == self.id
        self.lease = claimed.lease
        return claimed.lease

    def lose(self) -> Lease:
        """The driver has died; the lease that it held. Its successor has claimed the job."""
        lost = self.lease
        with self.store.begin_write() as session:
            queue.release(session, lease=lost, reason=Reason.DRIVER_LOST, policy=POLICY)
        self.claim()
        return lost

    def recorder(self) -> Recorder:
        """Of a driver under the present lease."""
        return Recorder(self.store, self.lease)

    def conductor(self) -> JobConductor:
        """Of a driver that starts now."""
        recorder = self.recorder()
        return JobConductor(recorder, recorder.load(), self.settings)

    def row(self) -> Job:
        """The job as it is now."""
        with self.store.session() as session:
            job = jobs.get(session, job_id=self.id)
        assert job is not None
        return job

    def trials(self) -> list[Trial]:
        """In the order in which they were proposed."""
        with self.store.session() as session:
            return trials.list_for_job(session, job_id=self.id)

    def events(self, *kinds: EventKind) -> list[Event]:
        """All events, or those of these kinds."""
        with self.store.session() as session:
            found = events.page(session, job_id=self.id, limit=100_000)
        return [event for event in found if not kinds or event.kind in kinds]


def check_reports(store: Store, artifact_root: Path, job_id: str, *, steps: Callable[[Trial], int]) -> int:
    """Every step from 1 to the trial's last exactly once, and the newest attempt's log says the same.

    Holds with `report_every_steps` 1. `steps`: how many steps a completed trial has. The number of rows.
    """
    with store.session() as session:
        rows = {
            trial: reports.of_trial(session, trial_id=trial.id, limit=1_000_000)
            for trial in trials.list_for_job(session, job_id=job_id)
        }
    for trial, shown in rows.items():
        stopped = trial.state is TrialState.STOPPED_EARLY
        last = (trial.stopped or {})["step"] if stopped else steps(trial)
        assert [row.step for row in shown] == list(range(1, last + 1)), f"{trial.stage} {trial.arm}: {shown}"
        _check_log(trial, shown, artifact_root / "jobs" / job_id / trial.id)
    return sum(map(len, rows.values()))


def _check_log(trial: Trial, shown: list[reports.MetricRow], directory: Path) -> None:
    if not shown:
        return
    newest = max(row.attempt for row in shown)
    log = [json.loads(line) for line in (directory / f"reports-{newest}.jsonl").read_text().splitlines()]
    in_sql = [
        {"step": row.step, "epoch": row.epoch, "figures": row.figures, "is_validation": row.is_validation}
        for row in shown
        if row.attempt == newest
    ]
    assert log == in_sql, f"{trial.stage} {trial.arm}, attempt {newest}"


def check_runs_once(found: list[Event]) -> None:
    """A trial that has ended is not started again."""
    ended: set[str] = set()
    for event in found:
        if event.kind == EventKind.TRIAL_STARTED:
            assert event.data["trial_id"] not in ended, event.message
        if event.kind in (EventKind.TRIAL_FINISHED, EventKind.TRIAL_STOPPED_EARLY, EventKind.TRIAL_FAILED):
            ended.add(event.data["trial_id"])
