"""Retries, errors and idempotency keys; blocking and awaiting clients must do the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from limbeck import (
    ApiError,
    AsyncClient,
    Client,
    Conflict,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    InvalidSpec,
    NotFound,
    RateLimited,
    ServerError,
    ServiceUnavailable,
    TimedOut,
    TooLarge,
    Unauthorized,
)
from limbeck.retry import RetryPolicy

JOB = {"id": "job_1", "state": "queued", "spec": {}, "created_at": "2026-01-01T00:00:00Z"}
Handler = Callable[[httpx.Request], httpx.Response]
Submit = Callable[[Handler], Any]


def submit_blocking(handler: Handler) -> Any:
    with Client("http://test", transport=httpx.MockTransport(handler), max_retries=3) as client:
        return client.jobs.create(teacher="a", student="b").document


def submit_awaiting(handler: Handler) -> Any:
    async def submit() -> Any:
        async with AsyncClient(
            "http://test", transport=httpx.MockTransport(handler), max_retries=3
        ) as client:
            return (await client.jobs.create(teacher="a", student="b")).document

    return asyncio.run(submit())


@pytest.fixture(params=[submit_blocking, submit_awaiting], ids=["blocking", "awaiting"])
def submit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Submits a job with either client; pauses are counted instead of waited for."""
    monkeypatch.setattr(RetryPolicy, "pause_seconds", lambda self, failures, advice=None: 0.0)
    chosen: Submit = request.param
    return chosen


class Answers:
    """A server that gives these answers in turn; an exception is a broken connection."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.left = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def problem(status: int, code: str = "some_code", **fields: Any) -> httpx.Response:
    document = {"title": "A title", "detail": "A detail.", "code": code, "request_id": "req_1", **fields}
    return httpx.Response(status, json=document)


class TestRetries:
    def test_no_answer_and_not_now_are_tried_again_with_the_same_key(self, submit: Submit) -> None:
        server = Answers(
            httpx.ConnectError("refused"),
            httpx.ReadError("reset"),
            problem(503),
            httpx.Response(201, json=JOB),
        )

        assert submit(server) == JOB
        keys = {request.headers["idempotency-key"] for request in server.requests}
        assert len(server.requests) == 4
        assert len(keys) == 1

    def test_two_submissions_have_two_keys(self, submit: Submit) -> None:
        server = Answers(httpx.Response(201, json=JOB), httpx.Response(201, json=JOB))
        submit(server)
        submit(server)

        assert len({request.headers["idempotency-key"] for request in server.requests}) == 2

    def test_it_gives_up_after_the_last_retry(self, submit: Submit) -> None:
        server = Answers(*[httpx.ConnectError("refused")] * 10)

        with pytest.raises(ConnectionFailed, match="refused"):
            submit(server)
        assert len(server.requests) == 4

    def test_a_late_answer_is_a_timeout(self, submit: Submit) -> None:
        with pytest.raises(TimedOut):
            submit(Answers(*[httpx.ReadTimeout("late")] * 10))

    def test_a_request_in_flight_under_the_same_key_is_waited_for(self, submit: Submit) -> None:
        server = Answers(problem(409, "idempotency_in_flight"), httpx.Response(201, json=JOB))

        assert submit(server) == JOB

    def test_no_worker_yet_is_no_failure(self, submit: Submit) -> None:
        server = Answers(*[problem(503, "catalogue_empty")] * 20, httpx.Response(201, json=JOB))

        assert submit(server) == JOB

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
    def test_a_refusal_is_not_tried_again(self, submit: Submit, status: int) -> None:
        server = Answers(problem(status))

        with pytest.raises(ApiError):
            submit(server)
        assert len(server.requests) == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (401, "unauthenticated", Unauthorized),
            (403, "forbidden", Forbidden),
            (404, "job_not_found", NotFound),
            (409, "job_ended", Conflict),
            (413, "body_too_large", TooLarge),
            (422, "invalid_spec", InvalidSpec),
            (422, "invalid_request", InvalidRequest),
            (429, "slow_down", RateLimited),
            (500, "internal", ServerError),
            (503, "not_ready", ServiceUnavailable),
            (418, "teapot", ApiError),
        ],
    )
    def test_every_status_has_its_class(
        self, submit: Submit, status: int, code: str, kind: type[ApiError]
    ) -> None:
        with pytest.raises(ApiError) as caught:
            submit(Answers(*[problem(status, code)] * 10))

        assert type(caught.value) is kind
        assert (caught.value.code, caught.value.status_code, caught.value.request_id) == (
            code,
            status,
            "req_1",
        )

    def test_faults_name_field_message_and_remedy(self, submit: Submit) -> None:
        faults = [{"field": "student.model", "message": "is unknown", "remedy": "Did you mean `b`?"}]
        with pytest.raises(InvalidSpec) as caught:
            submit(Answers(problem(422, "invalid_spec", errors=faults)))

        (fault,) = caught.value.faults
        assert (fault.field, fault.message, fault.remedy) == (
            "student.model",
            "is unknown",
            "Did you mean `b`?",
        )
        assert "student.model: is unknown (Did you mean `b`?)" in str(caught.value)

    def test_an_answer_that_is_no_problem_document(self, submit: Submit) -> None:
        with pytest.raises(ServerError) as caught:
            submit(Answers(httpx.Response(500, text="<html>")))

        assert caught.value.code == "http_500"


class TestPauses:
    def test_they_double_up_to_a_limit_with_jitter(self) -> None:
        policy = RetryPolicy(first_pause_seconds=1.0, random=lambda: 1.0)

        assert [policy.pause_seconds(n) for n in (1, 2, 3, 4, 5, 50)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
        assert RetryPolicy(first_pause_seconds=1.0, random=lambda: 0.0).pause_seconds(1) == 0.5

    def test_the_servers_advice_wins_where_it_is_longer(self) -> None:
        policy = RetryPolicy(first_pause_seconds=1.0, random=lambda: 1.0)

        assert policy.pause_seconds(1, advice=5.0) == 5.0
        assert policy.pause_seconds(3, advice=0.0) == 4.0


class TestWhoAsks:
    def test_the_environment_says_where_and_who(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LIMBECK_URL", "http://elsewhere:1234/")
        monkeypatch.setenv("LIMBECK_API_KEY", "secret")
        server = Answers(httpx.Response(200, json=JOB))
        with Client(transport=httpx.MockTransport(server)) as client:
            client.jobs.get("job_1")

        (request,) = server.requests
        assert str(request.url) == "http://elsewhere:1234/v1/jobs/job_1"
        assert request.headers["authorization"] == "Bearer secret"

    def test_an_id_cannot_lead_elsewhere(self) -> None:
        server = Answers(httpx.Response(200, json=JOB))
        with Client("http://test", transport=httpx.MockTransport(server)) as client:
            client.jobs.get("../keys?x=1")

        assert server.requests[0].url.raw_path == b"/v1/jobs/..%2Fkeys%3Fx%3D1"
