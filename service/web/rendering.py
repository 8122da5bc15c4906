"""Templates: everything is escaped, and an answer carries the headers that keep foreign content out."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from service.store.states import EventKind, JobState
from service.web import static_files, wording

# No inline script, no inline style, nothing from elsewhere: what a user writes into a name can do nothing.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
STATIC_FILES = static_files.load()


def _static_address(name: str) -> str:
    return f"/static/{name}?v={STATIC_FILES[name].version}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("service.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("percent", "points", "figure", "seconds", "age", "moment", "size", "words"):
        environment.filters[name] = getattr(wording, name)
    environment.globals.update(
        static=_static_address,
        elapsed=wording.elapsed,
        job_states=list(JobState),
        event_kinds=" ".join(EventKind),
    )
    return environment


_ENVIRONMENT = _environment()


def page(template: str, *, status: HTTPStatus = HTTPStatus.OK, **context: Any) -> HTMLResponse:
    """The rendered template as an answer."""
    text = _ENVIRONMENT.get_template(template).render(**context)
    return HTMLResponse(text, status_code=status, headers=HEADERS)
