"""What is installed: the wheel holds all that the packages read, and each extra is enough for its part."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PACKAGES = ("search", "service", "workers", "limbeck", "migrations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the files as they are now, built from a copy: a build leaves files behind."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in repository_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(source))
    (found,) = built.glob("limbeck-*.whl")
    return found


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    shipped = set(zipfile.ZipFile(wheel).namelist())
    wanted = {name for name in repository_files() if name.partition("/")[0] in PACKAGES}
    assert wanted - shipped == set()


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    roots = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {root for root in roots if not root.endswith(".dist-info")} == set(PACKAGES)


def test_the_license_travels_with_the_wheel(wheel: Path) -> None:
    assert any(name.endswith("/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_everything_that_is_installed_has_an_exact_version() -> None:
    pinned = {canonical(line.partition("==")[0]) for line in constraint_lines()}
    assert required("limbeck", {"dev"}) - pinned == set()


def test_constraints_are_versions_only() -> None:
    assert [
        line for line in constraint_lines() if not line.partition("==")[2] or set(line) & set("@/; ")
    ] == []


@pytest.mark.slow
def test_the_base_installation_is_a_working_client(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path, wheel=wheel, extra="")
    assert not {"torch", "ray", "fastapi", "sqlalchemy"} & installed(python)
    run(python, "-c", "from limbeck import AsyncClient, Client; Client().close()")
    assert "submit" in run(str(Path(python).parent / "limbeck"), "--help")


@pytest.mark.slow
def test_the_server_extra_runs_the_api_without_torch_and_ray(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path, wheel=wheel, extra="[server]")
    assert not {"torch", "ray", "timm", "optuna"} & installed(python)
    run(python, "-m", "service", "migrate", LIMBECK_HOME=str(tmp_path / "home"))
    run(python, "-c", "import service.app", LIMBECK_HOME=str(tmp_path / "home"))


def repository_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def environment(folder: Path, *, wheel: Path, extra: str) -> str:
    """A fresh virtual environment with the wheel and an extra; its interpreter."""
    venv.create(folder / "environment", with_pip=True)
    python = str(folder / "environment" / "bin" / "python")
    pip(python, "install", "--constraint", str(ROOT / "constraints.txt"), f"{wheel}{extra}")
    return python


def installed(python: str) -> set[str]:
    lines = run(python, "-m", "pip", "list", "--format=freeze").splitlines()
    return {canonical(line.partition("==")[0]) for line in lines}


def required(name: str, extras: set[str]) -> set[str]:
    """All distributions that one needs in this environment, needs of needs too."""
    found: dict[str, set[str]] = {}
    waiting = [(name, extras)]
    while waiting:
        name, extras = waiting.pop()
        if canonical(name) in found and extras <= found[canonical(name)]:
            continue
        found.setdefault(canonical(name), set()).update(extras)
        for line in requirements_of(name):
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                waiting.append((need.name, set(need.extras)))
    return set(found) - {"limbeck"}


def requirements_of(name: str) -> list[str]:
    """What an installed distribution asks for; a stale folder in the source tree does not count."""
    (found, *_) = importlib.metadata.distributions(name=name, path=[sysconfig.get_path("purelib")])
    return found.requires or []


def constraint_lines() -> list[str]:
    return (ROOT / "constraints.txt").read_text().split("\n")[:-1]


def canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


def pip(python: str, *arguments: str) -> None:
    run(python, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments)


def run(*command: str, **environment: str) -> str:
    """What the command printed, run away from the source tree; fails the test with its messages."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    process = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, env=variables)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout
