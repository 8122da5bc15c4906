"""Child processes: kept running, ended in order, never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.child import Child
from limbeck.commands.demo import demo_environment, demo_spec
from limbeck.house import House, HouseDown, free_port, is_free, limbeck_home
from search.spec import JobSpec

STAYS = "import time, sys; print('here', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAYS}"


def child(tmp_path: Path, program: str) -> Child:
    made = Child(
        "the child",
        [sys.executable, "-c", program],
        environment=os.environ,
        log_file=tmp_path / "logs" / "c.log",
    )
    made.start()
    return made


def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "it did not come to pass in time"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class TestChild:
    def test_one_that_dies_is_started_again_later_and_later(self, tmp_path: Path) -> None:
        failing = child(tmp_path, "raise SystemExit('broken')")
        said: list[str] = []
        started = time.monotonic()

        def two_restarts() -> bool:
            if (words := failing.revive()) is not None:
                said.append(words)
            return len(said) == 3

        until(two_restarts)
        assert time.monotonic() - started > 0.5 + 1.0
        assert [words.partition("again in ")[2].split()[0] for words in said] == ["0.5", "1", "2"]
        assert "broken" in failing.end_of_log()
        failing.end(timeout_seconds=1)

    def test_one_that_lives_is_left_alone(self, tmp_path: Path) -> None:
        living = child(tmp_path, STAYS)
        until(lambda: "here" in living.end_of_log())

        assert living.revive() is None
        living.terminate()
        living.end(timeout_seconds=5)
        assert living.exit_status == -signal.SIGTERM

    def test_a_stubborn_one_is_ended_by_force(self, tmp_path: Path) -> None:
        stubborn = child(tmp_path, STUBBORN)
        until(lambda: "here" in stubborn.end_of_log())
        stubborn.terminate()
        stubborn.end(timeout_seconds=0.3)

        assert stubborn.exit_status == -signal.SIGKILL

    def test_it_does_not_outlive_its_parent(self, tmp_path: Path) -> None:
        program = f"""
import os, time
from pathlib import Path
from limbeck.child import Child
command = ["{sys.executable}", "-c", {STAYS!r}]
child = Child("c", command, environment=os.environ, log_file=Path({str(tmp_path)!r}) / "c")
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""
        parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        until(lambda: "here" in (tmp_path / "c").read_text())
        parent.kill()
        parent.wait()
        parent.stdout.close()

        until(lambda: not is_alive(pid))


class TestHouse:
    def house(self, home: Path, environment: dict[str, str] | None = None) -> House:
        return House(
            home=home,
            host="127.0.0.1",
            port=free_port("127.0.0.1"),
            environment=environment or dict(os.environ),
            say=lambda text: None,
        )

    def test_an_api_that_cannot_start_says_why(self, tmp_path: Path) -> None:
        house = self.house(tmp_path, {**os.environ, "LIMBECK_LOG_LEVEL": "nonsense"})
        with pytest.raises(HouseDown, match="LIMBECK_LOG_LEVEL"):
            house.start()
        house.end()

    def test_it_can_be_left_while_it_starts(self, tmp_path: Path) -> None:
        house = self.house(tmp_path)
        house.request_stop()
        house.start()
        house.end()

        assert house.api.exit_status is not None

    def test_ports(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            assert not is_free("127.0.0.1", taken.getsockname()[1])
        assert is_free("127.0.0.1", free_port("127.0.0.1"))

    def test_where_home_is(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
        assert limbeck_home() == tmp_path
        monkeypatch.delenv("LIMBECK_HOME")
        assert limbeck_home() == Path.home() / ".limbeck"


class TestUp:
    def up(self, home: Path, port: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "limbeck.command", "up", "--port", str(port)],
            env={**os.environ, "LIMBECK_HOME": str(home), "COLUMNS": "200"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def test_a_taken_port_is_named(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            up = self.up(tmp_path, taken.getsockname()[1])
            _, said = up.communicate(timeout=20)

        assert up.returncode == 1
        assert "is taken" in said

    def test_up_restarts_a_dead_worker_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        port = free_port("127.0.0.1")
        up = self.up(tmp_path, port)
        assert up.stderr is not None
        until(lambda: "Limbeck is up" in up.stderr.readline(), seconds=90)
        api, worker = children(up.pid)
        os.kill(worker, signal.SIGKILL)
        until(lambda: len(set(children(up.pid)) - {api, worker}) == 1)

        left = children(up.pid)
        up.kill()
        up.wait()
        up.stderr.close()
        until(lambda: not any(is_alive(pid) for pid in left), seconds=40)

    def test_up_ends_in_order(self, tmp_path: Path) -> None:
        up = self.up(tmp_path, free_port("127.0.0.1"))
        until(lambda: children(up.pid))
        left = children(up.pid)
        up.send_signal(signal.SIGTERM)
        _, said = up.communicate(timeout=40)

        assert up.returncode == 0, said
        assert "Limbeck has ended." in said
        assert not any(is_alive(pid) for pid in left)


def children(pid: int) -> list[int]:
    """Process ids of the direct children, the oldest first."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return sorted(int(one) for one in text.split() if is_alive(int(one)))


class TestDemo:
    def test_its_spec_is_one(self) -> None:
        spec = JobSpec.model_validate(demo_spec())

        assert spec.budget.trials <= 4
        assert len(spec.proof.seeds) >= 3
        assert {"student_alone", "plain_kd", "tuned_kd", "uniform", "searched"} <= set(spec.proof.arms)

    def test_its_database_is_its_own(self) -> None:
        environment = {"LIMBECK_DATABASE_URL": "postgresql://x", "LIMBECK_CPUS": "2", "PATH": "/bin"}

        assert demo_environment(environment) == {"LIMBECK_CPUS": "2", "PATH": "/bin"}
