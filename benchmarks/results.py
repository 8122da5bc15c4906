"""What all benchmarks share: figures with goals, how they are printed and kept, how time is taken.

A benchmark ends with one line per figure, `RESULT <name> <value> <unit> [goal <op> <number>]`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

Operator = Literal[">=", ">", "<=", "<"]
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda value, number: value >= number,
    ">": lambda value, number: value > number,
    "<=": lambda value, number: value <= number,
    "<": lambda value, number: value < number,
}
_LINE = re.compile(r"RESULT (\S+) (\S+) (\S+)(?: goal (>=|>|<=|<) (\S+))?")


@dataclass(frozen=True)
class Goal:
    """What a figure is held to."""

    op: Operator
    number: float

    def is_met(self, value: float) -> bool:
        """A figure that is not a number meets no goal."""
        return _HOLDS[self.op](value, self.number)


@dataclass(frozen=True)
class Result:
    """One figure; `unit` is one word (`ratio`, `points`, `seconds`, `images_per_second`)."""

    name: str
    value: float
    unit: str
    goal: Goal | None = None

    def line(self) -> str:
        """The line that is printed."""
        goal = f" goal {self.goal.op} {self.goal.number:g}" if self.goal else ""
        return f"RESULT {self.name} {self.value:.6g} {self.unit}{goal}"

    def document(self) -> dict[str, Any]:
        """For JSON, which has no NaN: a figure that is not finite is null."""
        goal = {"op": self.goal.op, "number": self.goal.number} if self.goal else None
        value = self.value if math.isfinite(self.value) else None
        met = self.goal.is_met(self.value) if self.goal else None
        return {"name": self.name, "value": value, "unit": self.unit, "goal": goal, "is_met": met}


def parse_line(line: str) -> Result:
    """The figure of a RESULT line. Raises ValueError for any other line."""
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise ValueError(f"not a RESULT line: {line!r}")
    name, value, unit, op, number = match.groups()
    goal = Goal(cast(Operator, op), float(number)) if op else None
    return Result(name, float(value), unit, goal)


@dataclass(frozen=True)
class Spread:
    """Of repeated measurements: the median, the least, and the interquartile range."""

    median: float
    least: float
    interquartile_range: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        if len(values) == 1:
            return cls(values[0], values[0], 0.0)
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), min(values), high - low)

    def in_words(self, unit: str = "s") -> str:
        """For a log."""
        return (
            f"{self.median:.4g} {unit} (least {self.least:.4g}, interquartile {self.interquartile_range:.2g})"
        )


def repeated(
    function: Callable[[], object],
    *,
    warm_up: int,
    repeats: int,
    synchronise: Callable[[], object] = lambda: None,
) -> list[float]:
    """Seconds of each of `repeats` calls, after `warm_up` calls that do not count.

    `synchronise` is called before the clock is read: `torch.cuda.synchronize` where work is queued.
    """
    for _ in range(warm_up):
        function()
    seconds = []
    for _ in range(repeats):
        synchronise()
        started = time.perf_counter()
        function()
        synchronise()
        seconds.append(time.perf_counter() - started)
    return seconds


def argument_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: --data, --device, --json."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--data", type=Path, metavar="DIR", help="data directory, where one is needed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file too")
    return parser


def report(
    results: Sequence[Result], json_path: Path | None = None, *, details: dict[str, Any] | None = None
) -> None:
    """Print a line per figure, and write them with the machine and any details as JSON."""
    if json_path is not None:
        write_json(
            json_path,
            {
                "results": [result.document() for result in results],
                "machine": machine(),
                **(details or {}),
            },
        )
    for result in results:
        print(result.line(), flush=True)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all: under a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    temporary.replace(path)


def machine() -> dict[str, Any]:
    """What figures depend on beside the code; no name of the machine."""
    from importlib.metadata import version

    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "timm")},
    }
