"""What routes ask for by type: the services of this process, who asks, and rows that exist or answer 404.

@router.get("/jobs/{job_id}/thing")
def get_thing(job: JobDep, store: StoreDep) -> Thing: ...
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from service.authentication import Principal, require
from service.catalogue import Catalogues
from service.event_streams import EventStreams
from service.files import ArtifactRoot
from service.metrics import Metrics
from service.problems import Code, Problem
from service.settings import Settings
from service.store import artifacts, jobs, recipes, tables, trials
from service.store.session import Store
from service.store.states import Scope

_ID = re.compile(r"[a-z]{3}_[0-9a-z]{1,36}")


@dataclass(frozen=True)
class Services:
    """Everything that the routes of one application share; at `app.state.services`."""

    settings: Settings
    store: Store
    artifact_root: ArtifactRoot
    catalogues: Catalogues
    streams: EventStreams
    metrics: Metrics


def get_services(request: Request) -> Services:
    """The application's services."""
    services: Services = request.app.state.services
    return services


def get_store(request: Request) -> Store:
    """The application's store."""
    return get_services(request).store


ServicesDep = Annotated[Services, Depends(get_services)]
StoreDep = Annotated[Store, Depends(get_store)]
Reader = Annotated[Principal, Depends(require(Scope.READ))]
Submitter = Annotated[Principal, Depends(require(Scope.SUBMIT))]


def existing_job(store: StoreDep, job_id: Annotated[str, Path(description="The job's id.")]) -> tables.Job:
    """The job in the path. Raises Problem 404."""
    if _ID.fullmatch(job_id):
        with store.session() as session:
            if job := jobs.get(session, job_id=job_id):
                return job
    raise Problem(Code.JOB_NOT_FOUND, f"There is no job {job_id[:100]!r}; GET /v1/jobs lists them.")


JobDep = Annotated[tables.Job, Depends(existing_job)]


def existing_trial(store: StoreDep, request: Request, trial_id: str) -> tables.Trial:
    """The trial in the path, of the job in the path if it names one. Raises Problem 404."""
    if _ID.fullmatch(trial_id):
        with store.session() as session:
            trial = trials.get(session, trial_id=trial_id)
        if trial is not None and request.path_params.get("job_id", trial.job_id) == trial.job_id:
            return trial
    raise Problem(Code.TRIAL_NOT_FOUND, f"There is no trial {trial_id[:100]!r}.")


TrialDep = Annotated[tables.Trial, Depends(existing_trial)]


def existing_recipe(store: StoreDep, recipe_id: str) -> tables.Recipe:
    """The recipe in the path. Raises Problem 404."""
    if _ID.fullmatch(recipe_id):
        with store.session() as session:
            if recipe := recipes.get(session, recipe_id=recipe_id):
                return recipe
    raise Problem(
        Code.RECIPE_NOT_FOUND, f"There is no recipe {recipe_id[:100]!r}; GET /v1/recipes lists them."
    )


RecipeDep = Annotated[tables.Recipe, Depends(existing_recipe)]


def existing_artifact(store: StoreDep, job: JobDep, artifact_id: str) -> tables.Artifact:
    """The artifact in the path, of the job in the path. Raises Problem 404."""
    if _ID.fullmatch(artifact_id):
        with store.session() as session:
            artifact = artifacts.get(session, artifact_id=artifact_id)
        if artifact is not None and artifact.job_id == job.id:
            return artifact
    raise Problem(
        Code.ARTIFACT_NOT_FOUND,
        f"Job {job.id} has no artifact {artifact_id[:100]!r}; its links name the list.",
    )


ArtifactDep = Annotated[tables.Artifact, Depends(existing_artifact)]
