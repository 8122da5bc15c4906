"""The catalogue: methods, models, data sets and workers of this installation."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from service import resources
from service.catalogue import UNITED
from service.dependencies import ServicesDep
from service.paging import DEFAULT_LIMIT, After, Limit, part_of
from service.store import tables, workers

router = APIRouter(prefix="/v1", tags=["catalogue"])
Words = Annotated[str | None, Query(max_length=100, description="Only names that contain this text.")]


class Named(BaseModel):
    """An entry of the catalogue; it may have more fields, as its worker published them."""

    model_config = ConfigDict(extra="allow")

    name: str


class Method(Named):
    """A transform, distance, logit loss, normalisation or strategy that a spec may name."""

    object: Literal["method"] = "method"
    id: str = Field(description="Kind and name, as in `distance/mse`.")
    kind: str


class Model(Named):
    """A model that can be a teacher or a student."""

    object: Literal["model"] = "model"


class Dataset(Named):
    """A data set that a spec may name."""

    object: Literal["dataset"] = "dataset"


class Worker(BaseModel):
    """A worker process; `about` is what it says of itself (devices, versions, ...)."""

    object: Literal["worker"] = "worker"
    id: str
    host: str
    pid: int
    state: Literal["live", "silent", "stopped"]
    started_at: datetime
    heartbeat_at: datetime
    stopped_at: datetime | None
    about: dict[str, Any]
    offers: dict[str, int] = Field(description="How many methods, data sets and models it has.")


class MethodList(resources.ListOf[Method]):
    """A page of methods, by kind and name."""


class ModelList(resources.ListOf[Model]):
    """A page of models, by name."""


class DatasetList(resources.ListOf[Dataset]):
    """A page of data sets, by name."""


class WorkerList(resources.ListOf[Worker]):
    """A page of workers."""


@router.get("/methods")
def list_methods(
    services: ServicesDep,
    kind: Annotated[str | None, Query(max_length=100, description="Only methods of this kind.")] = None,
    q: Words = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> MethodList:
    """Methods that live workers offer, by kind and name."""
    entries = [entry for entry in services.catalogues.united()["methods"] if kind in (None, entry["kind"])]
    found = [
        Method(**{**entry, "id": f"{entry['kind']}/{entry['name']}"}) for entry in _containing(entries, q)
    ]
    shown, has_more = part_of(found, key=lambda one: one.id, after=after, limit=limit)
    return MethodList.of(shown, has_more=has_more, cursor=shown[-1].id if shown else None)


@router.get("/models")
def list_models(
    services: ServicesDep, q: Words = None, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> ModelList:
    """Models that live workers offer, by name."""
    entries = _containing(services.catalogues.united()["models"], q)
    shown, has_more = part_of(entries, key=lambda entry: str(entry["name"]), after=after, limit=limit)
    models = [Model(**entry) for entry in shown]
    return ModelList.of(models, has_more=has_more, cursor=models[-1].name if models else None)


@router.get("/datasets")
def list_datasets(
    services: ServicesDep, q: Words = None, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> DatasetList:
    """Data sets that live workers offer, by name."""
    entries = _containing(services.catalogues.united()["datasets"], q)
    shown, has_more = part_of(entries, key=lambda entry: str(entry["name"]), after=after, limit=limit)
    datasets = [Dataset(**entry) for entry in shown]
    return DatasetList.of(datasets, has_more=has_more, cursor=datasets[-1].name if datasets else None)


@router.get("/workers")
def list_workers(
    services: ServicesDep,
    state: Annotated[
        Literal["live", "all"], Query(description="`all` shows workers that are gone, too.")
    ] = "live",
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> WorkerList:
    """Workers, by id."""
    with services.store.session() as session:
        live = workers.live(session, max_age_seconds=services.settings.worker_timeout_seconds)
        rows = workers.list_all(session) if state == "all" else live
    alive = {row.id for row in live}
    shown, has_more = part_of(sorted(rows, key=_id), key=_id, after=after, limit=limit)
    found = [_worker(row, is_alive=row.id in alive) for row in shown]
    return WorkerList.of(found, has_more=has_more, cursor=found[-1].id if found else None)


def _containing(entries: list[dict[str, Any]], text: str | None) -> list[dict[str, Any]]:
    return [entry for entry in entries if text is None or text.casefold() in str(entry["name"]).casefold()]


def _id(row: tables.Worker) -> str:
    return row.id


def _worker(row: tables.Worker, *, is_alive: bool) -> Worker:
    return Worker(
        id=row.id,
        host=row.host,
        pid=row.pid,
        state="live" if is_alive else "stopped" if row.stopped_at else "silent",
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        stopped_at=row.stopped_at,
        about={name: value for name, value in row.catalogue.items() if name not in UNITED},
        offers={part: len(row.catalogue.get(part, ())) for part in UNITED},
    )
