"""What happened to a job: as pages, or live as server-sent events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.sse import EventSourceResponse

from service import resources
from service.dependencies import JobDep, ServicesDep
from service.problems import Code, Fault, Problem, documented
from service.store import events

router = APIRouter(prefix="/v1", tags=["watching"])
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
MAX_SEQUENCE = 2**31 - 1


class EventList(resources.ListOf[resources.Event]):
    """A page of events, in order."""


STREAM = {
    "description": "A page of events; or, for `Accept: text/event-stream`, all events from there on as they "
    "happen: `id` is the sequence number, `event` the kind, `data` the event; the last one is `event: end`.",
    "model": EventList,
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


@router.get(
    "/jobs/{job_id}/events",
    response_model=EventList,
    responses={200: STREAM, **documented(Code.JOB_NOT_FOUND, Code.INVALID_REQUEST)},
)
def list_events(
    request: Request,
    job: JobDep,
    services: ServicesDep,
    after: Annotated[int, Query(ge=0, le=MAX_SEQUENCE, description="Only events with a higher number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Events per page; a stream has no limit.")] = 100,
    last_event_id: Annotated[
        str | None, Header(description="What browsers send to go on with a stream.")
    ] = None,
) -> Any:
    """The job's events, in order: a page, or a stream for `Accept: text/event-stream`."""
    if "text/event-stream" in request.headers.get("accept", ""):
        start = max(after, _sequence(last_event_id))
        return EventSourceResponse(services.streams.stream(job.id, after=start), headers=STREAM_HEADERS)
    with services.store.session() as session:
        rows = events.page(session, job_id=job.id, after=after, limit=limit + 1)
    shown, has_more = [resources.Event.of(row) for row in rows[:limit]], len(rows) > limit
    return EventList.of(shown, has_more=has_more, cursor=str(shown[-1].sequence) if shown else None)


def _sequence(last_event_id: str | None) -> int:
    if not last_event_id:
        return 0
    if last_event_id.isascii() and last_event_id.isdigit() and int(last_event_id[:20]) <= MAX_SEQUENCE:
        return int(last_event_id)
    fault = Fault(
        field="header.Last-Event-ID",
        message=f"{last_event_id[:40]!r} is no sequence number",
        remedy="Send the `id` of the last event you have.",
    )
    raise Problem(Code.INVALID_REQUEST, "The Last-Event-ID header is refused.", errors=[fault])
