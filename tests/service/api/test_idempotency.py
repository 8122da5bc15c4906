"""A POST that is sent twice with one Idempotency-Key acts once; on both engines."""

from __future__ import annotations

import hashlib
import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.store import idempotency
from tests.service.api.conftest import Api, small_spec


def post(api: Api, key: str, body: bytes, path: str = "/v1/jobs") -> httpx.Response:
    return api.client.post(
        path, content=body, headers={"Idempotency-Key": key, "Content-Type": "application/json"}
    )


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def body() -> bytes:
    return json.dumps(small_spec()).encode()


def test_the_first_answer_is_given_again(api: Api, key: str, body: bytes) -> None:
    before = api.count_jobs()
    first, second = post(api, key, body), post(api, key, body)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert first.headers["Location"] == second.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert api.count_jobs() == before + 1


def test_another_body_is_refused(api: Api, key: str, body: bytes) -> None:
    post(api, key, body)
    before = api.count_jobs()
    for other, path in (
        (json.dumps(small_spec(name="x")).encode(), "/v1/jobs"),
        (body, "/v1/jobs?dry_run=true"),
    ):
        answer = post(api, key, other, path)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert api.count_jobs() == before


def test_another_route_is_another_request(api: Api, key: str, body: bytes) -> None:
    job = post(api, key, body).json()
    cancelled = post(api, key, b"", f"/v1/jobs/{job['id']}/cancel")
    assert cancelled.status_code == 202
    again = post(api, key, b"", f"/v1/jobs/{job['id']}/cancel")
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert post(api, uuid.uuid4().hex, b"", f"/v1/jobs/{job['id']}/cancel").status_code == 409


def test_a_refused_request_may_be_mended_under_the_same_key(api: Api, key: str, body: bytes) -> None:
    assert post(api, key, json.dumps(small_spec(budget={"trials": 0})).encode()).status_code == 422
    assert post(api, key, body).status_code == 201


def test_one_in_flight_is_409(api: Api, key: str, body: bytes) -> None:
    """Another process has taken the key and has not answered yet."""
    request = idempotency.Request(key=key, principal="loopback", route="POST /v1/jobs")
    with api.store.begin_write() as session:
        idempotency.reserve(session, request=request, body_sha256=fingerprint(body))
    answer = post(api, key, body)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_in_flight")
    assert int(answer.headers["Retry-After"]) >= 1
    assert post(api, key, b"{}").status_code == 422
    with api.store.begin_write() as session:
        idempotency.forget(session, request=request)
    assert post(api, key, body).status_code == 201


def test_many_at_once_make_one_job(api: Api, key: str, body: bytes) -> None:
    before = api.count_jobs()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(api, key, body), range(16)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert api.count_jobs() == before + 1


@pytest.mark.parametrize("bad", ["", "with space", "x" * 256])
def test_a_key_that_is_no_plain_word_is_refused(api: Api, bad: str, body: bytes) -> None:
    answer = post(api, bad, body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["field"] == "header.Idempotency-Key"


def fingerprint(body: bytes) -> str:
    return hashlib.sha256(b"\n" + body).hexdigest()
