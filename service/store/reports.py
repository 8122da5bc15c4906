"""Reports: the figures of a trial, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.store import leases, trials
from service.store.errors import StateConflict
from service.store.leases import Lease
from service.store.tables import Report, Trial, metrics


@dataclass(frozen=True)
class NewReport:
    """A row of figures at a step (optimiser updates done)."""

    step: int
    epoch: float
    figures: dict[str, float]
    is_validation: bool = False


@dataclass(frozen=True)
class MetricRow:
    """A row of the view `metrics`: the newest attempt's figures of a step."""

    trial_id: str
    step: int
    attempt: int
    epoch: float
    figures: dict[str, float]
    is_validation: bool


def upsert(
    session: Session, *, lease: Lease, trial_id: str, rows: Sequence[NewReport], attempt: int | None = None
) -> None:
    """Write rows of figures keyed (trial, attempt, step); a row that is there already is replaced.

    `attempt` is the lease's when left out. A step beyond all that the trial ever reported is progress: the
    job's fruitless attempts are counted from zero again. Raises ValueError for a figure that is not finite,
    and StateConflict for a trial of another job.
    """
    leases.require(session, lease)
    if session.scalar(select(Trial.id).where(Trial.id == trial_id, Trial.job_id == lease.job_id)) is None:
        raise StateConflict(f"{trial_id} is no trial of {lease.job_id}")
    if not rows:
        return
    furthest = session.scalar(select(func.max(Report.step)).where(Report.trial_id == trial_id))
    number = lease.attempt if attempt is None else attempt
    _write(session, [_values(row, trial_id=trial_id, attempt=number) for row in rows])
    if furthest is None or max(row.step for row in rows) > furthest:
        trials.note_progress(session, job_id=lease.job_id)


def forget_after(session: Session, *, lease: Lease, trial_id: str, step: int) -> None:
    """Remove a trial's rows above the step at which it has ended.

    An earlier attempt may have gone further, before it was lost and this one was stopped early.
    """
    leases.require(session, lease)
    session.execute(
        delete(Report)
        .where(
            Report.trial_id == trial_id,
            Report.step > step,
            Report.trial_id.in_(select(Trial.id).where(Trial.job_id == lease.job_id)),
        )
        .execution_options(synchronize_session=False)
    )


def of_trial(
    session: Session,
    *,
    trial_id: str,
    after_step: int = -1,
    limit: int = 1000,
    validations_only: bool = False,
) -> list[MetricRow]:
    """Rows of the view `metrics` above a step, in order of steps."""
    statement = (
        select(metrics)
        .where(metrics.c.trial_id == trial_id, metrics.c.step > after_step)
        .order_by(metrics.c.step)
        .limit(limit)
    )
    if validations_only:
        statement = statement.where(metrics.c.is_validation)
    return [_metric_row(row) for row in session.execute(statement)]


def validations(session: Session, *, job_id: str) -> dict[str, list[MetricRow]]:
    """The validation rows of all trials of a job, by trial id, in order of steps: their curves."""
    statement = (
        select(metrics)
        .join(Trial, Trial.id == metrics.c.trial_id)
        .where(Trial.job_id == job_id, metrics.c.is_validation)
        .order_by(metrics.c.trial_id, metrics.c.step)
    )
    curves: dict[str, list[MetricRow]] = {}
    for row in session.execute(statement):
        curves.setdefault(row.trial_id, []).append(_metric_row(row))
    return curves


def last_step(session: Session, *, trial_id: str) -> int | None:
    """The furthest step that the trial ever reported, or None."""
    return session.scalar(select(func.max(Report.step)).where(Report.trial_id == trial_id))


def _values(row: NewReport, *, trial_id: str, attempt: int) -> dict[str, Any]:
    for name, value in (("epoch", row.epoch), *row.figures.items()):
        if not math.isfinite(value):
            raise ValueError(
                f"{name} is {value} at step {row.step}; figures that are not finite are never stored"
            )
    return {"trial_id": trial_id, "attempt": attempt, **vars(row)}


def _write(session: Session, values: list[dict[str, Any]]) -> None:
    connection = session.connection()
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(Report.__table__)
    replaced = {
        name: statement.excluded[name] for name in ("epoch", "figures", "is_validation", "created_at")
    }
    connection.execute(
        statement.on_conflict_do_update(index_elements=["trial_id", "step", "attempt"], set_=replaced), values
    )


def _metric_row(row: Any) -> MetricRow:
    return MetricRow(row.trial_id, row.step, row.attempt, row.epoch, row.figures, row.is_validation)
