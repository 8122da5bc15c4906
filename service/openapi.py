"""The OpenAPI document: the routes', with the schemas of what is read and written as plain documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from search.recipe import Recipe
from search.spec import JobSpec
from service.problems import MEDIA_TYPE, ProblemDocument

DESCRIPTION = """
Limbeck searches for the distillation process that makes the best student, trains it, proves the gain against
honest baselines, and remembers how. Submit a job, watch it, fetch its recipe and its student.

* Errors are `application/problem+json` with a stable `code`, the field and the remedy.
* Lists are pages: ask again with `after` = `next_cursor` while `has_more`.
* POST requests take an `Idempotency-Key`; sent again with the same key they act once.
* Times are RFC 3339 in UTC; identifiers sort by time.
"""
TAGS = [
    {"name": "jobs", "description": "Submit, list, cancel, retry."},
    {"name": "watching", "description": "Events, trials and their figures."},
    {"name": "results", "description": "Report, recipe and files of a job."},
    {"name": "library", "description": "All stored recipes."},
    {"name": "catalogue", "description": "What this installation can do."},
    {"name": "operations", "description": "For those who run the service."},
]
DOCUMENTS = (JobSpec, Recipe, ProblemDocument)
REFERENCE = "#/components/schemas/{model}"
SECURITY = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "`python -m service keys create`. Not needed on this machine while there is no key.",
    }
}


def operation_id(route: APIRoute) -> str:
    """The function's name: stable, and what generated clients will call it."""
    return route.name


def install_openapi(app: FastAPI) -> None:
    """Let the application describe itself with our document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the application."""
    document = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    _, definitions = models_json_schema(
        [(model, "validation") for model in DOCUMENTS], ref_template=REFERENCE
    )
    for name, schema in definitions["$defs"].items():
        schemas.setdefault(name, schema)
    _link_documents(document)
    document["components"]["securitySchemes"] = SECURITY
    document["security"] = [{"key": []}]
    for path, method, operation in _operations(document):
        _show_problems(operation, has_guard=path.startswith("/v1"), acts=method == "post")
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return document


def _link_documents(part: Any) -> None:
    """Let every part that says which document it is refer to that document's schema."""
    if isinstance(part, dict):
        if (name := part.pop("x-document", None)) is not None:
            part.clear()
            part["$ref"] = REFERENCE.format(model=name)
        for below in part.values():
            _link_documents(below)
    elif isinstance(part, list):
        for below in part:
            _link_documents(below)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _show_problems(operation: dict[str, Any], *, has_guard: bool, acts: bool) -> None:
    """FastAPI's own description of 422 is replaced, and what any operation may answer is added."""
    responses = operation["responses"]
    if MEDIA_TYPE not in responses.get("422", {}).get("content", {MEDIA_TYPE: None}):
        responses["422"] = _problem("`invalid_request`: a parameter is refused")
    if has_guard:
        responses.setdefault("401", _problem("`unauthenticated`: a valid API key is needed"))
    else:
        operation["security"] = []
    if has_guard and acts:
        words = "`forbidden`: the key lacks the scope; `cross_origin`: asked by a page of another site"
        responses.setdefault("403", _problem(words))
    responses.setdefault("500", _problem("`internal`: the server failed; the log has the request id"))


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(model=ProblemDocument.__name__)}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}
