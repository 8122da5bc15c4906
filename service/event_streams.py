"""Server-sent events: one poller per process reads new events once and hands them to every open stream.

A stream first catches up from the database, then lives on what the poller offers. It ends with `event: end`
when the job has ended, and silently when the server stops, so that the client connects again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from anyio.to_thread import run_sync
from fastapi.sse import format_sse_event
from prometheus_client import Gauge

from service import resources
from service.store import events, jobs
from service.store.session import Store
from service.store.states import EventKind
from service.store.tables import Event

FINAL_KINDS = frozenset({EventKind.JOB_SUCCEEDED, EventKind.JOB_FAILED, EventKind.JOB_CANCELLED})
KEEP_ALIVE = b": waiting\n\n"
KEEP_ALIVE_SECONDS = 15.0
RECONNECT_MILLISECONDS = 3000
PAGE_EVENTS = 500
MAX_WAITING_EVENTS = 500
RETRY_SECONDS = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Encoded:
    """An event as it goes over the wire; encoded once for all streams."""

    sequence: int
    is_final: bool
    wire: bytes


class Subscriber:
    """One open stream's inbox. A reader that is too slow finds it emptied, and catches up from SQL."""

    def __init__(self) -> None:
        self._waiting: deque[Encoded] = deque()
        self._changed = asyncio.Event()
        self.is_behind = False
        self.is_closed = False

    def offer(self, item: Encoded) -> None:
        if len(self._waiting) >= MAX_WAITING_EVENTS:
            self._waiting.clear()
            self.is_behind = True
        if not self.is_behind:
            self._waiting.append(item)
        self._changed.set()

    def close(self) -> None:
        self.is_closed = True
        self._changed.set()

    async def take(self, timeout_seconds: float) -> list[Encoded]:
        """All that waits; empty after the timeout, or when behind or closed."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._changed.wait()
        except TimeoutError:
            return []
        self._changed.clear()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


@dataclass
class Channel:
    """A job that is watched; its events up to `watermark` have been offered, or were there before."""

    watermark: int
    subscribers: set[Subscriber] = field(default_factory=set)


class EventStreams:
    """All open streams of this process and the poller that feeds them. Belongs to one event loop."""

    def __init__(self, store: Store, *, poll_seconds: float, open_streams: Gauge) -> None:
        self._store = store
        self._poll_seconds = poll_seconds
        self._open_streams = open_streams
        self._channels: dict[str, Channel] = {}
        self._has_channels = asyncio.Event()
        self._is_closed = False

    async def run(self) -> None:
        """Poll while there is a stream. A database that does not answer is asked again; streams stay open."""
        while not self._is_closed:
            await self._has_channels.wait()
            pause = self._poll_seconds
            try:
                found = await run_sync(
                    self._read_new, {name: one.watermark for name, one in self._channels.items()}
                )
                self._hand_out(found)
                pause = 0.0 if len(found) >= PAGE_EVENTS else pause
            except Exception:
                log.exception("reading events failed")
                pause = RETRY_SECONDS
            await asyncio.sleep(pause)

    def close(self) -> None:
        """End all streams; their clients may connect again elsewhere."""
        self._is_closed = True
        self._has_channels.set()
        for channel in self._channels.values():
            for subscriber in channel.subscribers:
                subscriber.close()

    async def stream(self, job_id: str, *, after: int) -> AsyncIterator[bytes]:
        """The job's events above a sequence number, as server-sent events, until the job ends."""
        yield format_sse_event(retry=RECONNECT_MILLISECONDS)
        watermark = await run_sync(self._last_sequence, job_id)
        cursor = after
        with self._subscribed(job_id, watermark) as subscriber:
            while not subscriber.is_closed:
                if subscriber.is_behind:
                    log.info("event stream catches up", job_id=job_id, after=cursor)
                subscriber.is_behind = False
                has_ended = await run_sync(self._has_ended, job_id)
                async for item in self._stored(job_id, cursor):
                    yield item.wire
                    cursor, has_ended = item.sequence, has_ended or item.is_final
                if has_ended:
                    yield await run_sync(self._end, job_id)
                    return
                async for offered in self._offered(subscriber):
                    if offered is None:
                        yield KEEP_ALIVE
                    elif offered.sequence > cursor:
                        yield offered.wire
                        cursor = offered.sequence
                        if offered.is_final:
                            yield await run_sync(self._end, job_id)
                            return

    async def _stored(self, job_id: str, cursor: int) -> AsyncIterator[Encoded]:
        while page := await run_sync(self._page, job_id, cursor):
            for item in page:
                yield item
            cursor = page[-1].sequence

    @staticmethod
    async def _offered(subscriber: Subscriber) -> AsyncIterator[Encoded | None]:
        """What the poller offers; None after a while without. Ends at the close, or when too much waits."""
        while not subscriber.is_behind and not subscriber.is_closed:
            items = await subscriber.take(KEEP_ALIVE_SECONDS)
            for item in items:
                yield item
            if not items and not subscriber.is_behind and not subscriber.is_closed:
                yield None

    @contextmanager
    def _subscribed(self, job_id: str, watermark: int) -> Iterator[Subscriber]:
        subscriber = Subscriber()
        channel = self._channels.setdefault(job_id, Channel(watermark))
        channel.subscribers.add(subscriber)
        self._has_channels.set()
        self._open_streams.inc()
        if self._is_closed:
            subscriber.close()
        try:
            yield subscriber
        finally:
            self._open_streams.dec()
            channel.subscribers.discard(subscriber)
            if not channel.subscribers and self._channels.get(job_id) is channel:
                del self._channels[job_id]
            if not self._channels and not self._is_closed:
                self._has_channels.clear()

    def _hand_out(self, found: list[tuple[str, Encoded]]) -> None:
        for job_id, item in found:
            channel = self._channels.get(job_id)
            if channel is not None and item.sequence > channel.watermark:
                channel.watermark = item.sequence
                for subscriber in channel.subscribers:
                    subscriber.offer(item)

    def _read_new(self, after: dict[str, int]) -> list[tuple[str, Encoded]]:
        with self._store.session() as session:
            found = events.newer(session, after=after, limit=PAGE_EVENTS)
        return [(event.job_id, encode(event)) for event in found]

    def _page(self, job_id: str, after: int) -> list[Encoded]:
        with self._store.session() as session:
            return [
                encode(event) for event in events.page(session, job_id=job_id, after=after, limit=PAGE_EVENTS)
            ]

    def _last_sequence(self, job_id: str) -> int:
        with self._store.session() as session:
            return events.last_sequence(session, job_id=job_id)

    def _has_ended(self, job_id: str) -> bool:
        with self._store.session() as session:
            job = jobs.get(session, job_id=job_id)
        return job is None or job.state.is_final

    def _end(self, job_id: str) -> bytes:
        with self._store.session() as session:
            job = jobs.get(session, job_id=job_id)
        state = job.state.value if job else "unknown"
        return format_sse_event(event="end", data_str=f'{{"job_id": "{job_id}", "state": "{state}"}}')


def encode(event: Event) -> Encoded:
    """The event in its wire format: `id` is the sequence number, `event` the kind, `data` the resource."""
    data = resources.Event.of(event).model_dump_json()
    wire = format_sse_event(id=str(event.sequence), event=event.kind, data_str=data)
    return Encoded(event.sequence, is_final=event.kind in FINAL_KINDS, wire=wire)
