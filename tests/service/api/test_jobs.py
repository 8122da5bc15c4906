"""Jobs over HTTP: looking, listing, cancelling, retrying; on both engines."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from service.store.states import JobState
from tests.service.api.conftest import Api

MISSING = ["job_00000000000000000000000000", "nothing", "job_%00", "..", "job_" + "x" * 3000, "%F0%9F%A6%86"]


def labelled(api: Api, count: int) -> tuple[str, list[str]]:
    """So many new jobs under a label of their own: the label's value and their ids, oldest first."""
    mark = uuid.uuid4().hex
    return mark, [api.submit(labels={"test": mark, "number": str(number)})["id"] for number in range(count)]


def listed(api: Api, **query: Any) -> list[str]:
    answer = api.client.get("/v1/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["data"]]


class TestGet:
    @pytest.mark.parametrize("job_id", MISSING)
    def test_there_is_no_such_job(self, api: Api, job_id: str) -> None:
        for path in ("", "/events", "/trials", "/report", "/recipe", "/artifacts"):
            answer = api.client.get(f"/v1/jobs/{job_id}{path}")
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] in ("job_not_found", "not_found")

    def test_a_running_job_shows_its_attempt_and_start(self, api: Api) -> None:
        lease = api.start_job()
        job = api.client.get(f"/v1/jobs/{lease.job_id}").json()
        assert (job["state"], job["attempt"], job["finished_at"]) == ("running", 1, None)
        assert job["created_at"] <= job["started_at"]
        assert job["started_at"].endswith("Z")

    def test_a_job_that_ended_says_why(self, api: Api) -> None:
        lease = api.start_job()
        api.finish_job(lease, "failed", reason="teacher_check_failed", message="The teacher guesses.")
        job = api.client.get(f"/v1/jobs/{lease.job_id}").json()
        assert (job["state"], job["status_reason"]) == ("failed", "teacher_check_failed")
        assert job["status_message"] == "The teacher guesses."
        assert job["finished_at"] >= job["started_at"]


class TestList:
    def test_newest_first_in_pages_without_gap_or_repetition(self, api: Api) -> None:
        mark, ids = labelled(api, 7)
        found: list[str] = []
        query: dict[str, Any] = {"label.test": mark, "limit": 3}
        sizes = []
        while True:
            page = api.client.get("/v1/jobs", params=query).json()
            assert page["object"] == "list"
            found += [job["id"] for job in page["data"]]
            sizes.append(len(page["data"]))
            if len(found) == 3:
                api.submit(labels={"test": mark})  # a new job does not move the pages that follow
            if not page["has_more"]:
                break
            query["after"] = page["next_cursor"]
        assert found == ids[::-1]
        assert sizes == [3, 3, 1]
        assert page["next_cursor"] is None

    def test_by_labels(self, api: Api) -> None:
        mark, ids = labelled(api, 3)
        odd = uuid.uuid4().hex
        strange = api.submit(labels={'a.b "c" [0] \\ $.d': odd, "ü": "ä%_"})["id"]
        assert listed(api, **{"label.test": mark, "label.number": "1"}) == [ids[1]]
        assert listed(api, **{"label.test": mark, "label.number": "9"}) == []
        assert listed(api, **{'label.a.b "c" [0] \\ $.d': odd}) == [strange]
        assert strange in listed(api, **{"label.ü": "ä%_", "limit": 100})

    def test_by_state_as_it_is_shown(self, api: Api) -> None:
        mark = uuid.uuid4().hex
        queued = api.submit(labels={"test": mark})["id"]
        running, cancelling, ended = (api.start_job(labels={"test": mark}) for _ in range(3))
        api.finish_job(ended)
        assert api.client.post(f"/v1/jobs/{cancelling.job_id}/cancel").status_code == 202
        expected = {"queued": queued, "running": running, "cancelling": cancelling, "succeeded": ended}
        for state, job in expected.items():
            job_id = job if isinstance(job, str) else job.job_id
            assert listed(api, **{"label.test": mark, "state": state}) == [job_id]
        assert listed(api, **{"label.test": mark, "state": "paused"}) == []

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("limit=0", "query.limit"),
            ("limit=101", "query.limit"),
            ("limit=ten", "query.limit"),
            ("state=done", "query.state"),
            ("stat=queued", "query.stat"),
            ("after=%00", "query.after"),
            ("label.a=%00", "query.label"),
            ("unknown=1", "query.unknown"),
        ],
    )
    def test_a_wrong_filter_is_refused_and_not_ignored(self, api: Api, query: str, field: str) -> None:
        answer = api.client.get(f"/v1/jobs?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert [fault["field"] for fault in answer.json()["errors"]] == [field]
        assert answer.json()["errors"][0]["remedy"]

    def test_a_misspelt_filter_gets_a_suggestion(self, api: Api) -> None:
        assert "`state`" in api.client.get("/v1/jobs?stat=queued").json()["errors"][0]["remedy"]


class TestCancel:
    def test_a_queued_job_ends_at_once(self, api: Api) -> None:
        job = api.submit()
        answer = api.client.post(f"/v1/jobs/{job['id']}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")

    def test_a_running_job_is_cancelling_however_often_it_is_asked(self, api: Api) -> None:
        lease = api.start_job()
        for _ in range(3):
            answer = api.client.post(f"/v1/jobs/{lease.job_id}/cancel")
            assert (answer.status_code, answer.json()["state"]) == (202, "cancelling")
        events = api.client.get(f"/v1/jobs/{lease.job_id}/events").json()["data"]
        assert [event["kind"] for event in events].count("job.cancel_requested") == 1

    @pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
    def test_a_job_that_has_ended_is_left_as_it_is(self, api: Api, state: str) -> None:
        lease = api.start_job()
        api.finish_job(lease, state)
        before = api.client.get(f"/v1/jobs/{lease.job_id}").json()
        answer = api.client.post(f"/v1/jobs/{lease.job_id}/cancel")
        assert (answer.status_code, answer.json()["code"]) == (409, "job_ended")
        assert api.client.get(f"/v1/jobs/{lease.job_id}").json() == before


class TestRetry:
    @pytest.mark.parametrize("state", ["failed", "cancelled"])
    def test_makes_a_new_job_with_the_same_spec(self, api: Api, state: str) -> None:
        lease = api.start_job()
        api.finish_job(lease, state)
        parent = api.client.get(f"/v1/jobs/{lease.job_id}").json()
        answer = api.client.post(f"/v1/jobs/{lease.job_id}/retry")
        job = answer.json()
        assert answer.status_code == 201
        assert (job["state"], job["parent_id"], job["attempt"]) == ("queued", lease.job_id, 0)
        assert job["spec"] == parent["spec"]
        assert api.client.get(f"/v1/jobs/{lease.job_id}").json() == parent

    def test_only_after_an_end_without_success(self, api: Api) -> None:
        lease = api.start_job()
        refused = api.client.post(f"/v1/jobs/{lease.job_id}/retry")
        assert (refused.status_code, refused.json()["code"]) == (409, "job_not_ended")
        api.finish_job(lease, JobState.SUCCEEDED)
        refused = api.client.post(f"/v1/jobs/{lease.job_id}/retry")
        assert (refused.status_code, refused.json()["code"]) == (409, "job_succeeded")
