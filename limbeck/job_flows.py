"""What can be done with a job, as flows. `limbeck.jobs` makes methods of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.api import Api, Document
from limbeck.documents import Artifact, MetricRow, RecipeDocument, Report, Trial
from limbeck.errors import JobFailed, WaitTimeout
from limbeck.flow import Flow, Pause
from limbeck.paths import job_path, trial_path
from limbeck.patience import Deadline, patiently
from limbeck.progress import ProgressBar, no_progress
from limbeck.submission import Named, Spec, spec_document

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})
METRIC_ROWS = 1000


def create(
    api: Api,
    /,
    *,
    teacher: Named | Sequence[Named] | None = None,
    student: Named | None = None,
    data: Named | None = None,
    budget: Mapping[str, Any] | None = None,
    spec: Spec | None = None,
    dry_run: bool = False,
    idempotency_key: str | None = None,
    wait_for_worker_seconds: float | None = None,
    **parts: Any,
) -> Flow[Document]:
    """Submit a job.

    `teacher`, `student` and `data` are names or the spec's own mappings; `spec` is a JobSpec, a mapping or
    a YAML or JSON file; further keyword arguments are parts of the spec (`proof={"seeds": [0, 1]}`). What is
    named beside `spec` goes over it. A dry run only checks and predicts. Calling twice with the same
    `idempotency_key` submits once. Raises InvalidSpec with `faults`; nothing is stored then.
    """
    document = spec_document(spec, teacher=teacher, student=student, data=data, budget=budget, parts=parts)
    answer: Document = yield from api.post(
        "/jobs",
        document,
        query={"dry_run": "true"} if dry_run else None,
        idempotency_key=idempotency_key,
        wait_for_worker_seconds=wait_for_worker_seconds,
    )
    return answer


def get(api: Api, /, job_id: str) -> Flow[Document]:
    """The job as it is now. Raises NotFound."""
    document: Document = yield from api.get(job_path(job_id))
    return document


def listing(
    api: Api, *, state: str | None = None, labels: Mapping[str, str] | None = None, limit: int | None = None
) -> Flow[None]:
    """All jobs, newest first, in that state and with those labels; pages are fetched as you go."""
    query = {f"label.{name}": value for name, value in (labels or {}).items()}
    if state is not None:
        query["state"] = state
    yield from api.stream_pages("/jobs", query, limit=limit)


def wait(
    api: Api,
    /,
    job_id: str,
    *,
    timeout: float | None = None,
    progress: bool = True,
    check: bool = False,
    poll_seconds: float = 1.0,
) -> Flow[Document]:
    """Wait until the job has ended, with a progress bar on standard error.

    `timeout` is in seconds; raises WaitTimeout after it, while the job goes on. With `check`, raises
    JobFailed if the job did not succeed. A server that restarts meanwhile is waited for.
    """
    deadline = Deadline(timeout, api.policy.clock)
    pause = min(0.2, poll_seconds)
    with ProgressBar() if progress else no_progress() as bar:
        while True:
            document = yield from patiently(lambda: get(api, job_id), api.policy)
            bar.update(document)
            if document["state"] in FINAL_STATES:
                break
            if deadline.passed:
                raise WaitTimeout(f"job {job_id} has not ended after {timeout:g} s; it goes on")
            yield Pause(min(pause, deadline.remaining_seconds))
            pause = min(pause * 1.5, poll_seconds)
    if check and document["state"] != "succeeded":
        raise JobFailed(document)
    return document


def cancel(api: Api, /, job_id: str) -> Flow[Document]:
    """Ask for the end of a job, `cancelling` until its driver has stopped. Raises Conflict after its end."""
    document: Document = yield from api.post(f"{job_path(job_id)}/cancel")
    return document


def retry(api: Api, /, job_id: str, *, idempotency_key: str | None = None) -> Flow[Document]:
    """Submit the same job anew, seeded with this one's finished trials."""
    document: Document = yield from api.post(f"{job_path(job_id)}/retry", idempotency_key=idempotency_key)
    return document


def trials(api: Api, /, job_id: str) -> Flow[list[Trial]]:
    """All trials of the job."""
    found = yield from api.pages(f"{job_path(job_id)}/trials")
    return [Trial.model_validate(one) for one in found]


def metrics(api: Api, /, trial_id: str, *, after_step: int = 0) -> Flow[list[MetricRow]]:
    """A trial's rows of figures after that step, in the order of steps, each step once."""
    rows: list[MetricRow] = []
    while True:
        page = yield from api.get(
            f"{trial_path(trial_id)}/metrics", {"after_step": after_step, "limit": METRIC_ROWS}
        )
        rows += [MetricRow.model_validate(row) for row in page["data"]]
        if not page.get("has_more") or not page["data"]:
            return rows
        after_step = rows[-1].step


def report(api: Api, /, job_id: str) -> Flow[Report]:
    """Verdict, arms, differences and cost. Raises NotFound (`report_not_ready`) before the proof is done."""
    document = yield from api.get(f"{job_path(job_id)}/report")
    return Report.model_validate(document)


def recipe(api: Api, /, job_id: str, *, path: str | Path | None = None) -> Flow[RecipeDocument]:
    """The recipe that the job found; written to `path` if one is given."""
    document = RecipeDocument((yield from api.get(f"{job_path(job_id)}/recipe")))
    if path is not None:
        document.save(path)
    return document


def artifacts(api: Api, /, job_id: str) -> Flow[list[Artifact]]:
    """The job's files."""
    found = yield from api.pages(f"{job_path(job_id)}/artifacts")
    return [Artifact.model_validate(one) for one in found]
