"""The README's quick start, typed word for word (slow): only the address and the folders are a test's own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose import eventually
from tests.ports import free_ports
from tests.test_readme import BIN, PAGES, ROOT, blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ADDRESS = "http://127.0.0.1:8300"
SECTIONS = dict(re.findall(r"^### (.*?)\n(.*?)(?=^##)", PAGES["README.md"], re.MULTILINE | re.DOTALL))


class Reader:
    """Someone who has installed Limbeck and types what the README says in a folder of their own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.address = f"http://127.0.0.1:{port}"
        (folder / ".venv").symlink_to(BIN.parent)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LIMBECK_")},
            "LIMBECK_HOME": str(folder / "home"),
            "LIMBECK_PORT": str(port),
            "LIMBECK_RAY_TEMP_DIR": str(folder / "r"),
            "LIMBECK_URL": self.address,
            "OMP_NUM_THREADS": "1",
        }

    def types(self, shell: str) -> str:
        """What a shell block prints; the test fails where a command does."""
        return self.run("bash", "-euo", "pipefail", "-c", shell.replace(ADDRESS, self.address))

    def run(self, *command: str) -> str:
        """What a command prints."""
        process = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """A reader without Limbeck running."""
    folder = Path(tempfile.mkdtemp(prefix="lmb-q-", dir="/tmp"))
    yield Reader(folder, free_ports(1)[0])
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def limbeck(reader: Reader) -> Iterator[Reader]:
    """The same with Limbeck up, as `make up` starts it."""
    assert "\t@$(BIN)/limbeck up\n" in (ROOT / "Makefile").read_text()
    up = subprocess.Popen(
        [str(BIN / "limbeck"), "up"], cwd=reader.folder, env=reader.environment, start_new_session=True
    )
    try:
        eventually(lambda: is_ready(reader), "Limbeck to be up")
        yield reader
    finally:
        up.terminate()
        try:
            up.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(up.pid, signal.SIGKILL)


def is_ready(reader: Reader) -> bool:
    process = subprocess.run(
        [str(BIN / "limbeck"), "jobs"], env=reader.environment, capture_output=True, check=False
    )
    return process.returncode == 0


def test_python(limbeck: Reader) -> None:
    (block,) = blocks(SECTIONS["Python"], "python")
    printed = limbeck.run(str(BIN / "python"), "-c", block)
    assert printed.strip().endswith(".")
    assert (limbeck.folder / "recipe.json").is_file()
    assert (limbeck.folder / "results" / "student.safetensors").is_file()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_rest(limbeck: Reader) -> None:
    (block,) = blocks(SECTIONS["REST"], "bash")
    printed = limbeck.types(block)
    assert '"digits"' in printed
    (job,) = set(re.findall(r'"id":\s*"(job_\w+)"', printed.split('"object":"list"')[0]))
    limbeck.types(f".venv/bin/limbeck cancel {job}")


def test_command_line(limbeck: Reader) -> None:
    (block,) = blocks(SECTIONS["Command line"], "bash")
    printed = limbeck.types(block)
    job = re.findall(r"job_\w+", printed)[0]
    limbeck.types(f".venv/bin/limbeck cancel {job}")


def test_the_recipe_of_a_job_trains_its_student_again(limbeck: Reader) -> None:
    block = next(block for block in blocks(PAGES["docs/recipes.md"], "bash") if "search.distill" in block)
    limbeck.types(f'PATH="$PWD/.venv/bin:$PATH"\n{block}')
    assert (limbeck.folder / "distilled" / "student.safetensors").is_file()


def test_without_any_service(reader: Reader) -> None:
    (block,) = blocks(SECTIONS["Without any service"], "bash")
    reader.types(block)
    assert (reader.folder / "found.json").is_file()
    assert (reader.folder / "distilled" / "student.safetensors").is_file()
