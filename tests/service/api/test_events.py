"""Events as pages and as streams: complete, in order, once each, for as many readers as there are."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from service.store import events
from service.store.leases import Lease
from tests.service.api.conftest import Api
from tests.service.api.streams import Stream


def say(api: Api, lease: Lease, count: int = 1) -> int:
    """So many more events of the job; the last one's number."""
    with api.store.begin_write() as session:
        for _ in range(count):
            last = events.report(
                session, lease=lease, kind="job.progress", message="line\nbreak ü", data={"step": 1}
            )
    return last


def stream_url(api: Api, lease: Lease, query: str = "") -> str:
    return f"{api.server.url}/v1/jobs/{lease.job_id}/events{query}"


@pytest.fixture
def lease(api: Api) -> Lease:
    """A running job; its events 1 and 2 say that it was queued and claimed."""
    return api.start_job()


class TestPages:
    def test_in_order_after_a_number(self, api: Api, lease: Lease) -> None:
        say(api, lease, 5)
        page = api.client.get(f"/v1/jobs/{lease.job_id}/events?limit=4").json()
        assert [event["sequence"] for event in page["data"]] == [1, 2, 3, 4]
        assert (page["has_more"], page["next_cursor"]) == (True, "4")
        rest = api.client.get(f"/v1/jobs/{lease.job_id}/events?after={page['next_cursor']}").json()
        assert [event["sequence"] for event in rest["data"]] == [5, 6, 7]
        assert (rest["has_more"], rest["next_cursor"]) == (False, None)
        assert page["data"][0]["kind"] == "job.queued"
        assert rest["data"][0] | {"created_at": ""} == {
            "sequence": 5,
            "created_at": "",
            "kind": "job.progress",
            "level": "info",
            "message": "line\nbreak ü",
            "data": {"step": 1},
        }

    @pytest.mark.parametrize("query", ["after=-1", "after=x", f"after={2**40}", "limit=0", "limit=1001"])
    def test_bounds(self, api: Api, lease: Lease, query: str) -> None:
        answer = api.client.get(f"/v1/jobs/{lease.job_id}/events?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


class TestStreams:
    def test_what_was_and_what_comes_until_the_end_of_the_job(self, api: Api, lease: Lease) -> None:
        stream = Stream(stream_url(api, lease))
        stream.wait_for(2)
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["cache-control"] == "no-cache"
        stream.wait_for(say(api, lease, 3))
        api.finish_job(lease)
        stream.wait_for_end()
        assert stream.sequences == [1, 2, 3, 4, 5, 6]
        assert [message.id for message in stream.messages[:-1]] == ["1", "2", "3", "4", "5", "6"]
        assert [message.kind for message in stream.messages[-2:]] == ["job.succeeded", "end"]
        assert stream.messages[-1].data == {"job_id": lease.job_id, "state": "succeeded"}
        assert stream.messages[2].data["message"] == "line\nbreak ü"
        assert stream.retry_milliseconds == 3000
        assert stream.error is None

    def test_two_at_once_get_the_same(self, api: Api, lease: Lease) -> None:
        early = Stream(stream_url(api, lease))
        early.wait_for(2)
        say(api, lease, 20)
        late = Stream(stream_url(api, lease, "?after=10"))
        late.wait_for(22)
        say(api, lease, 20)
        api.finish_job(lease)
        early.wait_for_end()
        late.wait_for_end()
        assert early.sequences == list(range(1, 44))
        assert late.sequences == list(range(11, 44))

    def test_goes_on_after_the_last_event_id(self, api: Api, lease: Lease) -> None:
        last = say(api, lease, 8)
        stream = Stream(stream_url(api, lease), headers={"Last-Event-ID": "6"})
        stream.wait_for(last)
        api.finish_job(lease)
        stream.wait_for_end()
        assert stream.sequences == [7, 8, 9, 10, 11]

    def test_of_a_job_that_has_ended_is_complete_and_ends(self, api: Api, lease: Lease) -> None:
        say(api, lease, 700)
        api.finish_job(lease, "failed", reason="nan", message="The loss became infinite.")
        stream = Stream(stream_url(api, lease))
        stream.wait_for_end()
        assert stream.sequences == list(range(1, 704))
        assert stream.messages[-1].data["state"] == "failed"
        reconnected = Stream(stream_url(api, lease), headers={"Last-Event-ID": "703"})
        reconnected.wait_for_end()
        assert [message.kind for message in reconnected.messages] == ["end"]

    def test_many_jobs_at_once(self, api: Api) -> None:
        leases = [api.start_job() for _ in range(10)]
        streams = [Stream(stream_url(api, lease)) for lease in leases for _ in range(3)]
        for lease in leases:
            say(api, lease, 3)
        for lease in leases:
            api.finish_job(lease)
        for stream in streams:
            stream.wait_for_end()
            assert stream.sequences == [1, 2, 3, 4, 5, 6]

    def test_while_events_are_written_nothing_is_lost_or_doubled(self, api: Api, lease: Lease) -> None:
        streams = []
        for _ in range(12):
            say(api, lease, 5)
            streams.append(Stream(stream_url(api, lease)))
        api.finish_job(lease)
        for stream in streams:
            stream.wait_for_end()
            assert stream.sequences == list(range(1, 64))

    @pytest.mark.parametrize("number", ["x", "-1", "99999999999999999999", "1.5"])
    def test_a_last_event_id_that_is_no_number_is_refused(self, api: Api, lease: Lease, number: str) -> None:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": number}
        answer = api.client.get(f"/v1/jobs/{lease.job_id}/events", headers=headers)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "header.Last-Event-ID")

    def test_of_no_job_is_a_problem(self, api: Api) -> None:
        answer = api.client.get("/v1/jobs/job_0/events", headers={"Accept": "text/event-stream"})
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


class TestLoad:
    @pytest.fixture
    def api(self, sqlite_api: Api) -> Api:
        return sqlite_api

    def test_a_hundred_streams_need_no_thread_each(self, api: Api, lease: Lease) -> None:
        with ExitStack() as stack:
            readers = [stack.enter_context(raw_stream(api, lease)) for _ in range(100)]
            last = say(api, lease)
            for reader in readers:
                read_until(reader, f"id: {last}\n".encode())
            status = Path(f"/proc/{api.server.process.pid}/status").read_text()
            threads = next(
                int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads:")
            )
            assert threads < 50  # the pool for requests has 40
            assert "limbeck_event_streams 100.0" in api.client.get("/metrics").text

    def test_a_reader_that_falls_behind_still_gets_everything(self, api: Api, lease: Lease) -> None:
        with raw_stream(api, lease) as reader:
            read_until(reader, b"id: 2\n")
            with api.store.begin_write() as session:
                for _ in range(1600):  # about 8 MB: more than the sockets' buffers and the inbox hold
                    events.append(session, job_id=lease.job_id, kind="job.progress", message="x" * 5000)
            time.sleep(1.0)
            api.finish_job(lease)
            received = read_until(reader, b"event: end\n")
        numbers = [int(number) for number in re.findall(rb"^id: (\d+)$", received, re.MULTILINE)]
        assert numbers == list(range(numbers[0], 1604))
        assert any(line["event"] == "event stream catches up" for line in api.server.log)


@contextmanager
def raw_stream(api: Api, lease: Lease) -> Iterator[socket.socket]:
    """A stream that is read only when the test reads."""
    address = (api.client.base_url.host, api.client.base_url.port or 80)
    with socket.create_connection(address, timeout=10) as connection:
        lines = (
            f"GET /v1/jobs/{lease.job_id}/events HTTP/1.0",
            "Host: localhost",
            "Accept: text/event-stream",
        )
        connection.sendall("\r\n".join((*lines, "", "")).encode())
        yield connection


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """All bytes up to the mark and a little beyond."""
    received = b""
    while mark not in received:
        chunk = connection.recv(1 << 20)
        assert chunk, f"the stream ended before {mark!r}"
        received += chunk
    return received
