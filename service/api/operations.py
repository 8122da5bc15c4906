"""For those who run the service: is it alive, is it ready, how busy is it, which version is it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Literal

import structlog
from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from search.recipe import RECIPE_VERSION
from search.spec import SPEC_VERSION
from service.authentication import require
from service.dependencies import ServicesDep
from service.problems import Code, Fault, Problem, documented
from service.store import workers
from service.store.states import Scope

router = APIRouter(tags=["operations"])
log = structlog.get_logger(__name__)


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """The database and the artifact root answer too."""

    status: Literal["ready"] = "ready"
    database: Literal["ok"] = "ok"
    artifact_root: Literal["ok"] = "ok"
    live_workers: int = Field(description="Without one, jobs are not taken up.")


class Version(BaseModel):
    """Versions of Limbeck and of what it stores."""

    version: str
    spec_version: int
    recipe_schema_version: int


@router.get("/healthz")
@router.head("/healthz", include_in_schema=False)
async def get_health() -> Health:
    """Whether the process is alive; asks nothing of the database, and needs no free thread."""
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=documented(Code.NOT_READY))
def get_readiness(services: ServicesDep) -> Readiness:
    """Whether requests can be served: database and artifact root answer."""
    faults: list[Fault] = []
    live = 0
    try:
        with services.store.session() as session:
            live = len(workers.live(session, max_age_seconds=services.settings.worker_timeout_seconds))
    except Exception:
        log.exception("the database does not answer")
        remedy = "Check LIMBECK_DATABASE_URL and the server behind it; the log has the error."
        faults.append(Fault(field="database", message="does not answer", remedy=remedy))
    try:
        services.artifact_root.identity()
    except Exception:
        log.exception("the artifact root cannot be read")
        remedy = "Check LIMBECK_ARTIFACT_ROOT; the log has the error."
        faults.append(Fault(field="artifact_root", message="cannot be read", remedy=remedy))
    if faults:
        detail = "; ".join(f"{fault.field} {fault.message}" for fault in faults)
        raise Problem(Code.NOT_READY, detail, errors=faults, headers={"Retry-After": "5"})
    return Readiness(live_workers=live)


@router.get("/version")
def get_version() -> Version:
    """Versions of Limbeck, of its job spec and of its recipe schema."""
    return Version(
        version=version("limbeck"), spec_version=SPEC_VERSION, recipe_schema_version=RECIPE_VERSION
    )


@router.get(
    "/metrics",
    response_class=Response,
    dependencies=[Depends(require(Scope.READ))],
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_metrics(services: ServicesDep) -> Response:
    """Metrics in Prometheus's text format."""
    return Response(services.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})
