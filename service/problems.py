"""What the API answers when it cannot do as asked: application/problem+json (RFC 9457).

`code` is stable and meant for programs; `errors` name every field at fault with a remedy. Nothing of the
server's inside (paths, statements, tracebacks) leaves it: the request id finds them in the log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:limbeck:problem:"

log = structlog.get_logger(__name__)


class Code(StrEnum):
    """Every problem there is; status and title are in `KINDS`."""

    INVALID_SPEC = "invalid_spec"
    INVALID_REQUEST = "invalid_request"
    MALFORMED_JSON = "malformed_json"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    CROSS_ORIGIN = "cross_origin"
    NOT_FOUND = "not_found"
    JOB_NOT_FOUND = "job_not_found"
    TRIAL_NOT_FOUND = "trial_not_found"
    RECIPE_NOT_FOUND = "recipe_not_found"
    ARTIFACT_NOT_FOUND = "artifact_not_found"
    REPORT_NOT_READY = "report_not_ready"
    RECIPE_NOT_READY = "recipe_not_ready"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    IDEMPOTENCY_IN_FLIGHT = "idempotency_in_flight"
    JOB_ENDED = "job_ended"
    JOB_NOT_ENDED = "job_not_ended"
    JOB_SUCCEEDED = "job_succeeded"
    ARTIFACT_GONE = "artifact_gone"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    INTERNAL = "internal"
    DATABASE_UNAVAILABLE = "database_unavailable"
    CATALOGUE_EMPTY = "catalogue_empty"
    NOT_READY = "not_ready"
    HTTP_ERROR = "http_error"


KINDS: Mapping[Code, tuple[int, str]] = {
    Code.INVALID_SPEC: (422, "The job spec is refused"),
    Code.INVALID_REQUEST: (422, "The request is refused"),
    Code.MALFORMED_JSON: (422, "The body is not valid JSON"),
    Code.IDEMPOTENCY_MISMATCH: (422, "The idempotency key was used for another request"),
    Code.UNAUTHENTICATED: (401, "A valid API key is needed"),
    Code.FORBIDDEN: (403, "The API key does not allow this"),
    Code.CROSS_ORIGIN: (403, "A page of another site may not do this"),
    Code.NOT_FOUND: (404, "There is nothing here"),
    Code.JOB_NOT_FOUND: (404, "No such job"),
    Code.TRIAL_NOT_FOUND: (404, "No such trial"),
    Code.RECIPE_NOT_FOUND: (404, "No such recipe"),
    Code.ARTIFACT_NOT_FOUND: (404, "No such artifact"),
    Code.REPORT_NOT_READY: (404, "The job has no report yet"),
    Code.RECIPE_NOT_READY: (404, "The job has no recipe yet"),
    Code.METHOD_NOT_ALLOWED: (405, "This method is not allowed here"),
    Code.IDEMPOTENCY_IN_FLIGHT: (409, "A request with this idempotency key is still being answered"),
    Code.JOB_ENDED: (409, "The job has ended already"),
    Code.JOB_NOT_ENDED: (409, "The job has not ended yet"),
    Code.JOB_SUCCEEDED: (409, "The job has succeeded"),
    Code.ARTIFACT_GONE: (410, "The artifact's file is gone"),
    Code.BODY_TOO_LARGE: (413, "The body is too large"),
    Code.UNSUPPORTED_MEDIA_TYPE: (415, "The body must be JSON"),
    Code.RANGE_NOT_SATISFIABLE: (416, "The range lies outside the file"),
    Code.INTERNAL: (500, "The server failed"),
    Code.DATABASE_UNAVAILABLE: (503, "The database does not answer"),
    Code.CATALOGUE_EMPTY: (503, "No worker has published what it can do yet"),
    Code.NOT_READY: (503, "The service is not ready"),
}
_BY_STATUS = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.BODY_TOO_LARGE}


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    model_config = ConfigDict(frozen=True)

    field: str = Field(description="Where: a dotted path into the body, or `query.name`, `header.name`.")
    message: str = Field(description="What is wrong.")
    remedy: str | None = Field(default=None, description="What to do about it.")


class ProblemDocument(BaseModel):
    """The body of every answer with a status of 400 or more."""

    type: str = Field(description="`urn:limbeck:problem:` and the code.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path that was asked for.")
    code: str = Field(description="Stable; for programs.")
    request_id: str | None = Field(description="Finds the request in the server's log.")
    errors: list[Fault] = Field(default_factory=list, description="Every field at fault.")


class Problem(Exception):  # noqa: N818  (a problem in the sense of RFC 9457)
    """Raised anywhere below a request; becomes the answer."""

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status, self.title = KINDS[code]
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})

    def response(self, *, instance: str, request_id: str | None) -> Response:
        """The answer to the request with that path and id."""
        document = ProblemDocument(
            type=TYPE_PREFIX + self.code,
            title=self.title,
            status=self.status,
            detail=self.detail,
            instance=instance,
            code=self.code,
            request_id=request_id,
            errors=list(self.errors),
        )
        content = json.dumps(document.model_dump(mode="json"), ensure_ascii=True)
        return Response(content, status_code=self.status, headers=self.headers, media_type=MEDIA_TYPE)


def answer_problem(request: Request, problem: Exception) -> Response:
    """Exception handler for Problem."""
    assert isinstance(problem, Problem)
    return problem.response(instance=request.url.path, request_id=request.scope.get("request_id"))


def answer_http_exception(request: Request, error: Exception) -> Response:
    """Exception handler for what the framework raises: unknown path, wrong method, ..."""
    assert isinstance(error, HTTPException)
    code = _BY_STATUS.get(error.status_code)
    if code is None:
        problem = Problem(Code.HTTP_ERROR, str(error.detail), headers=error.headers)
        problem.status, problem.title = error.status_code, HTTPStatus(error.status_code).phrase
    else:
        problem = Problem(code, f"{request.method} {request.url.path}: {error.detail}", headers=error.headers)
    return answer_problem(request, problem)


def answer_invalid_request(request: Request, error: Exception) -> Response:
    """Exception handler for path, query and header values of the wrong type or outside their bounds."""
    assert isinstance(error, RequestValidationError)
    faults = [_fault(entry) for entry in error.errors()]
    detail = "; ".join(f"{fault.field}: {fault.message}" for fault in faults)
    return answer_problem(request, Problem(Code.INVALID_REQUEST, detail, errors=faults))


def answer_unavailable(request: Request, error: Exception) -> Response:
    """Exception handler for a database that is down or busy: nothing was done, and trying again may help."""
    log.error("the database does not answer", reason=str(error))
    detail = "The database does not answer now; nothing was done. Send the request again."
    return answer_problem(request, Problem(Code.DATABASE_UNAVAILABLE, detail, headers={"Retry-After": "2"}))


def _fault(entry: Mapping[str, Any]) -> Fault:
    place = ".".join(str(part) for part in entry["loc"])
    return Fault(field=place, message=entry["msg"], remedy="See /docs for the values that are allowed.")


def documented(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these problems; codes that share a status share an entry."""
    responses: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status, title = KINDS[code]
        entry = responses.setdefault(
            status, {"description": "", "content": {MEDIA_TYPE: {"schema": _SCHEMA, "examples": {}}}}
        )
        entry["description"] = "; ".join(filter(None, [entry["description"], f"`{code}`: {title}"]))
        entry["content"][MEDIA_TYPE]["examples"][code.value] = {"value": _example(code)}
    return responses


_SCHEMA = {"$ref": "#/components/schemas/ProblemDocument"}


def _example(code: Code) -> dict[str, Any]:
    status, title = KINDS[code]
    errors = []
    if code is Code.INVALID_SPEC:
        message, remedy = (
            "unknown model 'resnet_18'",
            "Did you mean `resnet18`? GET /v1/models lists them all.",
        )
        errors = [{"field": "student.model", "message": message, "remedy": remedy}]
    return {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status,
        "detail": title,
        "instance": "/v1/jobs",
        "code": code.value,
        "request_id": "req_4k7q2x9d1m6s",
        "errors": errors,
    }
