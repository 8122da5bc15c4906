"""docker-compose.yml is valid, and every command and health check of it works: run as plain processes."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.compose import ROOT, Stack, eventually, open_stack, read_config

pytestmark = pytest.mark.skipif(
    shutil.which("docker-compose") is None, reason="docker-compose is not installed"
)

DOCKERFILE = (ROOT / "Dockerfile").read_text()
CALCULATING = ("ray-head", "ray-node", "worker")


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return read_config({"LIMBECK_DATABASE_PASSWORD": "any"})


class TestFile:
    def test_a_password_is_demanded(self) -> None:
        with pytest.raises(AssertionError, match=r"give a password in \.env"):
            read_config({})

    def test_services(self, config: dict[str, Any]) -> None:
        assert set(config["services"]) == {"database", "migrate", "api", *CALCULATING}

    @pytest.mark.parametrize(
        ("service", "target"),
        [("api", "api"), ("migrate", "api"), *((name, "worker") for name in CALCULATING)],
    )
    def test_images_are_stages_of_the_dockerfile(
        self, config: dict[str, Any], service: str, target: str
    ) -> None:
        assert config["services"][service]["build"]["target"] == target
        assert re.search(rf"^FROM \S+ AS {target}$", DOCKERFILE, re.MULTILINE)

    def test_the_api_image_is_installed_without_torch_and_ray(self) -> None:
        stage = DOCKERFILE.split("AS api")[1].split("FROM")[0]
        assert ".[server]" in stage
        assert "worker]" not in stage

    def test_what_the_dockerfile_copies_exists_and_is_in_the_context(self) -> None:
        let_in = {
            line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
        }
        copied = {
            name for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
        }
        assert copied == let_in
        assert all((ROOT / name).exists() for name in copied)

    def test_gpus_are_reserved_by_nodes_only(self, config: dict[str, Any]) -> None:
        reserving = {name for name, service in config["services"].items() if "deploy" in service}
        assert reserving == {"ray-node"}
        (device,) = config["services"]["ray-node"]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]

    @pytest.mark.parametrize("service", CALCULATING)
    def test_ray_needs_its_token_room_and_an_init(self, config: dict[str, Any], service: str) -> None:
        part = config["services"][service]
        assert part["environment"]["RAY_AUTH_MODE"] == "token"
        assert part["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert part["secrets"] == [{"source": "ray_token"}]
        assert part["init"] is True
        assert part["shm_size"] == "2gb"

    @pytest.mark.parametrize("source", ["artifacts", str(ROOT / "data")])
    def test_files_are_shared_by_all_who_read_or_write_them(
        self, config: dict[str, Any], source: str
    ) -> None:
        sharing = {
            name
            for name, part in config["services"].items()
            if any(volume.startswith(f"{source}:") for volume in part.get("volumes", []))
        }
        assert sharing == {"api", *CALCULATING}

    def test_the_api_is_published_on_loopback(self, config: dict[str, Any]) -> None:
        assert config["services"]["api"]["ports"] == ["127.0.0.1:8300:8300/tcp"]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """All services up, each after what it depends on; the first key made as the file's head says."""
    with open_stack() as opened:
        opened.up("migrate")
        yield opened


@pytest.mark.postgres
@pytest.mark.timeout(300)
class TestProcesses:
    """The tests of this class go through the life of one stack, in order."""

    def test_the_database_is_healthy_and_migrates(self, stack: Stack) -> None:
        assert stack.is_healthy("database")
        assert stack.processes["migrate"].wait(60) == 0, stack.log("migrate")

    def test_the_first_key_is_made_as_the_file_says(self, stack: Stack) -> None:
        (line,) = re.findall(
            r"docker compose run --rm (\S+) (.*service keys create.*)$",
            (ROOT / "docker-compose.yml").read_text(),
            re.MULTILINE,
        )
        printed = stack.run(line[0], *line[1].split())
        stack.variables["key"] = re.findall(r"\S{30,}", printed)[-1]

    def test_every_service_comes_up_healthy(self, stack: Stack) -> None:
        for service in stack.services:
            stack.up(service)
        for service in ("api", "ray-head", "ray-node"):
            eventually(partial(stack.is_healthy, service), f"{service} to be healthy")

    def test_a_health_check_can_fail(self, stack: Stack) -> None:
        wrong = Stack(
            stack.folder,
            {**stack.variables, "LIMBECK_PORT": "1", "LIMBECK_RAY_PORT": "1", "LIMBECK_DATABASE_PORT": "1"},
        )
        assert [name for name in ("api", "ray-head", "database") if wrong.is_healthy(name)] == []

    def test_the_worker_registers(self, stack: Stack) -> None:
        eventually(lambda: len(call(stack, "GET", "/v1/workers")["data"]) == 1, "the worker to register")

    def test_a_dry_run_is_carried_out_by_the_cluster(self, stack: Stack) -> None:
        spec = {"teachers": [{"model": "test_resnet"}], "student": {"model": "test_resnet"}}
        job = call(stack, "POST", "/v1/jobs?dry_run=true", spec)
        path = f"/v1/jobs/{job['id']}"
        eventually(lambda: call(stack, "GET", path)["state"] in ("succeeded", "failed"), "the dry run to end")
        assert call(stack, "GET", path)["state"] == "succeeded", call(stack, "GET", path)

    def test_nothing_has_ended_meanwhile(self, stack: Stack) -> None:
        ended = {
            name: stack.log(name)
            for name, process in stack.processes.items()
            if name != "migrate" and process.poll() is not None
        }
        assert ended == {}


def call(stack: Stack, method: str, path: str, body: Any = None) -> Any:
    """One request to the stack's API with its first key."""
    address = f"http://127.0.0.1:{stack.variables['LIMBECK_PORT']}{path}"
    headers = {"authorization": f"Bearer {stack.variables['key']}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(address, method=method, headers=headers, data=data)
    with opener.open(request, timeout=30) as answer:
        return json.load(answer)
