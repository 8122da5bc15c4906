"""A step's memory comes from what the step before has freed."""

from __future__ import annotations

import platform
import subprocess
import sys

CODE = """
import resource, sys
import torch
from search.training.allocation import keep_freed_memory
if sys.argv[1] == "kept":
    print(keep_freed_memory())
def touch():
    return sum(float(torch.ones(2**24)[0]) for _ in range(4))
for _ in range(5):  # until the heap's blocks have found their sizes
    touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> tuple[int, list[str]]:
    """Pages touched for the first time by four blocks of 64 MiB, each freed before the next."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True, timeout=120
    )
    *said, count = done.stdout.split()
    return int(count), said


def test_freed_blocks_are_used_again() -> None:
    kept, (is_set,) = faults("kept")
    if platform.libc_ver()[0] != "glibc":
        assert is_set == "False"
        return
    assert is_set == "True"
    assert kept < 1000
    assert faults("given back")[0] > 1000
