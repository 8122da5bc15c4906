"""Following a job over connections that break."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from limbeck import Client, ConnectionFailed, NotFound
from limbeck import api as limbeck_api
from limbeck.documents import Event
from service.store import events as store_events
from tests.job_story import Story
from tests.service.api.conftest import Api, opened_api
from tests.service.api.server import Server


def stored(story: Story) -> list[int]:
    with story.store.session() as session:
        return [event.sequence for event in store_events.page(session, job_id=story.job_id, limit=1000)]


class TestRecorded:
    def test_what_has_happened_so_far(self, client: Client, finished: Story) -> None:
        found = list(client.jobs.events(finished.job_id, follow=False))

        assert [event.sequence for event in found] == stored(finished)
        assert (found[0].kind, found[-1].kind) == ("job.queued", "job.succeeded")

    def test_after_a_number_and_over_pages(
        self, client: Client, finished: Story, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("limbeck.event_flow.PAGE_EVENTS", 7)
        found = client.jobs.events(finished.job_id, after=3, follow=False)

        assert [event.sequence for event in found] == stored(finished)[3:]

    def test_a_running_job_does_not_keep_one_waiting(self, client: Client, story: Story) -> None:
        story.submit()

        assert [event.kind for event in client.jobs.events(story.job_id, follow=False)] == ["job.queued"]


class TestFollowing:
    def test_to_the_end_of_the_job(self, client: Client, story: Story) -> None:
        job = client.jobs.get(story.submit())
        teller = threading.Timer(0.2, story.tell)
        teller.start()
        found = [event.sequence for event in job.events()]
        teller.join()

        assert found == stored(story)

    def test_of_no_job(self, client: Client) -> None:
        with pytest.raises(NotFound):
            next(iter(client.jobs.events("job_none")))

    def test_connections_that_break_anywhere_lose_and_double_nothing(self, api: Api, finished: Story) -> None:
        with breaking_proxy(api.server.url, after_bytes=3000) as (url, connections), Client(url) as client:
            found = [event.sequence for event in client.jobs.events(finished.job_id)]

        assert found == stored(finished)
        assert len(connections) > 5

    def test_a_server_that_is_killed_and_comes_back(self, tmp_path: Path) -> None:
        with opened_api(tmp_path) as api:
            story = Story(api.store, api.artifact_root)
            story.submit()
            story.claim()
            port = int(api.server.url.rpartition(":")[2])
            seen: list[Event] = []
            reader = threading.Thread(
                target=lambda: seen.extend(Client(api.server.url).jobs.events(story.job_id)), daemon=True
            )
            with Client(api.server.url) as client:
                reader.start()
                _until(lambda: _says(story, "before", seen_by=client))
                api.server.stop(signal.SIGKILL)
                story.say("while nobody listened")
                time.sleep(0.5)
                again = Server(tmp_path, port=port)
                try:
                    story.tell()
                    reader.join(timeout=30)
                finally:
                    again.stop()

        assert not reader.is_alive()
        assert [event.sequence for event in seen] == stored(story)
        assert "while nobody listened" in {event.message for event in seen}

    def test_a_server_that_stays_away_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refused = httpx.MockTransport(_refuse)
        with Client("http://test", transport=refused) as client:
            impatient = replace(client.jobs.api.policy, patience_seconds=0.3)
            monkeypatch.setattr(client.jobs, "api", limbeck_api.Api(impatient))
            begun = time.monotonic()
            with pytest.raises(ConnectionFailed):
                list(client.jobs.events("job_1"))

        assert time.monotonic() - begun < 5


def _refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def _says(story: Story, message: str, *, seen_by: Client) -> bool:
    story.say(message)
    return any(event.message == message for event in seen_by.jobs.events(story.job_id, follow=False))


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


class breaking_proxy:  # noqa: N801  (used like a function)
    """A TCP proxy that resets every connection after so many bytes of answer."""

    def __init__(self, url: str, *, after_bytes: int) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self.target = (host, int(port))
        self.after_bytes = after_bytes
        self.connections: list[int] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> tuple[str, list[int]]:
        self.thread.start()
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}", self.connections

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            threading.Thread(target=self._upstream, args=(client, server), daemon=True).start()
            carried = 0
            for chunk in self._chunks(server):
                with suppress(OSError):
                    client.sendall(chunk)
                carried += len(chunk)
                if carried >= self.after_bytes:
                    break
            self.connections.append(carried)
            # Closing alone would leave the connection to the thread that still reads from it.
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _chunks(self, server: socket.socket) -> Iterator[bytes]:
        with suppress(OSError):
            while chunk := server.recv(97):
                yield chunk

    @staticmethod
    def _upstream(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while chunk := client.recv(4096):
                server.sendall(chunk)
