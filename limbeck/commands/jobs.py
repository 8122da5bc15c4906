"""`limbeck jobs`, `watch`, `cancel` and `retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from limbeck.commands.options import AsJson, JobId, client_of, echo_json, echo_json_line
from limbeck.commands.submit import finish
from limbeck.live import outcome
from limbeck.render import console, jobs_table, messages


def jobs(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only jobs with this label.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    labels = {}
    for one in label or []:
        name, equals, value = one.partition("=")
        if not equals:
            raise typer.BadParameter(f"{one!r} is no label: write NAME=VALUE", param_hint="--label")
        labels[name] = value
    with client_of(context) as client:
        documents = [job.document for job in client.jobs.list(state=state, labels=labels, limit=limit)]
    if as_json:
        echo_json(documents)
    elif documents:
        console().print(jobs_table(documents))
    else:
        messages().print("No jobs. Submit one with `limbeck submit`, or try `limbeck demo`.")


def watch(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Follow a job to its end; exits with 1 if it fails. Leaving with Ctrl-C does not stop the job.

    With --json every event is a line of JSON.
    """
    with client_of(context) as client:
        job = client.jobs.get(job_id)
        if not as_json:
            finish(job, as_json=False)
            return
        for event in job.events():
            echo_json_line(event.model_dump(mode="json"))
        if job.refresh().state != "succeeded":
            messages().print(outcome(job.document), markup=False)
            raise typer.Exit(1)


def cancel(
    context: typer.Context,
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cancel a job. A running one ends as soon as its driver has stopped."""
    with client_of(context) as client:
        job = client.jobs.cancel(job_id)
        if wait:
            job.wait(progress=not as_json)
    if as_json:
        echo_json(job.document)
    else:
        console().print(f"Job {job.id} is {job.state}.", highlight=False)


def retry(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Submit a failed or cancelled job again, as a new job."""
    with client_of(context) as client:
        job = client.jobs.retry(job_id)
    if as_json:
        echo_json(job.document)
    else:
        console().print(f"Submitted {job.id}, which repeats {job_id}.", highlight=False)
