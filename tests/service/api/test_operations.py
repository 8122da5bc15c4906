"""What operators rely on: health, readiness, metrics, documentation, problems, request ids, logs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from service.problems import KINDS, Code
from service.store.session import migrate
from tests.postgres import Cluster, execute, in_database
from tests.service.api.conftest import Api, opened_api, small_spec


@pytest.fixture
def api(sqlite_api: Api) -> Api:
    return sqlite_api


@pytest.fixture(scope="module")
def document(sqlite_api: Api) -> dict[str, Any]:
    found: dict[str, Any] = sqlite_api.client.get("/openapi.json").json()
    return found


class TestProbes:
    def test_health_and_version(self, api: Api) -> None:
        assert api.client.get("/healthz").json() == {"status": "ok"}
        assert [api.client.head(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        version = api.client.get("/version").json()
        assert version["spec_version"] == 1
        assert re.fullmatch(r"\d+\.\d+\.\d+.*", version["version"])

    def test_ready_says_how_many_workers_there_are(self, api: Api) -> None:
        ready = api.client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["live_workers"] >= 1

    def test_not_ready_without_its_artifact_root(self, tmp_path: Path) -> None:
        with opened_api(tmp_path) as api:
            assert api.client.get("/readyz").status_code == 200
            (tmp_path / "artifacts").rename(tmp_path / "elsewhere")
            answer = api.client.get("/readyz")
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
            assert [fault["field"] for fault in answer.json()["errors"]] == ["artifact_root"]
            (tmp_path / "elsewhere").rename(tmp_path / "artifacts")
            assert api.client.get("/readyz").status_code == 200

    @pytest.mark.postgres
    def test_a_database_that_is_down_and_comes_back(self, tmp_path: Path, postgres_cluster: Cluster) -> None:
        execute(postgres_cluster.url, "CREATE DATABASE outage")
        url = in_database(postgres_cluster.url, "outage")
        migrate(url)
        with opened_api(tmp_path, database_url=url) as api:
            job = api.submit()
            postgres_cluster.stop(mode="immediate")
            for answer in (
                api.client.get(f"/v1/jobs/{job['id']}"),
                api.client.post("/v1/jobs", json=small_spec()),
            ):
                assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
                assert int(answer.headers["Retry-After"]) >= 1
                assert "psycopg" not in answer.text
            assert api.client.get("/readyz").json()["errors"][0]["field"] == "database"
            assert api.client.get("/healthz").status_code == 200
            postgres_cluster.start()
            assert api.client.get(f"/v1/jobs/{job['id']}").json() == job
            assert api.client.get("/readyz").status_code == 200


class TestMetrics:
    def test_jobs_workers_and_requests_are_counted(self, api: Api) -> None:
        api.submit()
        api.client.get("/v1/jobs/job_0")
        found = dict(
            line.rsplit(" ", 1)
            for line in api.client.get("/metrics").text.splitlines()
            if not line.startswith("#")
        )
        assert float(found['limbeck_jobs{state="queued"}']) >= 1
        assert float(found['limbeck_jobs{state="paused"}']) == 0
        assert float(found["limbeck_oldest_queued_job_age_seconds"]) > 0
        assert float(found["limbeck_workers"]) >= 1
        assert (
            float(found['limbeck_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"}'])
            >= 1
        )
        assert (
            float(found['limbeck_http_request_duration_seconds_count{method="POST",route="/v1/jobs"}']) >= 1
        )


class TestProblems:
    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("GET", "/nowhere", 404, "not_found"),
            ("GET", "/v1/nowhere", 404, "not_found"),
            ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
            ("PUT", "/healthz", 405, "method_not_allowed"),
            ("GET", "/v1/jobs/job_0", 404, "job_not_found"),
        ],
    )
    def test_have_one_form(self, api: Api, method: str, path: str, status: int, code: str) -> None:
        answer = api.client.request(method, path)
        problem = answer.json()
        assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(problem) == {
            "type",
            "title",
            "status",
            "detail",
            "instance",
            "code",
            "request_id",
            "errors",
        }
        assert problem["type"] == f"urn:limbeck:problem:{code}"
        assert problem["instance"] == path
        assert problem["request_id"] == answer.headers["X-Request-ID"]
        if status == 405:
            assert answer.headers["allow"]

    def test_a_failure_inside_says_nothing_of_the_inside(self, tmp_path: Path) -> None:
        with opened_api(tmp_path) as api:
            job = api.submit()
            with api.store.begin_write() as session:
                session.execute(text("UPDATE job SET labels = '[1, 2]'"))
            answer = api.client.get(f"/v1/jobs/{job['id']}")
            assert (answer.status_code, answer.json()["code"]) == (500, "internal")
            for word in ("Traceback", "pydantic", "labels", "service/", ".py"):
                assert word not in answer.text
            lines = api.server.log_of(answer.json()["request_id"])
            assert [line["event"] for line in lines] == ["request failed", "request"]
            assert "exception" in lines[0]
            assert lines[1]["status"] == 500
            assert api.client.get("/healthz").status_code == 200

    def test_every_kind_has_a_status_and_a_title(self) -> None:
        assert set(KINDS) | {Code.HTTP_ERROR} == set(Code)


class TestRequestIds:
    def test_a_plain_one_is_kept_another_replaced(self, api: Api) -> None:
        kept = api.client.get("/healthz", headers={"X-Request-ID": "abc-123"})
        assert kept.headers["X-Request-ID"] == "abc-123"
        for bad in ("a b", "x" * 65, "a\tb"):
            replaced = api.client.get("/healthz", headers={"X-Request-ID": bad})
            assert re.fullmatch(r"req_[0-9a-f]{16}", replaced.headers["X-Request-ID"])

    def test_the_log_has_one_line_per_request(self, api: Api) -> None:
        answer = api.client.get("/v1/jobs?limit=1")
        (line,) = api.server.log_of(answer.headers["X-Request-ID"])
        assert (line["method"], line["path"], line["route"], line["status"]) == (
            "GET",
            "/v1/jobs",
            "/v1/jobs",
            200,
        )
        assert line["principal"] == "loopback"
        assert line["milliseconds"] > 0

    def test_all_output_is_json(self, api: Api) -> None:
        assert api.server.other_output == []


class TestDocumentation:
    def test_the_page_needs_nothing_from_elsewhere(self, api: Api) -> None:
        page = api.client.get("/docs").text
        links = re.findall(r"(?:src|href)=\"([^\"]+)\"", page)
        assert links
        assert all(link.startswith("/") for link in links)
        for link in links:
            assert api.client.get(link).status_code == 200
        assert "://" not in page.replace("window.location.origin", "")

    def test_operations_have_stable_names(self, document: dict[str, Any]) -> None:
        found = {
            f"{method.upper()} {path}": operation["operationId"]
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }
        assert found == {
            "POST /v1/jobs": "create_job",
            "GET /v1/jobs": "list_jobs",
            "GET /v1/jobs/{job_id}": "get_job",
            "POST /v1/jobs/{job_id}/cancel": "cancel_job",
            "POST /v1/jobs/{job_id}/retry": "retry_job",
            "GET /v1/jobs/{job_id}/events": "list_events",
            "GET /v1/jobs/{job_id}/trials": "list_trials",
            "GET /v1/trials/{trial_id}/metrics": "list_trial_metrics",
            "GET /v1/jobs/{job_id}/report": "get_report",
            "GET /v1/jobs/{job_id}/recipe": "get_job_recipe",
            "GET /v1/jobs/{job_id}/artifacts": "list_artifacts",
            "GET /v1/jobs/{job_id}/artifacts/{artifact_id}": "download_artifact",
            "GET /v1/recipes": "list_recipes",
            "GET /v1/recipes/{recipe_id}": "get_recipe",
            "GET /v1/methods": "list_methods",
            "GET /v1/models": "list_models",
            "GET /v1/datasets": "list_datasets",
            "GET /v1/workers": "list_workers",
            "GET /healthz": "get_health",
            "GET /readyz": "get_readiness",
            "GET /version": "get_version",
            "GET /metrics": "get_metrics",
        }

    def test_every_reference_leads_somewhere(self, document: dict[str, Any]) -> None:
        references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
        assert references == references & set(document["components"]["schemas"])
        assert {"JobSpec", "Recipe", "Job", "ProblemDocument"} <= references
        assert "HTTPValidationError" not in document["components"]["schemas"]

    def test_problems_and_the_body_are_described(self, document: dict[str, Any]) -> None:
        create = document["paths"]["/v1/jobs"]["post"]
        assert {"201", "202", "401", "403", "409", "413", "415", "422", "503"} <= set(create["responses"])
        for status, answer in create["responses"].items():
            kind = "application/json" if status.startswith("2") else "application/problem+json"
            assert kind in answer["content"]
        body = create["requestBody"]["content"]["application/json"]
        assert body["schema"] == {"$ref": "#/components/schemas/JobSpec"}
        assert body["examples"]
        names = {parameter["name"] for parameter in document["paths"]["/v1/jobs"]["get"]["parameters"]}
        assert names == {"state", "limit", "after", "label.NAME"}
