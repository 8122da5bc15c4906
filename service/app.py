"""The application: settings and a store in, an ASGI application out."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from service.api import routers
from service.authentication import require
from service.catalogue import Catalogues
from service.dependencies import Services
from service.event_streams import EventStreams
from service.files import ArtifactRoot
from service.housekeeping import keep_house
from service.metrics import Metrics
from service.openapi import install_openapi, operation_id
from service.paging import refuse_unknown_parameters
from service.problems import (
    Problem,
    answer_http_exception,
    answer_invalid_request,
    answer_problem,
    answer_unavailable,
)
from service.request_middleware import RequestMiddleware
from service.settings import Settings
from service.store.errors import StoreUnavailable
from service.store.session import Store
from service.store.states import Scope

EVENT_POLL_SECONDS = 0.5
VERSIONED = "/v1"


def create_app(settings: Settings, store: Store) -> FastAPI:
    """The application over a store whose schema is current; it does not close the store."""
    services = make_services(settings, store)
    app = FastAPIOffline(
        docs_url="/docs",
        redoc_url=None,
        title="Limbeck",
        version=version("limbeck"),
        generate_unique_id_function=operation_id,
        lifespan=_lifespan,
        exception_handlers={
            Problem: answer_problem,
            StoreUnavailable: answer_unavailable,
            HTTPException: answer_http_exception,
            RequestValidationError: answer_invalid_request,
        },
    )
    app.state.services = services
    app.add_middleware(
        RequestMiddleware, metrics=services.metrics, body_limit_bytes=settings.body_limit_bytes
    )
    _include_routers(app)
    install_openapi(app)
    return app


def make_services(settings: Settings, store: Store) -> Services:
    """What the routes share."""
    metrics = Metrics(store, worker_timeout_seconds=settings.worker_timeout_seconds)
    return Services(
        settings=settings,
        store=store,
        artifact_root=ArtifactRoot(settings.artifact_root),
        catalogues=Catalogues(store, worker_timeout_seconds=settings.worker_timeout_seconds),
        streams=EventStreams(store, poll_seconds=EVENT_POLL_SECONDS, open_streams=metrics.streams),
        metrics=metrics,
    )


def _include_routers(app: FastAPI) -> None:
    """Everything under /v1 needs a key that may read; the pages see to that themselves."""
    for router in routers():
        guards = [Depends(require(Scope.READ)), Depends(refuse_unknown_parameters)]
        app.include_router(router, dependencies=guards if router.prefix == VERSIONED else None)
    if importlib.util.find_spec("service.web") is not None:
        app.include_router(importlib.import_module("service.web").router)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    tasks = [asyncio.create_task(services.streams.run()), asyncio.create_task(keep_house(services))]
    try:
        yield
    finally:
        services.streams.close()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
