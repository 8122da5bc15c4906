"""GET /v1/methods, models, datasets, workers: what the live workers publish, in pages."""

from __future__ import annotations

import uuid
from typing import Any

from service.store import workers
from tests.service.api.conftest import Api


def names(api: Api, path: str) -> list[str]:
    answer = api.client.get(path)
    assert answer.status_code == 200, answer.text
    return [entry["name"] for entry in answer.json()["data"]]


def test_methods_by_kind_and_name(api: Api) -> None:
    listed = api.client.get("/v1/methods?limit=100").json()
    ids = [method["id"] for method in listed["data"]]
    assert ids == sorted(ids)
    assert {"distance/mse", "logit_loss/kd", "strategy/tpe", "transform/projection"} <= set(ids)
    assert names(api, "/v1/methods?kind=distance") == ["attention", "hcl", "mse"]
    assert names(api, "/v1/methods?kind=nothing") == []
    assert listed["data"][0]["object"] == "method"
    assert listed["data"][0]["summary"]


def test_models_by_a_part_of_their_name_and_in_pages(api: Api) -> None:
    everything = names(api, "/v1/models")
    assert everything == sorted(everything)
    assert "test_vit" in everything
    assert names(api, "/v1/models?q=RESNET") == ["resnet18", "test_resnet"]
    page = api.client.get("/v1/models?limit=2").json()
    assert page["has_more"]
    assert names(api, f"/v1/models?after={page['next_cursor']}") == everything[2:]


def test_data_sets_say_what_they_hold(api: Api) -> None:
    (digits,) = api.client.get("/v1/datasets").json()["data"]
    assert (digits["object"], digits["name"], digits["classes"]) == ("dataset", "digits", 10)


def test_a_method_that_a_plug_in_adds_appears_and_goes_with_its_worker(api: Api) -> None:
    worker_id, name = str(uuid.uuid4()), f"plugin_{uuid.uuid4().hex}"
    entry: dict[str, Any] = {
        "id": f"distance/{name}",
        "kind": "distance",
        "summary": "A new one.",
        "schema": {},
    }
    with api.store.begin_write() as session:
        workers.register(session, worker_id=worker_id, host="gpu-1", pid=7, catalogue={"methods": [entry]})
    assert name in names(api, "/v1/methods?kind=distance")
    with api.store.begin_write() as session:
        workers.stop(session, worker_id=worker_id)
    assert name not in names(api, "/v1/methods?kind=distance")


def test_workers_live_and_gone(api: Api) -> None:
    worker_id = str(uuid.uuid4())
    with api.store.begin_write() as session:
        workers.register(
            session,
            worker_id=worker_id,
            host="gpu-2",
            pid=8,
            catalogue={"models": ["a", "b"], "devices": ["cpu"]},
        )
    live = {worker["id"]: worker for worker in api.client.get("/v1/workers?limit=100").json()["data"]}
    assert live[worker_id]["state"] == "live"
    assert live[worker_id]["offers"] == {"methods": 0, "datasets": 0, "models": 2}
    assert live[worker_id]["about"] == {"devices": ["cpu"]}
    with api.store.begin_write() as session:
        workers.stop(session, worker_id=worker_id)
    assert worker_id not in {
        worker["id"] for worker in api.client.get("/v1/workers?limit=100").json()["data"]
    }
    gone = api.client.get("/v1/workers?state=all&limit=100").json()["data"]
    assert {worker["state"] for worker in gone if worker["id"] == worker_id} == {"stopped"}
