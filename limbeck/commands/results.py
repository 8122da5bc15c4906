"""`limbeck report`, `recipe` and `download`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.commands.options import AsJson, JobId, client_of, echo_json
from limbeck.render import console, messages, report_view


def report(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show what a job found out: verdict, arms with intervals, cost."""
    with client_of(context) as client:
        found = client.jobs.report(job_id)
    if as_json:
        echo_json(found.model_dump(mode="json"))
    else:
        console().print(report_view(found))


def recipe(
    context: typer.Context,
    job_id: JobId,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write it to this file; else standard output.")
    ] = None,
) -> None:
    """Fetch a job's recipe, JSON that `python -m search.distill --recipe FILE` takes."""
    with client_of(context) as client:
        document = client.jobs.recipe(job_id)
    if output is None:
        echo_json(document)
    else:
        messages().print(f"Written to {document.save(output)}", markup=False)


def download(
    context: typer.Context,
    job_id: JobId,
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for the files.")] = Path(),
    everything: Annotated[bool, typer.Option("--all", help="The files of all trials, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a job's files, checked against their checksums."""
    with client_of(context) as client:
        paths = client.jobs.download(job_id, output, everything=everything)
    if as_json:
        echo_json([str(path) for path in paths])
        return
    for path in paths:
        console().print(str(path), markup=False, highlight=False, soft_wrap=True)
    if not paths:
        messages().print("The job has no files yet; its student is there after its end.")
