"""What can go wrong between a client and Limbeck.

LimbeckError
 +-- ConnectionFailed        no answer: refused, reset, name unknown
 |    +-- TimedOut           no answer in time
 +-- ApiError                an answer that says no (RFC 9457): status, code, detail, faults, request_id
 |    +-- Unauthorized 401   +-- Forbidden 403   +-- NotFound 404   +-- Conflict 409   +-- TooLarge 413
 |    +-- InvalidRequest 422  what was sent is refused; `faults` name field, message and remedy
 |    |    +-- InvalidSpec    the same, of a job spec
 |    +-- RateLimited 429
 |    +-- ServerError 5xx
 |         +-- ServiceUnavailable 503
 +-- JobFailed               a job that was waited for with `check=True` did not succeed
 +-- WaitTimeout             a job that was waited for did not end in time
 +-- ChecksumMismatch        a downloaded file is not what the server holds
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.flow import Reply


class LimbeckError(Exception):
    """Base of all errors of the client."""


class ConnectionFailed(LimbeckError):
    """The server did not answer; `address` is where it was looked for."""

    def __init__(self, message: str, *, address: str) -> None:
        super().__init__(message)
        self.address = address


class TimedOut(ConnectionFailed):
    """The server did not answer in time."""


class WaitTimeout(LimbeckError, TimeoutError):
    """The job did not end in time; it goes on."""


class ChecksumMismatch(LimbeckError):
    """A file arrived that is not what the server holds; nothing was kept of it."""


class JobFailed(LimbeckError):
    """A job ended without success; `document` is the job."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        reason = document.get("status_reason") or "no reason given"
        message = document.get("status_message") or ""
        super().__init__(f"job {document.get('id')} {document.get('state')}: {reason}. {message}".rstrip())


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with what was sent, and how to mend it."""

    field: str
    message: str
    remedy: str | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" + (f" ({self.remedy})" if self.remedy else "")


class ApiError(LimbeckError):
    """An answer of the server that says no.

    `code` is stable and meant for programs, `detail` for people; `faults` name the fields that are wrong;
    `request_id` finds the request in the server's log; `retry_after_seconds` is the server's advice.
    """

    status: int | None = None

    def __init__(self, reply: Reply) -> None:
        problem = reply.json()
        problem = problem if isinstance(problem, dict) else {}
        self.status_code = reply.status
        self.problem: dict[str, Any] = problem
        self.code = str(problem.get("code") or f"http_{reply.status}")
        self.title = str(problem.get("title") or f"HTTP {reply.status}")
        self.detail = str(problem.get("detail") or "")
        self.request_id: str | None = problem.get("request_id") or reply.headers.get("x-request-id")
        self.faults = tuple(_fault(entry) for entry in problem.get("errors") or () if isinstance(entry, dict))
        self.retry_after_seconds = _seconds(reply.headers.get("retry-after"))
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        parts = [f"{self.detail or self.title} [{self.status_code} {self.code}]"]
        parts += [f"  {fault}" for fault in self.faults]
        if self.request_id:
            parts.append(f"  request {self.request_id}")
        return "\n".join(parts)


class Unauthorized(ApiError):
    """No key, or one that is not known."""

    status = 401


class Forbidden(ApiError):
    """The key's scopes do not allow this."""

    status = 403


class NotFound(ApiError):
    """There is no such thing, or not yet (`report_not_ready`)."""

    status = 404


class Conflict(ApiError):
    """The state of the thing does not allow this now."""

    status = 409


class TooLarge(ApiError):
    """More was sent than the server takes."""

    status = 413


class InvalidRequest(ApiError):
    """What was sent is refused; nothing was stored. `faults` say what to mend."""

    status = 422


class InvalidSpec(InvalidRequest):
    """The job spec is refused: unknown names, values out of bounds, fields that do not exist."""


class RateLimited(ApiError):
    """Too many requests."""

    status = 429


class ServerError(ApiError):
    """The server failed; its log knows more under `request_id`."""


class ServiceUnavailable(ServerError):
    """Not now: for example no worker has published its catalogue yet (`catalogue_empty`)."""

    status = 503


_BY_STATUS: dict[int, type[ApiError]] = {
    kind.status: kind
    for kind in (
        Unauthorized,
        Forbidden,
        NotFound,
        Conflict,
        TooLarge,
        InvalidRequest,
        RateLimited,
        ServiceUnavailable,
    )
    if kind.status is not None
}


def api_error(reply: Reply) -> ApiError:
    """The error that a reply with a status of 400 or more stands for."""
    kind = _BY_STATUS.get(reply.status) or (ServerError if reply.status >= 500 else ApiError)
    error = kind(reply)
    return InvalidSpec(reply) if error.code == "invalid_spec" else error


def _fault(entry: Mapping[str, Any]) -> Fault:
    remedy = entry.get("remedy")
    return Fault(
        str(entry.get("field") or "body"), str(entry.get("message") or ""), str(remedy) if remedy else None
    )


def _seconds(value: str | None) -> float | None:
    """Retry-After in seconds; its rarely used form as a date is ignored."""
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:
        return None
