"""A Ray cluster of two nodes on this machine, which workers join: a job's trials run on both."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from service.store.states import JobState, TrialState
from tests.end_to_end.installation import SMALL_JOB, Installation, wait_until
from tests.end_to_end.soundness import check_sound
from tests.ports import free_port

RAY = Path(sys.executable).parent / "ray"
HEAD_ADDRESS, OTHER_ADDRESS = "127.0.0.2", "127.0.0.3"


class Cluster:
    """Two nodes of one core each, with addresses, a HOME and a token of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.address = directory, f"{HEAD_ADDRESS}:{free_port()}"
        self.environment = {
            **os.environ,
            "HOME": str(directory),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            "OMP_NUM_THREADS": "1",
        }

    @contextmanager
    def node(self, *, is_head: bool) -> Iterator[psutil.Process]:
        """A node, until the end of the block."""
        port = self.address.partition(":")[2]
        place = ["--head", f"--port={port}", "--include-dashboard=false"]
        options = place if is_head else [f"--address={self.address}"]
        with (self.directory / ("head.log" if is_head else "other.log")).open("wb") as log:
            process = subprocess.Popen(
                [
                    str(RAY),
                    "start",
                    "--block",
                    *options,
                    f"--node-ip-address={HEAD_ADDRESS if is_head else OTHER_ADDRESS}",
                    "--num-cpus=1",
                    "--num-gpus=0",
                    "--disable-usage-stats",
                    "--object-store-memory=100000000",
                    "--min-worker-port=0",
                    "--max-worker-port=0",
                    f"--temp-dir={self.directory / ('head' if is_head else 'other')}",
                ],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        handle = psutil.Process(process.pid)
        try:
            yield handle
        finally:
            with suppress(psutil.Error):
                for member in (*handle.children(recursive=True), handle):
                    with suppress(psutil.Error):
                        member.kill()
            process.wait(timeout=10)

    def has_both(self) -> bool:
        """Whether both nodes have joined."""
        ask = [str(RAY), "status", f"--address={self.address}"]
        status = subprocess.run(ask, env=self.environment, capture_output=True, text=True, check=False)
        return status.stdout.count(" node_") == 2

    def is_healthy(self) -> bool:
        """Whether the head answers."""
        check = [str(RAY), "health-check", f"--address={self.address}"]
        return subprocess.run(check, env=self.environment, capture_output=True, check=False).returncode == 0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes; not below pytest's directory, for the names of sockets are limited to 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="lmb-ray-", dir="/tmp"))
    cluster = Cluster(directory)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.enter_context(cluster.node(is_head=True))
        wait_until(cluster.is_healthy, seconds=60, what="the head")
        stack.enter_context(cluster.node(is_head=False))
        wait_until(cluster.has_both, seconds=60, what="the other node")
        yield cluster


@pytest.fixture
def joined(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """An installation whose driver joins the cluster."""
    for name in ("HOME", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, cluster.environment[name])
    with Installation(tmp_path / "home", ray_address=cluster.address) as installation:
        installation.start_api()
        installation.start_worker()
        yield installation


@pytest.mark.slow
def test_the_trials_of_a_job_run_on_both_nodes(joined: Installation) -> None:
    job_id = joined.submit(SMALL_JOB)
    joined.succeed(job_id, seconds=300)
    nodes = {trial.node for trial in joined.trials(job_id) if trial.state is TrialState.COMPLETED}
    assert len(nodes) == 2, nodes
    check_sound(joined, job_id)


@pytest.mark.slow
def test_actors_in_the_cluster_end_with_a_killed_driver(joined: Installation, cluster: Cluster) -> None:
    """Ray notices that the driver's connection is gone; the job goes on under the next one."""
    job_id = joined.submit(SMALL_JOB)
    wait_until(lambda: joined.job(job_id).preflight is not None, seconds=120, what="the search")
    actors = trial_actors(cluster)
    assert actors
    joined.drivers()[0].kill()
    _, alive = psutil.wait_procs(actors, timeout=15)
    assert not alive, alive
    joined.succeed(job_id, seconds=300)
    check_sound(joined, job_id)


@pytest.mark.slow
def test_a_request_larger_than_the_largest_node_is_refused(joined: Installation) -> None:
    """Though the cluster has two cores in all."""
    job_id = joined.submit({**SMALL_JOB, "resources_per_trial": {"cpus": 2.0}})
    job = joined.wait(job_id, seconds=120)
    assert (job.state, job.status_reason) == (JobState.FAILED, "no_resources")
    assert "each trial needs 2 CPU cores, the largest node of the cluster has 1" in (job.status_message or "")


def trial_actors(cluster: Cluster) -> list[psutil.Process]:
    """Processes of trials on the cluster's nodes."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_actor = "TrialActor" in process.name() or "ResourceTrainable" in "".join(process.cmdline())
            if is_actor and process.environ().get("HOME") == str(cluster.directory):
                found.append(process)
    return found
