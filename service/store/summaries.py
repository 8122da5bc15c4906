"""Summaries: what a list of jobs shows of their trials."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Float, and_, case, func, select
from sqlalchemy.orm import Session

from service.store.states import TrialState
from service.store.tables import Trial

_FINAL = [state for state in TrialState if state.is_final]


@dataclass(frozen=True)
class TrialSummary:
    """A job's trials in three figures; `best_accuracy` is the search's on validation, in [0, 1]."""

    known: int = 0
    done: int = 0
    best_accuracy: float | None = None


def of_trials(session: Session, *, job_ids: Collection[str]) -> dict[str, TrialSummary]:
    """How many trials each of the jobs has and has done, and the best completed search trial's accuracy.

    Jobs without trials are left out.
    """
    accuracy = Trial.result["accuracy"].as_float()
    is_measure = and_(Trial.stage == "search", Trial.state == TrialState.COMPLETED)
    rows = session.execute(
        select(
            Trial.job_id,
            func.count().label("known"),
            func.sum(case((Trial.state.in_(_FINAL), 1), else_=0)).label("done"),
            func.max(case((is_measure, accuracy), else_=None), type_=Float(53)).label("best"),
        )
        .where(Trial.job_id.in_(job_ids))
        .group_by(Trial.job_id)
    )
    return {row.job_id: TrialSummary(row.known, row.done, row.best) for row in rows}
