"""Whatever happens to the bytes of a data set's files, it is opened or refused in words, and nothing else."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from search.problems import SearchProblem
from tests.search.data.written import WRITERS, digits
from tests.search.dataset_files import folder

ATTEMPTS = 15


def flip(raw: bytearray, place: int, source: random.Random) -> None:
    raw[place] ^= 1 << source.randrange(8)


def cut(raw: bytearray, place: int, source: random.Random) -> None:
    del raw[place:]


def erase(raw: bytearray, place: int, source: random.Random) -> None:
    raw[place : place + 40] = bytes([source.choice((0, 255))]) * len(raw[place : place + 40])


def insert(raw: bytearray, place: int, source: random.Random) -> None:
    raw[place:place] = source.randbytes(20)


@pytest.mark.parametrize("damage", [flip, cut, erase, insert], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_damaged_bytes_are_harmless_or_refused(
    tmp_path: Path, kind: str, damage: Callable[[bytearray, int, random.Random], None]
) -> None:
    WRITERS[kind](tmp_path / "whole", {"train": digits(0, 40), "test": digits(40, 50)})
    source = random.Random(f"{kind} {damage.__name__}")
    codes = []
    for attempt in range(ATTEMPTS):
        root = tmp_path / str(attempt)
        shutil.copytree(tmp_path / "whole", root)
        file = source.choice(sorted(path for path in root.rglob("*") if path.is_file()))
        raw = bytearray(file.read_bytes())
        # Half of the damage near the beginning, where the headers are.
        damage(raw, source.randrange(min(len(raw), source.choice((100, len(raw))))), source)
        file.write_bytes(raw)
        try:
            folder(root)
        except SearchProblem as problem:
            codes.append(problem.code)
    assert all(code.startswith("dataset_") for code in codes)
    assert codes  # of most kinds every change is noticed, of tars and CIFAR's files not every changed pixel
