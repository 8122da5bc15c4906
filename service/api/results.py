"""What came of a job: its report and its recipe."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from service.dependencies import JobDep, StoreDep
from service.problems import Code, Problem, documented
from service.resources import RecipeDocument
from service.store import recipes

router = APIRouter(prefix="/v1", tags=["results"])


@router.get("/jobs/{job_id}/report", responses=documented(Code.JOB_NOT_FOUND, Code.REPORT_NOT_READY))
def get_report(job: JobDep) -> dict[str, Any]:
    """Verdict, arms with all their proof runs, paired differences with 95% intervals, and what it cost."""
    if job.report is None:
        raise Problem(
            Code.REPORT_NOT_READY,
            f"Job {job.id} is {job.state} and has no report{_outlook(job.state.is_final)}",
        )
    return job.report


@router.get("/jobs/{job_id}/recipe", responses=documented(Code.JOB_NOT_FOUND, Code.RECIPE_NOT_READY))
def get_job_recipe(job: JobDep, store: StoreDep) -> RecipeDocument:
    """The recipe document, as `python -m search.distill --recipe FILE` takes it."""
    with store.session() as session:
        recipe = recipes.for_job(session, job_id=job.id)
    if recipe is None:
        raise Problem(
            Code.RECIPE_NOT_READY,
            f"Job {job.id} is {job.state} and has no recipe{_outlook(job.state.is_final)}",
        )
    return recipe.document


def _outlook(has_ended: bool) -> str:
    return "; it will not get one." if has_ended else " yet; wait for its end."
