"""Trials: the training runs of a job."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from service.store import events, leases
from service.store.columns import now
from service.store.errors import StateConflict
from service.store.ids import Prefix, new_id
from service.store.leases import Lease
from service.store.snapshots import every, one_or_none
from service.store.states import EventKind, Level, TrialState
from service.store.tables import Job, Trial

UNFINISHED = (TrialState.PROPOSED, TrialState.RUNNING)
_ENDS = {
    TrialState.COMPLETED: (EventKind.TRIAL_FINISHED, Level.INFO),
    TrialState.STOPPED_EARLY: (EventKind.TRIAL_STOPPED_EARLY, Level.INFO),
    TrialState.FAILED: (EventKind.TRIAL_FAILED, Level.WARNING),
    TrialState.CANCELLED: (EventKind.TRIAL_FINISHED, Level.INFO),
}


@dataclass(frozen=True)
class NewTrial:
    """A proposal to be recorded; (stage, arm, seed, index) is its key inside the job."""

    stage: str
    arm: str
    seed: int
    index: int
    parameters: dict[str, Any] = field(default_factory=dict)


def insert_proposals(session: Session, *, lease: Lease, proposals: Sequence[NewTrial]) -> list[Trial]:
    """Record proposals as `proposed` and return their rows; one whose key is there already stays as it is."""
    leases.require(session, lease)
    recorded = {_key(trial): trial for trial in list_for_job(session, job_id=lease.job_id)}
    fresh = [
        {"id": new_id(Prefix.TRIAL), "job_id": lease.job_id, "state": TrialState.PROPOSED, **vars(proposal)}
        for proposal in proposals
        if _key(proposal) not in recorded
    ]
    if fresh:
        session.execute(insert(Trial), fresh)
        recorded = {_key(trial): trial for trial in list_for_job(session, job_id=lease.job_id)}
    return [recorded[_key(proposal)] for proposal in proposals]


def mark_running(session: Session, *, lease: Lease, trial_id: str, node: str | None = None) -> Trial:
    """Set an unfinished trial `running` under the lease's attempt: its start, or its restart after a crash.

    Raises StateConflict when the trial has ended already.
    """
    leases.require(session, lease)
    trial: Trial | None = one_or_none(
        session,
        _unfinished(lease, trial_id)
        .values(
            state=TrialState.RUNNING,
            attempt=lease.attempt,
            started_at=func.coalesce(Trial.started_at, now()),
            node=node,
        )
        .returning(Trial),
    )
    if trial is None:
        raise StateConflict(f"{trial_id} has ended, or is no trial of {lease.job_id}; it cannot start")
    events.append(
        session,
        job_id=lease.job_id,
        kind=EventKind.TRIAL_STARTED,
        message=f"{_title(trial)} started",
        data={**_facts(trial), "node": node},
    )
    return trial


def finish(
    session: Session,
    *,
    lease: Lease,
    trial_id: str,
    state: TrialState | str,
    result: dict[str, Any] | None = None,
    stopped: dict[str, Any] | None = None,
    error_code: str | None = None,
    error_message: str | None = None,
    device_seconds: float = 0.0,
) -> Trial:
    """End an unfinished trial; again in the same state changes nothing, in another raises StateConflict.

    Every end but `cancelled` is progress: the job's fruitless attempts count from zero again.
    """
    leases.require(session, lease)
    end = TrialState(state)
    if not end.is_final:
        raise ValueError(f"a trial cannot end as {end}")
    ended: Trial | None = one_or_none(
        session,
        _unfinished(lease, trial_id)
        .values(
            state=end,
            result=result,
            stopped=stopped,
            error_code=error_code,
            error_message=error_message,
            device_seconds=device_seconds,
            finished_at=now(),
        )
        .returning(Trial),
    )
    if ended is None:
        return _ended_before(session, lease=lease, trial_id=trial_id, state=end)
    if end is not TrialState.CANCELLED:
        note_progress(session, job_id=lease.job_id)
    _tell_end(session, ended)
    return ended


def get(session: Session, *, trial_id: str) -> Trial | None:
    """The trial, or None."""
    trial: Trial | None = one_or_none(session, select(Trial).where(Trial.id == trial_id))
    return trial


def list_for_job(
    session: Session,
    *,
    job_id: str,
    states: Collection[TrialState] | None = None,
    stage: str | None = None,
    after: str | None = None,
    limit: int | None = None,
) -> list[Trial]:
    """The job's trials in the order in which they were proposed; `after` is the id of the last one seen."""
    statement = select(Trial).where(Trial.job_id == job_id).order_by(Trial.id)
    if states is not None:
        statement = statement.where(Trial.state.in_(states))
    if stage is not None:
        statement = statement.where(Trial.stage == stage)
    if after is not None:
        statement = statement.where(Trial.id > after)
    return every(session, statement if limit is None else statement.limit(limit))


def count_by_state(session: Session, *, job_id: str) -> dict[TrialState, int]:
    """How many of the job's trials are in each state; states without a trial are left out."""
    rows = session.execute(
        select(Trial.state, func.count()).where(Trial.job_id == job_id).group_by(Trial.state)
    ).all()
    return {TrialState(state): count for state, count in rows}


def cancel_unfinished(session: Session, *, job_id: str) -> None:
    """Set unfinished trials of a job that ends `cancelled`. For `jobs` only, with the job's row locked."""
    session.execute(
        update(Trial)
        .where(Trial.job_id == job_id, Trial.state.in_(UNFINISHED))
        .values(state=TrialState.CANCELLED, finished_at=now())
        .execution_options(synchronize_session=False)
    )


def interrupt_running(session: Session, *, job_id: str) -> None:
    """Set the running trials of a job that is queued again `proposed`. For `queue` only, as above.

    Their reports and checkpoints stay: the next driver resumes them from there.
    """
    session.execute(
        update(Trial)
        .where(Trial.job_id == job_id, Trial.state == TrialState.RUNNING)
        .values(state=TrialState.PROPOSED)
        .execution_options(synchronize_session=False)
    )


def note_progress(session: Session, *, job_id: str) -> None:
    """Set the job's fruitless attempts to zero. For fenced writers only, with the job's row locked."""
    session.execute(
        update(Job)
        .where(Job.id == job_id, Job.fruitless_attempts != 0)
        .values(fruitless_attempts=0)
        .execution_options(synchronize_session=False)
    )


def _unfinished(lease: Lease, trial_id: str) -> Any:
    return (
        update(Trial)
        .where(Trial.id == trial_id, Trial.job_id == lease.job_id, Trial.state.in_(UNFINISHED))
        .execution_options(synchronize_session=False)
    )


def _ended_before(session: Session, *, lease: Lease, trial_id: str, state: TrialState) -> Trial:
    trial = get(session, trial_id=trial_id)
    if trial is None or trial.job_id != lease.job_id:
        raise StateConflict(f"{trial_id} is no trial of {lease.job_id}")
    if trial.state is not state:
        raise StateConflict(f"{trial_id} has ended as {trial.state} already; it cannot end as {state}")
    return trial


def _tell_end(session: Session, trial: Trial) -> None:
    kind, level = _ENDS[trial.state]
    words = trial.state.replace("_", " ")
    because = f": {trial.error_message or trial.error_code}" if trial.error_code else ""
    data = {**_facts(trial), "state": trial.state, "stopped": trial.stopped, "error_code": trial.error_code}
    accuracy = (trial.result or {}).get("accuracy")
    if isinstance(accuracy, float):
        data["accuracy"] = accuracy
    events.append(
        session,
        job_id=trial.job_id,
        kind=kind,
        level=level,
        message=f"{_title(trial)} {words}{because}",
        data=data,
    )


def _key(trial: Trial | NewTrial) -> tuple[str, str, int, int]:
    return (trial.stage, trial.arm, trial.seed, trial.index)


def _title(trial: Trial) -> str:
    return f"{trial.stage} {trial.arm} (seed {trial.seed}, index {trial.index})"


def _facts(trial: Trial) -> dict[str, Any]:
    return {
        "trial_id": trial.id,
        "stage": trial.stage,
        "arm": trial.arm,
        "seed": trial.seed,
        "index": trial.index,
        "attempt": trial.attempt,
    }
