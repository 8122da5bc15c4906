"""Driver processes die with the process that started them, and with their whole group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workers.process import DriverProcess, start

TETHER = Path(__file__).parents[2] / "workers" / "tether.py"
ECHO = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read(3)); sys.stdout.flush()"
WITH_CHILD = (
    "import subprocess, sys, time;"
    "print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(float(sys.argv[1]))"
)


def ended(driver: DriverProcess, *, seconds: float = 10.0) -> int:
    """The driver's exit status, waited for."""
    deadline = time.monotonic() + seconds
    while (status := driver.poll()) is None:
        assert time.monotonic() < deadline, "the driver did not end"
        time.sleep(0.01)
    return status


def _said(output: Path) -> str:
    deadline = time.monotonic() + 10
    while not (output.exists() and output.read_text().endswith("\n")):
        assert time.monotonic() < deadline, "the driver said nothing"
        time.sleep(0.01)
    return output.read_text()


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while not _is_gone(pid):
        assert time.monotonic() < deadline, f"{pid} is still there"
        time.sleep(0.01)


def test_hears_what_it_is_told_and_its_output_is_kept(tmp_path: Path) -> None:
    output = tmp_path / "log"
    driver = start([sys.executable, "-c", ECHO], output=output)
    for message in (b"r", b"c", b"r"):
        driver.tell(message)
    assert ended(driver) == 0
    assert output.read_bytes() == b"rcr"
    driver.tell(b"r")  # no error


def test_leads_a_group_of_its_own() -> None:
    driver = start(["sleep", "60"])
    assert os.getpgid(driver.pid) == driver.pid != os.getpgid(0)
    driver.kill()
    assert ended(driver) == -signal.SIGKILL


def test_that_does_not_read_blocks_nobody() -> None:
    driver = start(["sleep", "60"])
    began_at = time.monotonic()
    for _ in range(3):
        driver.tell(b"r" * 100_000)
    assert time.monotonic() - began_at < 1
    driver.kill()
    ended(driver)


def test_gets_its_environment(tmp_path: Path) -> None:
    output = tmp_path / "log"
    program = "import os; print(os.environ.get('LIMBECK_TEST'), os.environ.get('HOME'))"
    driver = start([sys.executable, "-c", program], environment={"LIMBECK_TEST": "yes"}, output=output)
    assert ended(driver) == 0
    assert output.read_text() == "yes None\n"


@pytest.mark.parametrize("seconds", ["0", "60"], ids=["ends_by_itself", "is_killed"])
def test_takes_its_children_with_it(tmp_path: Path, seconds: str) -> None:
    driver = start([sys.executable, "-c", WITH_CHILD, seconds], output=tmp_path / "log")
    child = int(_said(tmp_path / "log"))
    if seconds == "60":
        driver.kill()
    status = ended(driver)
    assert status == (-signal.SIGKILL if seconds == "60" else 0)
    _wait_until_gone(child)
    driver.kill()  # afterwards nothing happens: the number may be another's
    assert driver.poll() == status


def test_may_end_in_order_when_terminated(tmp_path: Path) -> None:
    handler = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7));"
    program = f"{handler} print(1, flush=True); time.sleep(60)"
    driver = start([sys.executable, "-c", program], output=tmp_path / "log")
    _said(tmp_path / "log")
    driver.terminate()
    assert ended(driver) == 7
    driver.terminate()


def test_dies_when_its_parent_is_killed() -> None:
    begin = "import time; from workers.process import start; driver = start(['sleep', '60'])"
    program = f"{begin}; print(driver.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    driver = int(parent.stdout.readline())
    time.sleep(0.2)
    assert not _is_gone(driver)
    parent.kill()
    parent.wait()
    _wait_until_gone(driver)
    parent.stdout.close()


def test_does_not_even_start_when_its_parent_has_ended() -> None:
    """Between the fork and the kernel's promise the parent may die: then nobody would tell."""
    finished = subprocess.run(
        [sys.executable, "-I", "-S", str(TETHER), str(os.getppid()), "echo", "started"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert "started" not in finished.stdout
    assert "parent process has ended" in finished.stderr


def test_of_an_unknown_program_ends_with_an_error(tmp_path: Path) -> None:
    driver = start(["/no/such/program"], output=tmp_path / "log")
    assert ended(driver) == 1
    assert "FileNotFoundError" in (tmp_path / "log").read_text()
