from __future__ import annotations

import pytest

from limbeck.server_sent_events import Parser, ServerEvent

STREAM = (
    ": a comment\r\nretry: 3000\n\n"
    "id: 1\nevent: job.queued\ndata: {}\n\n"
    "id: 2\rdata: one\rdata:two\r\r"
    "event: job.stage\ndata: naïve – ß\n\n"
    "event: without data\n\n"
    "id: 7\n\n"
    "data: last\n\n"
    "data: cut off"
).encode()
EXPECTED = [
    ServerEvent("job.queued", "{}", "1"),
    ServerEvent("message", "one\ntwo", "2"),
    ServerEvent("job.stage", "naïve – ß", "2"),
    ServerEvent("message", "last", "7"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_the_bytes_arrive(size: int) -> None:
    parser = Parser()
    chunks = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]

    assert [event for chunk in chunks for event in parser.feed(chunk)] == EXPECTED
