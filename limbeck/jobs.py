"""Jobs: `client.jobs`, and the handle of one job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from limbeck import download, event_flow, job_flows
from limbeck.api import Api, Document
from limbeck.documents import Event
from limbeck.operation import D, Resource, job_operation, job_stream, operation, stream

P = ParamSpec("P")
R = TypeVar("R")


def _of_job(flow: Callable[Concatenate[Api, str, P], R]) -> Callable[Concatenate[Api, P], R]:
    # The handle's `leading` arguments hold the job's id; only the type has to know.
    return cast("Callable[Concatenate[Api, P], R]", flow)


class Job(Resource[D]):
    """One job as it was when last asked; `refresh`, `wait` and `cancel` bring it up to date.

    `document` is the API's answer as it came.
    """

    def __init__(self, api: Api, driver: D, document: Document) -> None:
        super().__init__(api, driver)
        self.document = document

    @property
    def leading(self) -> tuple[Any, ...]:
        """First arguments of every flow: the API, and this job's id."""
        return (self.api, self.id)

    def job(self, document: Document) -> Job[D]:
        """This job, brought up to date; another one's handle if the document is another's."""
        if document["id"] != self.id:
            return Job(self.api, self.driver, document)
        self.document = document
        return self

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.state}>"

    @property
    def id(self) -> str:
        """`job_...`"""
        return str(self.document["id"])

    @property
    def name(self) -> str | None:
        """What its user called it."""
        name: str | None = self.document.get("name")
        return name

    @property
    def state(self) -> str:
        """`queued`, `running`, `cancelling`, `paused`, `succeeded`, `failed` or `cancelled`."""
        return str(self.document["state"])

    @property
    def status_reason(self) -> str | None:
        """The stable code that says why it is in this state."""
        reason: str | None = self.document.get("status_reason")
        return reason

    @property
    def status_message(self) -> str | None:
        """The sentence that says why."""
        message: str | None = self.document.get("status_message")
        return message

    @property
    def is_done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in job_flows.FINAL_STATES

    @property
    def progress(self) -> dict[str, Any]:
        """Stage, trials done and known, trials running."""
        return dict(self.document.get("progress") or {})

    @property
    def spec(self) -> dict[str, Any]:
        """The spec with all defaults filled in."""
        return dict(self.document["spec"])

    refresh = job_operation(_of_job(job_flows.get))
    wait = job_operation(_of_job(job_flows.wait))
    cancel = job_operation(_of_job(job_flows.cancel))
    retry = job_operation(_of_job(job_flows.retry))
    events = stream(_of_job(event_flow.events), Event)
    trials = operation(_of_job(job_flows.trials))
    report = operation(_of_job(job_flows.report))
    recipe = operation(_of_job(job_flows.recipe))
    artifacts = operation(_of_job(job_flows.artifacts))
    download = operation(_of_job(download.download))


class Jobs(Resource[D]):
    """`client.jobs`."""

    def job(self, document: Document) -> Job[D]:
        """The handle of a job."""
        return Job(self.api, self.driver, document)

    create = job_operation(job_flows.create)
    get = job_operation(job_flows.get)
    list = job_stream(job_flows.listing)
    wait = job_operation(job_flows.wait)
    cancel = job_operation(job_flows.cancel)
    retry = job_operation(job_flows.retry)
    events = stream(event_flow.events, Event)
    trials = operation(job_flows.trials)
    metrics = operation(job_flows.metrics)
    report = operation(job_flows.report)
    recipe = operation(job_flows.recipe)
    artifacts = operation(job_flows.artifacts)
    download = operation(download.download)
