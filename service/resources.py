"""The resources that the API shows: one model each, made from rows of the store. Frozen once released."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, Field, WithJsonSchema

from service.store import tables
from service.store.reports import MetricRow
from service.store.states import JobState

Item = TypeVar("Item", bound=BaseModel)
# Stored documents are shown as they are, an older version's too; `service.openapi` puts in their schemas.
SpecDocument = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-document": "JobSpec"})]
RecipeDocument = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-document": "Recipe"})]
ShownState = Literal["queued", "running", "cancelling", "paused", "succeeded", "failed", "cancelled"]


class ListOf(BaseModel, Generic[Item]):
    """A page of a list; `next_cursor` is the `after` of the next page."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    next_cursor: str | None

    @classmethod
    def of(cls, data: Sequence[Item], *, has_more: bool = False, cursor: str | None = None) -> Self:
        """The page; the cursor is left out on the last one."""
        return cls(data=list(data), has_more=has_more, next_cursor=cursor if has_more else None)


class Progress(BaseModel):
    """How far a job is."""

    stage: str | None = Field(
        default=None, description="teacher, preflight, search, tuning, proof or export."
    )
    trials_done: int = 0
    trials_total: int | None = Field(default=None, description="Null until the plan knows.")
    running: int = Field(default=0, description="Trials running now.")
    message: str | None = None


class Job(BaseModel):
    """A submitted search on one task with a budget."""

    object: Literal["distillation.job"] = "distillation.job"
    id: str
    name: str | None
    state: ShownState = Field(description="`cancelling`: running, and its end has been asked for.")
    status_reason: str | None = Field(description="Stable code that says why the job is in its state.")
    status_message: str | None
    attempt: int = Field(description="How often a worker has taken the job up.")
    dry_run: bool
    parent_id: str | None = Field(description="The job that this one repeats.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    labels: dict[str, str]
    metadata: dict[str, Any]
    spec: SpecDocument = Field(description="With all defaults filled in.")
    progress: Progress
    preflight: dict[str, Any] | None = Field(description="What was found and measured; a dry run's result.")
    report: dict[str, Any] | None
    recipe_id: str | None
    links: dict[str, str]

    @classmethod
    def of(cls, job: tables.Job) -> Job:
        """As it is shown."""
        columns = {name: getattr(job, name) for name in cls.model_fields if hasattr(job, name)}
        shown = {
            "state": shown_state(job),
            "metadata": job.metadata_,
            "progress": Progress.model_validate(job.progress or {"message": _waiting(job)}),
            "links": _job_links(job),
        }
        return cls(**{**columns, **shown})


class TrialStopped(BaseModel):
    """Why a trial was stopped early."""

    step: int
    value: float
    threshold: float
    rule: str


class TrialError(BaseModel):
    """Why a trial failed."""

    code: str
    message: str | None


class Trial(BaseModel):
    """One training run inside a job; (stage, arm, seed, index) is its key there."""

    object: Literal["distillation.trial"] = "distillation.trial"
    id: str
    job_id: str
    stage: str
    arm: str
    seed: int
    index: int
    state: Literal["proposed", "running", "completed", "stopped_early", "failed", "cancelled"]
    parameters: dict[str, Any]
    result: dict[str, Any] | None
    stopped: TrialStopped | None
    error: TrialError | None
    attempt: int = Field(description="The job's attempt under which it last started; 0 before.")
    device_seconds: float
    node: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, trial: tables.Trial) -> Trial:
        """As it is shown."""
        columns = {name: getattr(trial, name) for name in cls.model_fields if hasattr(trial, name)}
        error = TrialError(code=trial.error_code, message=trial.error_message) if trial.error_code else None
        return cls(**{**columns, "state": trial.state.value, "error": error})


class MetricPoint(BaseModel):
    """A trial's figures at one step (an optimiser update)."""

    step: int
    attempt: int
    epoch: float
    figures: dict[str, float]
    is_validation: bool

    @classmethod
    def of(cls, row: MetricRow) -> MetricPoint:
        """As it is shown."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class Event(BaseModel):
    """Something that happened to a job; `sequence` counts 1, 2, 3, ... inside the job."""

    sequence: int
    created_at: datetime
    kind: str
    level: Literal["info", "warning", "error"]
    message: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: tables.Event) -> Event:
        """As it is shown."""
        return cls(**{name: getattr(event, name) for name in cls.model_fields})


class Artifact(BaseModel):
    """A file of a job; its content is at `links.content`."""

    object: Literal["artifact"] = "artifact"
    id: str
    job_id: str
    trial_id: str | None
    name: str
    bytes: int
    sha256: str
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, artifact: tables.Artifact) -> Artifact:
        """As it is shown."""
        columns = {name: getattr(artifact, name) for name in cls.model_fields if hasattr(artifact, name)}
        return cls(**columns, links={"content": f"/v1/jobs/{artifact.job_id}/artifacts/{artifact.id}"})


class StoredRecipe(BaseModel):
    """A recipe of the library."""

    object: Literal["recipe"] = "recipe"
    id: str
    job_id: str | None
    created_at: datetime
    schema_version: int
    arm: str
    teacher: str
    student: str
    data: str
    document: RecipeDocument | None = Field(description="Left out in lists.")

    @classmethod
    def of(cls, recipe: tables.Recipe, *, with_document: bool) -> StoredRecipe:
        """As it is shown."""
        columns = {name: getattr(recipe, name) for name in cls.model_fields if hasattr(recipe, name)}
        return cls(**{**columns, "document": recipe.document if with_document else None})


def shown_state(job: tables.Job) -> ShownState:
    """The job's state, or `cancelling` while a running job's end has been asked for."""
    if job.state is JobState.RUNNING and job.cancel_requested_at is not None:
        return "cancelling"
    return job.state.value


def _waiting(job: tables.Job) -> str | None:
    return "waiting for a worker" if job.state is JobState.QUEUED else None


def _job_links(job: tables.Job) -> dict[str, str]:
    base = f"/v1/jobs/{job.id}"
    parts = ("events", "trials", "artifacts", "report", "recipe")
    return {"self": base, "page": f"/jobs/{job.id}", **{part: f"{base}/{part}" for part in parts}}
