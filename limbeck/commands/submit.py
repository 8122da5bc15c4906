"""`limbeck submit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.api import Document
from limbeck.client import Client
from limbeck.commands.options import AsJson, client_of, echo_json
from limbeck.drivers import Blocking
from limbeck.jobs import Job
from limbeck.live import follow, outcome
from limbeck.render import console, messages, preflight_view, report_view
from limbeck.submission import UnreadableSpec, apply_setting, parse_spec, read_spec, spec_document


def submit(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A job spec, YAML or JSON; `-` is standard input.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher: the name of a timm model.")] = None,
    student: Annotated[str | None, typer.Option(help="Student: the name of a timm model.")] = None,
    data: Annotated[str | None, typer.Option(help="Data set, by name.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the job.")] = None,
    trials: Annotated[int | None, typer.Option(help="Search trials at most.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs per trial.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many proof seeds, from 0.", min=2)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any field, for example search.strategy=random."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check and predict.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submitting again with the same key submits nothing new.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job: from FILE, from options, or both (options win).

    A dry run is waited for and shows what preflight found. With --wait, exits with 1 if the job fails.
    """
    document = _document(
        file,
        {"teacher": teacher, "student": student, "data": data},
        name=name,
        budget={"trials": trials, "epochs_per_trial": epochs},
        seeds=seeds,
        settings=settings or [],
    )
    with client_of(context) as client:
        job = client.jobs.create(spec=document, dry_run=dry_run, idempotency_key=idempotency_key)
        if wait or dry_run:
            finish(job, as_json=as_json)
        elif as_json:
            echo_json(job.document)
        else:
            _tell(client, job)


def finish(job: Job[Blocking], *, as_json: bool) -> None:
    """Follow a job to its end, show its result, and exit with 1 if it did not succeed."""
    err = messages()
    if not as_json:
        err.print(f"Job {job.id}", highlight=False)
    follow(job, err)
    if as_json:
        echo_json(job.document)
    else:
        show_result(job)
    if job.state != "succeeded":
        raise typer.Exit(1)


def show_result(job: Job[Blocking]) -> None:
    """The report of a job that has ended, or what its dry run found, or why there is none."""
    if job.state == "succeeded" and job.document.get("report"):
        console().print(report_view(job.report()))
    elif job.state == "succeeded" and job.document.get("preflight"):
        console().print(preflight_view(job.document["preflight"]))
    else:
        messages().print(outcome(job.document), markup=False)


def _tell(client: Client, job: Job[Blocking]) -> None:
    out = console()
    out.print(f"Submitted {job.id}", highlight=False)
    out.print(f"  page:   {client.base_url}/jobs/{job.id}", highlight=False, soft_wrap=True)
    out.print(f"  follow: limbeck watch {job.id}", highlight=False)


def _document(
    file: Path | None,
    named: dict[str, str | None],
    *,
    name: str | None,
    budget: dict[str, int | None],
    seeds: int | None,
    settings: list[str],
) -> Document:
    if file is None and not any(named.values()) and not settings:
        raise typer.BadParameter("give FILE, or at least --teacher and --student", param_hint="FILE")
    parts: dict[str, Any] = {}
    if name is not None:
        parts["name"] = name
    if seeds is not None:
        parts["proof"] = {"seeds": list(range(seeds))}
    limits = {field: value for field, value in budget.items() if value is not None}
    document = spec_document(_read(file), **named, budget=limits or None, parts=parts)
    for setting in settings:
        apply_setting(document, setting)
    return document


def _read(file: Path | None) -> Document | None:
    if file is None:
        return None
    if str(file) == "-":
        if sys.stdin.isatty():
            raise UnreadableSpec("waiting for a spec on standard input, but it is a terminal; give a file")
        return parse_spec(sys.stdin.read(), name="standard input")
    return read_spec(file)
