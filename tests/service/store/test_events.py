"""Events: numbered without gaps, whoever writes at the same time."""

from __future__ import annotations

import threading
import time

from service.store import events
from service.store.session import Store, open_store
from service.store.states import Level
from tests.service.store.builders import queued, running


def _append(store: Store, job_id: str, message: str) -> int:
    with store.begin_write() as session:
        return events.append(session, job_id=job_id, kind="job.progress", message=message)


def test_keep_what_was_said(store: Store) -> None:
    lease = running(store)
    with store.begin_write() as session:
        events.report(
            session, lease=lease, kind="job.stage", message="Proof begins", level=Level.WARNING, data={"n": 1}
        )
    with store.session() as session:
        last = events.page(session, job_id=lease.job_id)[-1]
    assert (last.kind, last.message, last.level, last.data) == (
        "job.stage",
        "Proof begins",
        "warning",
        {"n": 1},
    )


def test_are_counted_for_each_job(store: Store) -> None:
    first, second = queued(store), queued(store)
    assert [_append(store, first.id, "a"), _append(store, second.id, "b"), _append(store, first.id, "c")] == [
        2,
        2,
        3,
    ]
    with store.session() as session:
        assert events.last_sequence(session, job_id=first.id) == 3
        assert events.last_sequence(session, job_id="job_unknown") == 0


def test_a_rolled_back_event_leaves_no_gap(store: Store) -> None:
    job = queued(store)
    with store.begin_write() as session:
        events.append(session, job_id=job.id, kind="job.progress", message="undone")
        session.rollback()
    assert _append(store, job.id, "kept") == 2


def test_are_paged_by_number(store: Store) -> None:
    job = queued(store)
    for number in range(5):
        _append(store, job.id, str(number))
    with store.session() as session:
        page = events.page(session, job_id=job.id, after=2, limit=2)
    assert [event.sequence for event in page] == [3, 4]


def test_of_several_jobs_come_in_one_reading(store: Store) -> None:
    first, second, third = queued(store), queued(store), queued(store)
    for job in (first, second, third):
        _append(store, job.id, "more")
    with store.session() as session:
        found = events.newer(session, after={first.id: 1, second.id: 0})
        assert events.newer(session, after={}) == []
    assert [(event.job_id, event.sequence) for event in found] == [
        (first.id, 2),
        (second.id, 1),
        (second.id, 2),
    ]


def test_writers_at_once_leave_no_gap_and_a_reader_never_sees_one(store_url: str) -> None:
    """A reader that has seen number n will never be shown a smaller one later: SSE relies on it."""
    store = open_store(store_url)
    job = queued(store)
    writers = [
        threading.Thread(target=lambda name=name: [_append(store, job.id, name) for _ in range(25)])
        for name in "abcd"
    ]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    deadline = time.monotonic() + 60
    while len(seen) < 101 and time.monotonic() < deadline:
        with store.session() as session:
            seen += [
                event.sequence for event in events.page(session, job_id=job.id, after=seen[-1] if seen else 0)
            ]
    for writer in writers:
        writer.join()
    assert seen == list(range(1, 102))
    store.close()
