"""Trials of a job, and their figures step by step."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service import resources
from service.dependencies import JobDep, StoreDep, TrialDep
from service.paging import DEFAULT_LIMIT, After, Limit
from service.problems import Code, documented
from service.store import reports, trials

router = APIRouter(prefix="/v1", tags=["watching"])


class TrialList(resources.ListOf[resources.Trial]):
    """A page of trials, in the order in which they were proposed."""


class MetricList(resources.ListOf[resources.MetricPoint]):
    """A trial's figures, in the order of steps; each step once."""


@router.get("/jobs/{job_id}/trials", responses=documented(Code.JOB_NOT_FOUND))
def list_trials(job: JobDep, store: StoreDep, limit: Limit = DEFAULT_LIMIT, after: After = None) -> TrialList:
    """The job's trials, in the order in which they were proposed."""
    with store.session() as session:
        rows = trials.list_for_job(session, job_id=job.id, after=after, limit=limit + 1)
    shown, cursor = rows[:limit], rows[limit - 1].id if len(rows) > limit else None
    return TrialList.of(
        [resources.Trial.of(row) for row in shown], has_more=cursor is not None, cursor=cursor
    )


@router.get("/jobs/{job_id}/trials/{trial_id}/metrics", include_in_schema=False)
@router.get("/trials/{trial_id}/metrics", responses=documented(Code.TRIAL_NOT_FOUND))
def list_trial_metrics(
    trial: TrialDep,
    store: StoreDep,
    after_step: Annotated[int, Query(ge=0, le=2**62, description="Only steps above this one.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Steps per page.")] = 1000,
) -> MetricList:
    """A trial's figures, of each step those of the newest attempt; page on with `after_step`."""
    with store.session() as session:
        rows = reports.of_trial(session, trial_id=trial.id, after_step=after_step, limit=limit + 1)
    shown, has_more = [resources.MetricPoint.of(row) for row in rows[:limit]], len(rows) > limit
    return MetricList.of(shown, has_more=has_more, cursor=str(shown[-1].step) if shown else None)
