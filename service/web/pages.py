"""The routes of the pages: all jobs, one job, and the parts of both that are fetched again when live."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from service.dependencies import Reader, Services, ServicesDep
from service.store.states import JobState
from service.web.job_view import JobView, job_view
from service.web.jobs_view import JobsView, jobs_view
from service.web.rendering import STATIC_FILES, page

router = APIRouter(include_in_schema=False)
ONE_YEAR = "public, max-age=31536000, immutable"


@router.get("/")
def show_jobs(
    services: ServicesDep, reader: Reader, state: str | None = None, after: str | None = None
) -> HTMLResponse:
    """All jobs, newest first."""
    return _jobs("jobs.html", services, state, after)


@router.get("/jobs")
def show_jobs_too(
    services: ServicesDep, reader: Reader, state: str | None = None, after: str | None = None
) -> HTMLResponse:
    """The same, where people look for it."""
    return _jobs("jobs.html", services, state, after)


@router.get("/fragments/jobs")
def show_jobs_fragment(
    services: ServicesDep, reader: Reader, state: str | None = None, after: str | None = None
) -> HTMLResponse:
    """The live part of the list."""
    return _jobs("_jobs.html", services, state, after)


@router.get("/jobs/{job_id}")
def show_job(services: ServicesDep, reader: Reader, job_id: str) -> HTMLResponse:
    """One job."""
    return _job("job.html", services, job_id)


@router.get("/jobs/{job_id}/fragment")
def show_job_fragment(services: ServicesDep, reader: Reader, job_id: str) -> HTMLResponse:
    """The live part of a job's page."""
    return _job("_job.html", services, job_id)


@router.get("/static/{name}")
def get_static_file(name: str) -> Response:
    """Style and script."""
    file = STATIC_FILES.get(name)
    if file is None:
        return _not_found("There is no such file.")
    headers = {"cache-control": ONE_YEAR, "x-content-type-options": "nosniff"}
    return Response(file.content, media_type=file.media_type, headers=headers)


def _jobs(template: str, services: Services, state: str | None, after: str | None) -> HTMLResponse:
    if state and state not in list(JobState):
        return _not_found(f"No job is ever “{state}”. Jobs are {', '.join(JobState)}.")
    with services.store.session() as session:
        view: JobsView = jobs_view(
            session,
            state=JobState(state) if state else None,
            after=_storable(after),
            worker_timeout_seconds=services.settings.worker_timeout_seconds,
        )
    return page(template, view=view)


def _job(template: str, services: Services, job_id: str) -> HTMLResponse:
    with services.store.session() as session:
        view: JobView | None = job_view(
            session,
            job_id=_storable(job_id) or "",
            worker_timeout_seconds=services.settings.worker_timeout_seconds,
        )
    if view is None:
        return _not_found(f"There is no job “{job_id}”. It may have been on another server.")
    return page(template, view=view)


def _storable(text: str | None) -> str | None:
    """What no database would take as text cannot be an id either."""
    return None if text is None else text.replace("\0", "").encode("utf-8", "ignore").decode()


def _not_found(sentence: str) -> HTMLResponse:
    return page("not_found.html", status=HTTPStatus.NOT_FOUND, sentence=sentence)
