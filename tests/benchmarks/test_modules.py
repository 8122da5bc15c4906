"""Every benchmark can be started, and says what it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def names() -> list[str]:
    """Modules that are commands; the others are their parts."""
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    return [file.stem for file in files if '__name__ == "__main__"' in file.read_text()]


@pytest.mark.parametrize("name", names())
def test_help_lists_what_all_benchmarks_take(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    assert [option for option in ("--data", "--device", "--json") if option not in process.stdout] == []


def test_every_benchmark_is_documented() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert [name for name in names() if f"benchmarks.{name}" not in page] == []


def test_cifar10_says_that_it_needs_data() -> None:
    command = [sys.executable, "-m", "benchmarks.cifar10"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 2
    assert "--data" in process.stderr
