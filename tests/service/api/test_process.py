"""The process: a quick and light start, an up-to-date schema, an end in good order."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from service.store.schema import check_schema
from tests.ports import free_port
from tests.service.api.conftest import opened_api
from tests.service.api.server import Server, environment, run_service, running_server
from tests.service.api.streams import Stream

HEAVY = {"torch", "torchvision", "timm", "ray", "optuna", "numpy", "scipy", "pandas", "sklearn"}


class TestStart:
    def test_it_is_healthy_within_two_seconds(self, tmp_path: Path) -> None:
        """On a database that has to be made first: 0.9 s on two idle cores, nearly all of it importing.

        What the process spent waiting for a core that others used is not counted.
        """
        assert any(seconds_until_healthy(tmp_path / str(attempt)) < 2.0 for attempt in range(3))

    def test_it_never_loads_torch_ray_or_what_science_needs(self, tmp_path: Path) -> None:
        """Python itself says what the process imported, from its start through every kind of request."""
        server = Server(tmp_path, python_options=("-X", "importtime"))
        for path in (
            "/",
            "/docs",
            "/openapi.json",
            "/metrics",
            "/readyz",
            "/v1/jobs",
            "/v1/models",
            "/v1/nothing",
        ):
            server.client.get(path)
        server.client.post("/v1/jobs", json={})
        server.stop()
        imported = {
            line.rsplit("|", 1)[1].strip().partition(".")[0]
            for line in server.other_output
            if line.startswith("import time:")
        }
        assert {"fastapi", "sqlalchemy", "service"} <= imported
        assert imported & HEAVY == set()

    def test_a_port_that_is_taken_is_said_so(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            refused = run_service(tmp_path, "serve", "--port", str(taken.getsockname()[1]))
        assert refused.returncode == 2
        assert "--port" in refused.stderr
        assert "Traceback" not in refused.stderr

    def test_a_second_start_finds_what_the_first_one_kept(self, tmp_path: Path) -> None:
        with opened_api(tmp_path) as api:
            job = api.submit()
            api.server.stop(signal.SIGKILL)
        with running_server(tmp_path) as server:
            assert server.client.get(f"/v1/jobs/{job['id']}").json() == job


class TestRefusals:
    """What its user can mend is said in a sentence."""

    @pytest.mark.parametrize(
        ("setting", "value", "word"),
        [
            ("database_url", "mysql://localhost/limbeck", "sqlite:///FILE"),
            ("database_url", "postgresql://nobody@127.0.0.1:1/limbeck", "127.0.0.1"),
            ("lease_seconds", "soon", "LIMBECK_LEASE_SECONDS"),
            ("heartbeat_seconds", "59", "third of lease_seconds"),
        ],
    )
    def test_settings(self, tmp_path: Path, setting: str, value: str, word: str) -> None:
        refused = run_service(tmp_path, "serve", "--port", "0", **{setting: value})
        assert refused.returncode == 2
        assert word in refused.stderr
        assert "Traceback" not in refused.stderr


class TestSchema:
    @pytest.mark.postgres
    def test_postgresql_is_migrated_by_hand(self, tmp_path: Path, empty_postgres_url: str) -> None:
        for arguments in (["serve", "--port", "0"], ["keys", "create", "--name", "x"]):
            refused = run_service(tmp_path, *arguments, database_url=empty_postgres_url)
            assert refused.returncode == 2
            assert "python -m service migrate" in refused.stderr
            assert "Traceback" not in refused.stderr
        for _ in range(2):
            migrated = run_service(tmp_path, "migrate", database_url=empty_postgres_url)
            assert (migrated.returncode, migrated.stdout) == (0, "The database is up to date.\n")
        check_schema(empty_postgres_url)
        with running_server(tmp_path, database_url=empty_postgres_url) as server:
            assert server.client.get("/readyz").status_code == 200


class TestEnd:
    @pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
    def test_open_streams_do_not_hold_it_up(self, tmp_path: Path, sign: signal.Signals) -> None:
        with opened_api(tmp_path) as api:
            lease = api.start_job()
            url = f"{api.server.url}/v1/jobs/{lease.job_id}/events"
            streams = [Stream(url) for _ in range(3)]
            for stream in streams:
                stream.wait_for(2)
            seconds = api.server.stop(sign)
            assert seconds < 4
            for stream in streams:
                stream.wait_for_end(seconds=1)
                assert stream.error is None
                assert "end" not in [message.kind for message in stream.messages]  # so clients come back
            assert "Traceback" not in "".join(api.server.other_output)
            assert [line for line in api.server.log if line["level"] in ("error", "critical")] == []

    def test_a_reader_goes_on_at_the_next_server(self, tmp_path: Path) -> None:
        with opened_api(tmp_path) as api:
            lease = api.start_job()
            first = Stream(f"{api.server.url}/v1/jobs/{lease.job_id}/events")
            first.wait_for(2)
            api.server.stop()
            api.finish_job(lease)
        with running_server(tmp_path) as server:
            last = {"Last-Event-ID": str(first.sequences[-1])}
            second = Stream(f"{server.url}/v1/jobs/{lease.job_id}/events", headers=last)
            second.wait_for_end()
        assert first.sequences + second.sequences == [1, 2, 3]


class TestLostWorkers:
    def test_a_job_whose_worker_is_gone_is_queued_again_without_another_worker(self, tmp_path: Path) -> None:
        with opened_api(tmp_path, lease_seconds=3, heartbeat_seconds=0.3) as api:
            lease = api.start_job(lease_seconds=0.5)
            deadline = time.monotonic() + 10
            while (job := api.client.get(f"/v1/jobs/{lease.job_id}").json())["state"] == "running":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert (job["state"], job["status_reason"]) == ("queued", "lease_lost")


def waited_for_core_seconds(process_id: int) -> float:
    """How long the process was ready to run but had no core, as the scheduler counts it."""
    return int(Path(f"/proc/{process_id}/schedstat").read_text().split()[1]) / 1e9


def seconds_until_healthy(home: Path) -> float:
    """Seconds from the start of the process to its first answer, without waiting for a free core."""
    port = free_port()
    command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment(home), stderr=subprocess.DEVNULL)
    try:
        while time.monotonic() - started < 20:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                    return time.monotonic() - started - waited_for_core_seconds(process.pid)
            except httpx.ConnectError:
                time.sleep(0.02)
        raise AssertionError("the server did not answer")
    finally:
        process.terminate()
        process.wait(timeout=10)
