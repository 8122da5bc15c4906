"""POST /v1/jobs: what is accepted, and what is refused with the field and the remedy, storing nothing."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from search.spec import JobSpec
from service.api_examples import JOB_EXAMPLES
from tests.job_story import CATALOGUE, register_worker
from tests.service.api.conftest import Api, opened_api, small_spec
from tests.service.api.server import running_server

DEEP = "[" * 10_000 + "]" * 10_000

# name: (parts of the spec, field at fault, a word of the remedy)
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown teacher": ({"teachers": [{"model": "test_resnt"}]}, "teachers.0.model", "test_resnet"),
    "unknown student": ({"student": {"model": "resnet_18"}}, "student.model", "resnet18"),
    "unknown data set": ({"data": {"name": "digit"}}, "data.name", "digits"),
    "unknown transform": (
        {"search": {"space": {"transforms": [["projecton"]]}}},
        "search.space.transforms.0.0",
        "projection",
    ),
    "unknown distance": (
        {"search": {"space": {"distances": [["mse", "hlc"]]}}},
        "search.space.distances.0.1",
        "hcl",
    ),
    "unknown logit loss": (
        {"search": {"space": {"logit_losses": [["dk"]]}}},
        "search.space.logit_losses.0.0",
        "kd",
    ),
    "unknown strategy": ({"search": {"strategy": "tpee"}}, "search.strategy", "tpe"),
    "zero trials": ({"budget": {"trials": 0}}, "budget.trials", "at least 1"),
    "negative trials": ({"budget": {"trials": -3}}, "budget.trials", "at least 1"),
    "zero device-seconds": ({"budget": {"device_seconds": 0}}, "budget.device_seconds", "greater than 0"),
    "negative wall seconds": ({"budget": {"wall_seconds": -1.5}}, "budget.wall_seconds", "greater than 0"),
    "zero epochs": ({"budget": {"epochs_per_trial": 0}}, "budget.epochs_per_trial", "at least 1"),
    "zero proof epochs": ({"proof": {"epochs": 0}}, "proof.epochs", "greater than 0"),
    "text for a number": ({"budget": {"trials": "4"}}, "budget.trials", "quotation"),
    "true for a number": ({"budget": {"trials": True}}, "budget.trials", "whole number"),
    "fraction for a count": ({"budget": {"trials": 1.5}}, "budget.trials", "whole number"),
    "list for an object": ({"student": ["test_resnet"]}, "student", "object"),
    "object for a list": ({"teachers": {"model": "test_resnet"}}, "teachers", "list"),
    "null": ({"teachers": None}, "teachers", "list"),
    "no teacher": ({"teachers": []}, "teachers", "at least 1"),
    "unknown field": ({"studnet": {"model": "test_resnet"}}, "studnet", "student"),
    "unknown field deep inside": ({"budget": {"trails": 3}}, "budget.trails", "trials"),
    "two teachers": ({"teachers": [{"model": "test_resnet"}, {"model": "resnet18"}]}, "teachers", "give one"),
    "space of students": ({"student": {"space": ["test_resnet", "resnet18"]}}, "student", "give `model`"),
    "unlabelled data": (
        {"data": {"name": "digits", "unlabelled": "photos"}},
        "data.unlabelled",
        "leave it out",
    ),
    "missing proof arms": ({"proof": {"arms": ["searched"]}}, "proof", "student_alone"),
    "one seed": ({"proof": {"seeds": [0]}}, "proof.seeds", "at least 2"),
    "negative resources": (
        {"resources_per_trial": {"cpus": -1}},
        "resources_per_trial.cpus",
        "greater than 0",
    ),
    "name with a path in it": ({"student": {"model": "../../etc/passwd"}}, "student.model", "letters"),
    "label that is no text": ({"labels": {"team": 3}}, "labels.team", "text"),
}

# name: body, a word of the answer
MALFORMED: dict[str, tuple[bytes, str]] = {
    "truncated": (b'{"teachers": [{"model": "test_resnet"}', "line 1, column"),
    "empty": (b"", "empty"),
    "not JSON": (b"teachers: resnet18", "line 1, column 1"),
    "two documents": (b"{} {}", "Extra data"),
    "name twice": (b'{"student": {"model": "a"}, "student": {"model": "b"}}', "'student' appears twice"),
    "NaN": (b'{"budget": {"device_seconds": NaN}}', "NaN"),
    "infinity": (b'{"budget": {"device_seconds": Infinity}}', "Infinity"),
    "a number beyond floats": (b'{"metadata": {"a": 1e999}}', "too large"),
    "a number of 5,000 digits": (b'{"metadata": {"a": ' + b"1" * 5000 + b"}}", "digit"),
    "nested 10,000 deep": (b'{"metadata": {"a": ' + DEEP.encode() + b"}}", "nested deeper"),
    "nested 100 deep": (b'{"metadata": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}", "nested deeper"),
    "not UTF-8": (b'{"name": "\xff"}', "UTF-8"),
    "NUL": (b'{"name": "a\\u0000b"}', "NUL"),
    "half a surrogate pair": (b'{"labels": {"a": "\\ud800"}}', "surrogate"),
    "NUL in a name": (b'{"metadata": {"a\\u0000b": 1}}', "NUL"),
}


@pytest.fixture
def api(sqlite_api: Api) -> Api:
    return sqlite_api


def post(api: Api, body: bytes, **headers: str) -> httpx.Response:
    return api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json", **headers})


class TestAccepted:
    def test_the_answer_is_the_queued_job_with_all_defaults_filled_in(self, api: Api) -> None:
        answer = api.client.post(
            "/v1/jobs", json=small_spec(name="first", labels={"team": "vision"}, metadata={"n": [1]})
        )
        job = answer.json()
        assert answer.status_code == 201
        assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
        assert (job["object"], job["state"], job["attempt"], job["dry_run"]) == (
            "distillation.job",
            "queued",
            0,
            False,
        )
        assert (job["name"], job["labels"], job["metadata"]) == ("first", {"team": "vision"}, {"n": [1]})
        full = JobSpec.model_validate(
            small_spec(name="first", labels={"team": "vision"}, metadata={"n": [1]})
        )
        assert job["spec"] == full.model_dump(mode="json")
        assert job["progress"]["trials_total"] is None
        assert api.client.get(answer.headers["Location"]).json() == job

    @pytest.mark.parametrize("name", JOB_EXAMPLES)
    def test_the_examples_of_the_documentation_are(self, api: Api, name: str) -> None:
        assert api.client.post("/v1/jobs", json=JOB_EXAMPLES[name]["value"]).status_code == 201

    def test_a_dry_run_is_queued_and_answered_202(self, api: Api) -> None:
        answer = api.client.post("/v1/jobs?dry_run=true", json=small_spec())
        assert (answer.status_code, answer.json()["dry_run"]) == (202, True)

    def test_weights_inside_the_weights_root_are(self, api: Api) -> None:
        place = api.server.home / "weights" / "mine"
        place.mkdir(parents=True)
        (place / "teacher.safetensors").write_bytes(b"x")
        for name in (
            "mine/teacher.safetensors",
            str(place / "teacher.safetensors"),
            "pretrained",
            "untrained",
        ):
            job = api.submit(teachers=[{"model": "test_resnet", "weights": name}])
            assert job["spec"]["teachers"][0]["weights"] == name


class TestRefused:
    @pytest.mark.parametrize("name", REFUSED)
    def test_the_field_is_named_with_a_remedy_and_nothing_is_stored(self, api: Api, name: str) -> None:
        parts, field, remedy = REFUSED[name]
        before = api.count_jobs()
        answer = api.client.post("/v1/jobs", json=small_spec(**parts))
        problem = answer.json()
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert (problem["code"], problem["status"]) == ("invalid_spec", 422)
        faults = {fault["field"]: fault for fault in problem["errors"]}
        assert field in faults, problem["errors"]
        assert remedy in f"{faults[field]['message']} {faults[field]['remedy']}"
        assert faults[field]["remedy"]
        assert api.count_jobs() == before

    def test_all_faults_are_named_at_once(self, api: Api) -> None:
        answer = api.client.post(
            "/v1/jobs", json=small_spec(budget={"trials": 0, "epochs": 1}, floor_accuracy=7)
        )
        fields = {fault["field"] for fault in answer.json()["errors"]}
        assert {"budget.trials", "budget.epochs", "floor_accuracy"} <= fields

    def test_methods_that_cannot_be_used_in_such_a_job(self, tmp_path: Path) -> None:
        """By what a worker's catalogue says of them; another choice saves the space."""
        gram = {"kind": "distance", "name": "gram", "summary": "", "source": "", "least_batch": 8}
        with opened_api(tmp_path) as api:
            register_worker(api.store, {**CATALOGUE, "methods": [*CATALOGUE["methods"], gram]})

            def submit(*distances: list[str]) -> dict[str, Any]:
                parts = {"training": {"batch_size": 4}, "search": {"space": {"distances": [*distances]}}}
                document: dict[str, Any] = api.client.post("/v1/jobs", json=small_spec(**parts)).json()
                return document

            problem = submit(["gram"], ["mse", "gram"])
            assert (problem["code"], problem["status"]) == ("invalid_spec", 422)
            (fault,) = problem["errors"]
            assert fault["field"] == "search.space.distances"
            assert "needs 8 of them, but only 4 are taken at once" in fault["message"]
            assert "training.batch_size" in fault["remedy"]
            assert submit(["gram"], ["mse"])["state"] == "queued"

    @pytest.mark.parametrize("body", [b"[]", b"3", b'"text"', b"null"], ids=repr)
    def test_json_that_is_no_object(self, api: Api, body: bytes) -> None:
        answer = post(api, body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
        assert answer.json()["errors"][0]["field"] == "body"

    @pytest.mark.parametrize("name", MALFORMED)
    def test_malformed_json_says_where(self, api: Api, name: str) -> None:
        body, word = MALFORMED[name]
        before = api.count_jobs()
        answer = post(api, body)
        assert (answer.status_code, answer.json()["code"]) == (422, "malformed_json"), answer.text
        assert word in answer.json()["detail"]
        assert answer.json()["errors"][0]["remedy"]
        assert api.count_jobs() == before

    def test_weights_outside_the_weights_root(self, api: Api, tmp_path: Path) -> None:
        secret = tmp_path / "secret.safetensors"
        secret.write_bytes(b"x")
        root = api.server.home / "weights"
        (root / "directory").mkdir(parents=True, exist_ok=True)
        (root / "link.safetensors").symlink_to(secret)
        (root / "outside").symlink_to(tmp_path)
        names = (
            "../limbeck.sqlite",
            str(secret),
            "/etc/passwd",
            "link.safetensors",
            "outside/secret.safetensors",
            "directory",
            "missing.safetensors",
            "https://example.org/teacher.safetensors",
            "directory/../../limbeck.sqlite",
            "x" * 400,
        )
        before = api.count_jobs()
        for name in names:
            answer = api.client.post(
                "/v1/jobs", json=small_spec(teachers=[{"model": "test_resnet", "weights": name}])
            )
            assert answer.status_code == 422, name
            assert answer.json()["errors"][0]["field"] == "teachers.0.weights"
            assert "weights root" in answer.json()["errors"][0]["message"]
        assert api.count_jobs() == before

    def test_a_body_that_is_not_said_to_be_json(self, api: Api) -> None:
        body = json.dumps(small_spec()).encode()
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/yaml"):
            answer = api.client.post("/v1/jobs", content=body, headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")

    def test_a_hostile_number_of_faults_is_answered_soon_and_in_bounds(self, api: Api) -> None:
        many = {f"field_{number}": 1 for number in range(40_000)}
        long = {"x" * 900_000: 1}
        for parts in (many, long):
            started = time.monotonic()
            answer = api.client.post("/v1/jobs", json=small_spec(**parts))
            assert answer.status_code == 422
            assert len(answer.json()["errors"]) <= 100
            assert len(answer.content) < 100_000
            assert time.monotonic() - started < 5

    def test_the_server_lives_on(self, api: Api) -> None:
        assert post(api, DEEP.encode()).status_code == 422
        assert api.client.get("/healthz").status_code == 200


class TestSize:
    def test_a_body_of_5_mb_is_413(self, api: Api) -> None:
        before = api.count_jobs()
        answer = post(api, json.dumps(small_spec(metadata={"blob": "x" * 5_000_000})).encode())
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert api.count_jobs() == before

    def test_a_body_of_5_mb_in_chunks_of_unknown_number_is_413(self, api: Api) -> None:
        chunks = (b"x" * 50_000 for _ in range(100))
        answer = api.client.post("/v1/jobs", content=chunks, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")

    def test_it_is_refused_before_the_body_is_sent(self, api: Api) -> None:
        with socket.create_connection(
            (api.client.base_url.host, api.client.base_url.port or 80), timeout=5
        ) as raw:
            raw.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 413 ")

    def test_just_under_the_limit_is_read(self, api: Api) -> None:
        assert api.submit(metadata={"blob": "x" * 900_000})["state"] == "queued"


class TestWithoutWorker:
    def test_submitting_must_wait_for_the_first_one(self, tmp_path: Path) -> None:
        with running_server(tmp_path) as server:
            answer = server.client.post("/v1/jobs", json=small_spec())
            assert (answer.status_code, answer.json()["code"]) == (503, "catalogue_empty")
            assert int(answer.headers["Retry-After"]) >= 1
            assert server.client.post("/v1/jobs", json=small_spec(budget={"trials": 0})).status_code == 422
            assert server.client.get("/v1/jobs").json()["data"] == []

    def test_the_catalogue_is_the_union_of_live_workers(self, tmp_path: Path) -> None:
        from service.store import workers

        with opened_api(tmp_path) as api:
            with api.store.begin_write() as session:
                plugin = {
                    "kind": "distance",
                    "name": "cosine",
                    "summary": "From a plug-in.",
                    "source": "plug-in",
                }
                workers.register(
                    session,
                    worker_id="plugin-worker",
                    host="b",
                    pid=2,
                    catalogue={"methods": [plugin], "models": ["my_model"], "datasets": [{"name": "photos"}]},
                )
            parts = {
                "student": {"model": "my_model"},
                "search": {"space": {"distances": [["cosine"], ["mse"]]}},
            }
            assert api.submit(**parts)["state"] == "queued"
            with api.store.begin_write() as session:
                workers.stop(session, worker_id="plugin-worker")
            refused = api.client.post("/v1/jobs", json=small_spec(**parts)).json()
            assert {fault["field"] for fault in refused["errors"]} == {
                "student.model",
                "search.space.distances.0.0",
            }
