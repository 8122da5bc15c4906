"""The driver's writing: every change of its job goes through here, fenced by the lease, one transaction each.

While the database is unavailable a write is tried again and again: if that lasts longer than the lease, the
renewals fail to arrive and end the process. LeaseLost is never caught: who raises it must stop at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from search.records import (
    CurvePoint,
    Proposal,
    StageName,
    Stopped,
    TrialError,
    TrialKey,
    TrialRecord,
    TrialState,
)
from search.spec import JobSpec
from service.store import artifacts, events, jobs, queue, recipes, reports, tables, trials
from service.store.leases import Lease
from service.store.session import Session, Store
from service.store.states import EventKind, JobState, Level, Reason
from workers.assignment import Completed, Reported, StoredFile
from workers.patience import patiently

Answer = TypeVar("Answer")
COMPLETED = "completed"


@dataclass(frozen=True)
class RecordedTrial:
    """A trial as SQL holds it."""

    id: str
    record: TrialRecord
    files: tuple[StoredFile, ...] = ()


@dataclass(frozen=True)
class RecordedJob:
    """A job as SQL holds it."""

    spec: JobSpec
    dry_run: bool
    stage: StageName | None
    trials: tuple[RecordedTrial, ...]


class Recorder:
    """Reads and writes one job under one lease."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store, self.lease = store, lease

    def load(self) -> RecordedJob:
        """All that is recorded of the job."""

        def read() -> RecordedJob:
            with self._store.session() as session:
                return _load(session, self.lease.job_id)

        return patiently(read, give_up=_never)

    def elapsed_seconds(self) -> float:
        """Seconds since the job was first claimed, by the database's clock."""

        def read() -> float:
            with self._store.session() as session:
                return jobs.elapsed_seconds(session, job_id=self.lease.job_id)

        return patiently(read, give_up=_never)

    def stage_begins(self, stage: StageName, *, progress: dict[str, Any]) -> None:
        """Tell that the job has come to another stage, and how far it is."""

        def write(session: Session) -> None:
            queue.update_progress(session, lease=self.lease, progress=progress)
            events.report(
                session,
                lease=self.lease,
                kind=EventKind.JOB_STAGE,
                message=f"Stage {stage} begins",
                data={"stage": stage},
            )

        self._write(write)

    def progress(self, progress: dict[str, Any], *, tell: bool) -> None:
        """Replace the job's progress; `tell` makes it an event, too."""

        def write(session: Session) -> None:
            queue.update_progress(session, lease=self.lease, progress=progress)
            if tell:
                events.report(
                    session,
                    lease=self.lease,
                    kind=EventKind.JOB_PROGRESS,
                    message=progress["message"],
                    data=progress,
                )

        self._write(write)

    def trouble(self, message: str) -> None:
        """Tell of trouble that the next attempt may not have."""
        self._write(
            lambda session: events.report(
                session,
                lease=self.lease,
                kind=EventKind.JOB_PROGRESS,
                level=Level.ERROR,
                message=message,
            )
        )

    def propose(self, proposals: Sequence[Proposal]) -> list[RecordedTrial]:
        """Commit proposals, before they start."""
        new = [
            trials.NewTrial(
                stage=proposal.key.stage,
                arm=proposal.key.arm,
                seed=proposal.key.seed,
                index=proposal.key.index,
                parameters=proposal.parameters,
            )
            for proposal in proposals
        ]
        rows = self._write(lambda session: trials.insert_proposals(session, lease=self.lease, proposals=new))
        return [RecordedTrial(row.id, _record(row, ())) for row in rows]

    def started(self, trial_id: str, *, node: str) -> None:
        """An actor is at work on the trial."""
        self._write(
            lambda session: trials.mark_running(session, lease=self.lease, trial_id=trial_id, node=node)
        )

    def report(self, trial_id: str, report: Reported) -> None:
        """A row of figures, at once."""
        row = reports.NewReport(report.step, report.epoch, report.figures, report.is_validation)
        self._write(lambda session: reports.upsert(session, lease=self.lease, trial_id=trial_id, rows=[row]))

    def stopped_early(self, trial_id: str, stopped: Stopped, *, step: int, device_seconds: float) -> None:
        """The plan has stopped the trial after the report at this step."""

        def write(session: Session) -> None:
            reports.forget_after(session, lease=self.lease, trial_id=trial_id, step=step)
            trials.finish(
                session,
                lease=self.lease,
                trial_id=trial_id,
                state=TrialState.STOPPED_EARLY,
                stopped=dict(vars(stopped)),
                device_seconds=device_seconds,
            )

        self._write(write)

    def completed(self, trial_id: str, outcome: Completed, *, is_preflight: bool) -> None:
        """The trial's result and files; preflight's result is the job's, too."""

        def write(session: Session) -> None:
            for file in outcome.files:
                artifacts.record(session, lease=self.lease, trial_id=trial_id, **file.model_dump())
            if is_preflight:
                queue.record_preflight(session, lease=self.lease, preflight=outcome.result)
            trials.finish(
                session,
                lease=self.lease,
                trial_id=trial_id,
                state=TrialState.COMPLETED,
                result=outcome.result,
                device_seconds=outcome.device_seconds,
            )

        self._write(write)

    def failed(self, trial_id: str, error: TrialError, *, device_seconds: float) -> None:
        """The trial's own failure."""
        self._write(
            lambda session: trials.finish(
                session,
                lease=self.lease,
                trial_id=trial_id,
                state=TrialState.FAILED,
                error_code=error.code,
                error_message=error.message,
                device_seconds=device_seconds,
            )
        )

    def succeed(self, *, message: str, report: dict[str, Any] | None, recipe: dict[str, Any] | None) -> None:
        """End the job: its report and its recipe, in one moment. Both are None for a dry run."""

        def write(session: Session) -> None:
            stored = _store_recipe(session, self.lease, recipe) if recipe is not None else None
            queue.finish(
                session,
                lease=self.lease,
                state=JobState.SUCCEEDED,
                reason=COMPLETED,
                message=message,
                report=report,
                recipe_id=stored.id if stored is not None else None,
            )

        self._write(write)

    def fail(self, error: TrialError) -> None:
        """End the job: it cannot succeed."""
        self._finish(JobState.FAILED, reason=error.code, message=error.message)

    def cancel(self) -> None:
        """End the job: its user asked for it."""
        self._finish(JobState.CANCELLED, reason=Reason.CANCELLED, message=None)

    def _finish(self, state: JobState, *, reason: str, message: str | None) -> None:
        self._write(
            lambda session: queue.finish(
                session, lease=self.lease, state=state, reason=reason, message=message
            )
        )

    def _write(self, write: Callable[[Session], Answer]) -> Answer:
        def transact() -> Answer:
            with self._store.begin_write() as session:
                return write(session)

        return patiently(transact, give_up=_never)


def _never() -> bool:
    return False


def _load(session: Session, job_id: str) -> RecordedJob:
    job = jobs.get(session, job_id=job_id)
    if job is None:
        raise LookupError(f"there is no job {job_id}")
    curves = reports.validations(session, job_id=job_id)
    files: dict[str | None, list[StoredFile]] = {}
    for artifact in artifacts.list_for_job(session, job_id=job_id):
        files.setdefault(artifact.trial_id, []).append(_stored(artifact))
    stage = (job.progress or {}).get("stage")
    return RecordedJob(
        spec=JobSpec.model_validate_json(json.dumps(job.spec)),
        dry_run=job.dry_run,
        stage=StageName(stage) if stage else None,
        trials=tuple(
            RecordedTrial(row.id, _record(row, curves.get(row.id, ())), tuple(files.get(row.id, ())))
            for row in trials.list_for_job(session, job_id=job_id)
        ),
    )


def _stored(artifact: tables.Artifact) -> StoredFile:
    return StoredFile(name=artifact.name, path=artifact.path, bytes=artifact.bytes, sha256=artifact.sha256)


def _record(row: tables.Trial, curve: Sequence[reports.MetricRow]) -> TrialRecord:
    error = TrialError(row.error_code, row.error_message or "") if row.error_code else None
    return TrialRecord(
        key=TrialKey(StageName(row.stage), row.arm, row.seed, row.index),
        state=TrialState(row.state),
        parameters=row.parameters,
        result=row.result,
        curve=tuple(
            CurvePoint(point.step, point.epoch, point.figures["accuracy"])
            for point in curve
            if "accuracy" in point.figures
        ),
        stopped=Stopped(**row.stopped) if row.stopped else None,
        error=error,
        device_seconds=row.device_seconds,
    )


def _store_recipe(session: Session, lease: Lease, document: dict[str, Any]) -> tables.Recipe:
    task = document["task"]
    return recipes.record(
        session,
        lease=lease,
        document=document,
        schema_version=document["schema_version"],
        arm=document["arm"],
        teacher=task["teachers"][0]["model"],
        student=task["student"]["model"],
        data=task["data"],
    )
