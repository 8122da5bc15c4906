"""Jobs: submit, list, look at, cancel, retry."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from service import resources, submission
from service.api_examples import JOB_EXAMPLES
from service.body import Body
from service.dependencies import JobDep, ServicesDep, StoreDep, Submitter
from service.idempotency import IdempotencyHeader, Once
from service.paging import DEFAULT_LIMIT, LABEL_PARAMETER, After, Limit, label_filter
from service.problems import Code, Problem, documented
from service.store import jobs
from service.store.jobs import CancelOutcome
from service.store.session import Session
from service.store.states import JobState

router = APIRouter(prefix="/v1", tags=["jobs"])
CREATING = (Code.IDEMPOTENCY_IN_FLIGHT, Code.IDEMPOTENCY_MISMATCH, Code.INVALID_SPEC, Code.CATALOGUE_EMPTY)
SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}, "examples": JOB_EXAMPLES}
        },
    }
}


class JobList(resources.ListOf[resources.Job]):
    """A page of jobs, newest first."""


@router.post(
    "/jobs",
    status_code=201,
    response_model=resources.Job,
    responses={
        202: {
            "model": resources.Job,
            "description": "A dry run was queued; its result will be in `preflight`.",
        },
        **documented(*CREATING, Code.MALFORMED_JSON, Code.BODY_TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE),
    },
    openapi_extra=SPEC_BODY,
)
def create_job(
    request: Request,
    principal: Submitter,
    services: ServicesDep,
    body: Body,
    key: IdempotencyHeader = None,
    dry_run: Annotated[bool, Query(description="Only check and predict: stop after preflight.")] = False,
) -> Response:
    """Submit a job. It is queued, and a worker that has its models, data and methods takes it up.

    Whatever the catalogue can tell is refused here, with every field at fault; nothing is stored then.
    """
    once = Once(services.store, request, principal=principal, key=key, body=body)
    if replayed := once.replay():
        return replayed
    new = submission.new_job(submission.read_spec(body, services), principal=principal, dry_run=dry_run)
    status = 202 if dry_run else 201
    return once.act(lambda session: (status, resources.Job.of(jobs.insert_queued(session, new=new))))


@router.get("/jobs", openapi_extra={"parameters": [LABEL_PARAMETER]})
def list_jobs(
    store: StoreDep,
    labels: Annotated[dict[str, str], Depends(label_filter)],
    state: Annotated[
        resources.ShownState | None, Query(description="Only jobs that are shown in this state.")
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> JobList:
    """Jobs, newest first."""
    with store.session() as session:
        page = jobs.list_page(session, **_stored_state(state), labels=labels, after=after, limit=limit)
    cursor = page.rows[-1].id if page.rows else None
    return JobList.of([resources.Job.of(job) for job in page.rows], has_more=page.has_more, cursor=cursor)


@router.get("/jobs/{job_id}", responses=documented(Code.JOB_NOT_FOUND))
def get_job(job: JobDep) -> resources.Job:
    """One job."""
    return resources.Job.of(job)


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    response_model=resources.Job,
    responses=documented(Code.JOB_NOT_FOUND, Code.JOB_ENDED, Code.IDEMPOTENCY_MISMATCH),
)
def cancel_job(
    request: Request,
    principal: Submitter,
    job: JobDep,
    store: StoreDep,
    body: Body,
    key: IdempotencyHeader = None,
) -> Response:
    """Cancel a job: at once while it is queued, else as soon as its driver has stopped (`cancelling`)."""

    def act(session: Session) -> tuple[int, resources.Job]:
        cancellation = jobs.request_cancel(session, job_id=job.id)
        if cancellation is None or cancellation.outcome is CancelOutcome.ENDED_BEFORE:
            raise Problem(
                Code.JOB_ENDED, f"Job {job.id} has ended already ({job.state}); nothing was changed."
            )
        return 202, resources.Job.of(cancellation.job)

    return Once(store, request, principal=principal, key=key, body=body).act(act)


@router.post(
    "/jobs/{job_id}/retry",
    status_code=201,
    response_model=resources.Job,
    responses=documented(Code.JOB_NOT_FOUND, Code.JOB_NOT_ENDED, Code.JOB_SUCCEEDED, *CREATING),
)
def retry_job(
    request: Request,
    principal: Submitter,
    job: JobDep,
    services: ServicesDep,
    body: Body,
    key: IdempotencyHeader = None,
) -> Response:
    """Submit a failed or cancelled job again, as a new job whose `parent_id` names it."""
    once = Once(services.store, request, principal=principal, key=key, body=body)
    if replayed := once.replay():
        return replayed
    if not job.state.is_final:
        raise Problem(
            Code.JOB_NOT_ENDED, f"Job {job.id} is {job.state}; cancel it first, or wait for its end."
        )
    if job.state is JobState.SUCCEEDED:
        raise Problem(
            Code.JOB_SUCCEEDED, f"Job {job.id} has succeeded; submit its spec as a new job to repeat it."
        )
    spec = submission.checked_spec(job.spec, services)
    new = submission.new_job(spec, principal=principal, dry_run=job.dry_run, parent_id=job.id)
    return once.act(lambda session: (201, resources.Job.of(jobs.insert_queued(session, new=new))))


def _stored_state(shown: resources.ShownState | None) -> dict[str, Any]:
    """The store's filters for a shown state: `running` and `cancelling` are both stored as running."""
    if shown is None:
        return {}
    if shown in ("running", "cancelling"):
        return {"states": [JobState.RUNNING], "cancel_requested": shown == "cancelling"}
    return {"states": [JobState(shown)]}
