"""A job's events as one unbroken stream: the connection may break, the sequence does not."""

from __future__ import annotations

import json

from limbeck.api import Api
from limbeck.documents import Event
from limbeck.errors import ConnectionFailed, ServerError, api_error
from limbeck.flow import Call, Emit, Flow, Pause, open_stream, read
from limbeck.paths import job_path
from limbeck.patience import Deadline, Patience
from limbeck.server_sent_events import Parser

END = "end"
# The server sends a comment every 15 s; three of them missing mean that nobody is there.
SILENCE_SECONDS = 45.0
# A connection that breaks sooner and brought no whole event is no sign of life.
STEADY_SECONDS = 5.0
PAGE_EVENTS = 100


def events(api: Api, /, job_id: str, *, after: int = 0, follow: bool = True) -> Flow[None]:
    """The job's events after that sequence number, each once and in order.

    With `follow` the stream goes on until the job has ended; a broken connection is opened again where it
    broke (Last-Event-ID), as long as the server comes back within the client's patience. Without it, what
    has happened so far.
    """
    return _follow(api, job_id, after) if follow else _recorded(api, job_id, after)


def _path(job_id: str) -> str:
    return f"{job_path(job_id)}/events"


def _recorded(api: Api, /, job_id: str, after: int) -> Flow[None]:
    while True:
        page = yield from api.get(_path(job_id), {"after": after, "limit": PAGE_EVENTS})
        for document in page["data"]:
            event = Event.model_validate(document)
            after = event.sequence
            yield Emit(event)
        if not page.get("has_more") or not page["data"]:
            return


def _follow(api: Api, /, job_id: str, after: int) -> Flow[None]:
    patience = Patience(api.policy)
    while True:
        try:
            parser = Parser()
            yield from _connect(job_id, after)
            steady = Deadline(STEADY_SECONDS, api.policy.clock)
            while chunk := (yield from read()):
                if steady.passed:
                    patience.answered()
                for received in parser.feed(chunk):
                    patience.answered()
                    if received.kind == END:
                        return
                    event = Event.model_validate(json.loads(received.data))
                    if event.sequence > after:
                        after = event.sequence
                        yield Emit(event)
            error: Exception = ConnectionFailed("the stream ended before the job", address=_path(job_id))
        except (ConnectionFailed, ServerError) as failure:
            error = failure
        yield Pause(patience.pause_seconds(error))


def _connect(job_id: str, after: int) -> Flow[None]:
    headers = {"accept": "text/event-stream", "last-event-id": str(after)}
    call = Call("GET", f"/v1{_path(job_id)}", {}, None, headers, timeout_seconds=SILENCE_SECONDS)
    reply = yield from open_stream(call)
    if reply.status >= 400:
        raise api_error(reply)
