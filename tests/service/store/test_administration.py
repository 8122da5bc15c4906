"""Workers, API keys and idempotency keys."""

from __future__ import annotations

import hashlib
import re
import threading
import time

from sqlalchemy import text

from service.store import idempotency, keys, workers
from service.store.idempotency import Request
from service.store.session import Store
from service.store.states import Scope

REQUEST = Request("abc", "key_1", "POST /v1/jobs")


def _register(store: Store, worker_id: str) -> None:
    with store.begin_write() as session:
        workers.register(
            session, worker_id=worker_id, host="node-1", pid=7, catalogue={"models": [worker_id]}
        )


def _live(store: Store, *, max_age_seconds: float = 60.0) -> list[str]:
    with store.session() as session:
        return [worker.id for worker in workers.live(session, max_age_seconds=max_age_seconds)]


class TestWorkers:
    def test_are_live_until_they_stop(self, store: Store) -> None:
        _register(store, "first")
        _register(store, "second")
        assert _live(store) == ["first", "second"]
        with store.begin_write() as session:
            assert workers.stop(session, worker_id="first")
        assert _live(store) == ["second"]
        with store.session() as session:
            assert [worker.id for worker in workers.list_all(session)] == ["first", "second"]

    def test_are_live_while_they_are_heard_of(self, store: Store) -> None:
        _register(store, "first")
        time.sleep(0.15)
        assert _live(store, max_age_seconds=0.1) == []
        with store.begin_write() as session:
            assert workers.heartbeat(session, worker_id="first")
        assert _live(store, max_age_seconds=0.1) == ["first"]

    def test_that_stopped_or_are_unknown_are_told_so(self, store: Store) -> None:
        _register(store, "first")
        with store.begin_write() as session:
            workers.stop(session, worker_id="first")
            assert not workers.heartbeat(session, worker_id="first")
            assert not workers.heartbeat(session, worker_id="unknown")

    def test_register_once(self, store: Store) -> None:
        _register(store, "first")
        _register(store, "first")
        assert _live(store) == ["first"]

    def test_publish_a_new_catalogue(self, store: Store) -> None:
        _register(store, "first")
        with store.begin_write() as session:
            workers.publish(session, worker_id="first", catalogue={"models": ["new"]})
        with store.session() as session:
            assert workers.live(session, max_age_seconds=60)[0].catalogue == {"models": ["new"]}


class TestKeys:
    def test_are_shown_once_and_kept_as_a_hash(self, store: Store) -> None:
        with store.begin_write() as session:
            created = keys.create(session, name="laptop", scopes=[Scope.SUBMIT, Scope.READ])
        assert re.fullmatch(rf"lmb_{created.row.prefix}_[0-9a-f]{{40}}", created.clear)
        assert created.row.sha256 == hashlib.sha256(created.clear.encode()).hexdigest()
        assert created.row.scopes == ["read", "submit"]
        with store.session() as session:
            rows = session.execute(text("SELECT * FROM api_key")).all()
            assert created.clear.rsplit("_", 1)[1] not in repr(rows)
            found = keys.find(session, clear=created.clear)
        assert found is not None
        assert found.id == created.row.id

    def test_that_are_wrong_or_revoked_are_not_found(self, store: Store) -> None:
        with store.begin_write() as session:
            created = keys.create(session, name="laptop", scopes=[Scope.ADMIN])
            assert keys.any_valid(session)
            assert keys.find(session, clear=created.clear[:-1] + "x") is None
            assert keys.revoke(session, key_id=created.row.id)
            assert not keys.revoke(session, key_id=created.row.id)
            assert keys.find(session, clear=created.clear) is None
            assert not keys.any_valid(session)
            assert [key.id for key in keys.list_all(session)] == [created.row.id]

    def test_remember_their_last_use(self, store: Store) -> None:
        with store.begin_write() as session:
            created = keys.create(session, name="laptop", scopes=[Scope.READ])
            keys.touch(session, key_id=created.row.id)
            found = keys.find(session, clear=created.clear)
        assert created.row.last_used_at is None
        assert found is not None
        assert found.last_used_at is not None


class TestIdempotency:
    def test_a_second_request_finds_the_first_in_flight_then_its_response(self, store: Store) -> None:
        with store.begin_write() as session:
            assert idempotency.reserve(session, request=REQUEST, body_sha256="b") is None
        with store.begin_write() as session:
            waiting = idempotency.reserve(session, request=REQUEST, body_sha256="b")
            assert waiting is not None
            assert waiting.status is None
            idempotency.complete(session, request=REQUEST, status=201, response={"id": "job_1"})
        with store.begin_write() as session:
            done = idempotency.reserve(session, request=REQUEST, body_sha256="other")
        assert done is not None
        assert (done.status, done.response, done.body_sha256) == (201, {"id": "job_1"}, "b")

    def test_principals_and_routes_are_kept_apart(self, store: Store) -> None:
        others = [Request("abc", "key_2", REQUEST.route), Request("abc", "key_1", "POST /v1/jobs/x/cancel")]
        with store.begin_write() as session:
            for request in (REQUEST, *others):
                assert idempotency.reserve(session, request=request, body_sha256="b") is None

    def test_a_failed_request_may_be_sent_again(self, store: Store) -> None:
        with store.begin_write() as session:
            idempotency.reserve(session, request=REQUEST, body_sha256="b")
            idempotency.forget(session, request=REQUEST)
            assert idempotency.reserve(session, request=REQUEST, body_sha256="b") is None

    def test_a_response_is_never_forgotten_or_replaced(self, store: Store) -> None:
        with store.begin_write() as session:
            idempotency.reserve(session, request=REQUEST, body_sha256="b")
            idempotency.complete(session, request=REQUEST, status=201, response={"n": 1})
            idempotency.complete(session, request=REQUEST, status=500, response={"n": 2})
            idempotency.forget(session, request=REQUEST)
            row = idempotency.get(session, request=REQUEST)
        assert row is not None
        assert (row.status, row.response) == (201, {"n": 1})

    def test_one_left_behind_by_a_crash_is_taken_over(self, store: Store) -> None:
        with store.begin_write() as session:
            idempotency.reserve(session, request=REQUEST, body_sha256="b")
        time.sleep(0.05)
        with store.begin_write() as session:
            taken = idempotency.reserve(session, request=REQUEST, body_sha256="b", stale_after_seconds=0.02)
            again = idempotency.reserve(session, request=REQUEST, body_sha256="b", stale_after_seconds=0.02)
        assert taken is None
        assert again is not None

    def test_of_two_at_once_one_acts(self, store: Store) -> None:
        answers: list[bool] = []
        start = threading.Barrier(4)

        def reserve() -> None:
            start.wait()
            with store.begin_write() as session:
                answers.append(idempotency.reserve(session, request=REQUEST, body_sha256="b") is None)

        threads = [threading.Thread(target=reserve) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [False, False, False, True]

    def test_old_ones_are_purged(self, store: Store) -> None:
        with store.begin_write() as session:
            idempotency.reserve(session, request=REQUEST, body_sha256="b")
        with store.begin_write() as session:
            assert idempotency.purge(session, older_than_seconds=60) == 0
            assert idempotency.purge(session, older_than_seconds=-1) == 1
            assert idempotency.get(session, request=REQUEST) is None
