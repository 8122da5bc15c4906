"""What a search step costs: `python -m benchmarks.search_step [--device cpu|cuda] [--json FILE]`.

Two pairs, ten pathways of 1x1 projection and MSE each. Steps of a replay (plain), of a search that updates
its process at every step and at every fourth, and of DistPro's published design take turns, so that a busy
machine slows all of them. On the CPU one thread's processor time is taken, which neighbours do not stretch.

Overhead = (search step - plain step) / (forward and backward pass of student and pathways).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.results import Goal, Result, Spread, argument_parser, report
from benchmarks.search_step_runs import CACHED, COMPUTED, PAIRS, Turns
from search.process.gradient_length import EVERY_UPDATES

UPDATES = (1, 4)
GOALS = {1: 2.4, 4: 0.65}
MEMORY_GOAL = Goal("<=", 1.6)
MEMORY_STEPS = 4


@dataclass(frozen=True)
class Costs:
    """Least seconds of a step, by what the step is (`plain`, `k1`, `k4`, `distpro`, `passes`)."""

    least: dict[str, float]

    def overhead(self, name: str) -> float:
        """Over a plain step, in forward and backward passes of student and pathways."""
        return (self.least[name] - self.least["plain"]) / self.least["passes"]

    def ratio(self, name: str) -> float:
        """Over a plain step."""
        return self.least[name] / self.least["plain"]


def measured(pair: str, teaching: str, *, device: str, rounds: int) -> Costs:
    """Every kind of step in turn, `rounds` times, after a warm-up."""
    turns = Turns(pair, teaching, device=device)
    kinds: dict[str, tuple[Callable[[], object], int]] = {
        "passes": (turns.passes, 1),
        "plain": (turns.plain, 1),
        # As many steps as from one measurement of the gradient's length to the next.
        **{f"k{every}": (turns.search(every), every * EVERY_UPDATES) for every in UPDATES},
    }
    if teaching == COMPUTED:
        kinds["distpro"] = (turns.distpro, 1)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(-2, rounds):
        for name, (step, count) in kinds.items():
            taken = sum(_seconds(step, device) for _ in range(count)) / count
            if number >= 0:
                seconds[name].append(taken)
    for name, values in seconds.items():
        print(f"{pair}, teacher {teaching}, {name}: {Spread.of(values).in_words()}", flush=True)
    return Costs({name: min(values) for name, values in seconds.items()})


def _seconds(step: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - started
    started = time.process_time()
    step()
    return time.process_time() - started


def memory_ratio(pair: str, device: str) -> float:
    """Peak bytes of a search over those of a plain run, each in a fresh process."""
    peaks = []
    for kind in ("plain", "search"):
        command = [sys.executable, "-m", "benchmarks.search_step", "--peak", pair, kind, "--device", device]
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(json.loads(finished.stdout.splitlines()[-1])))
        print(f"{pair}, {kind}: peak {peaks[-1] / 1e6:.0f} MB", flush=True)
    return peaks[1] / peaks[0]


def _peak_bytes(pair: str, kind: str, device: str) -> int:
    turns = Turns(pair, COMPUTED, device=device)
    step = turns.plain if kind == "plain" else turns.search(1)
    for _ in range(MEMORY_STEPS):
        step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return _peak_resident_bytes()


def _peak_resident_bytes() -> int:
    """Of this process's own memory: `ru_maxrss` would count what its parent had when it started this one."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def results(*, device: str, rounds: int) -> Iterator[Result]:
    """The worse of the two pairs, figure by figure."""
    computed = [measured(pair, COMPUTED, device=device, rounds=rounds) for pair in PAIRS]
    cached = [measured(pair, CACHED, device=device, rounds=rounds) for pair in PAIRS]
    for every in UPDATES:
        goal = Goal("<=", GOALS[every])
        overhead = max(costs.overhead(f"k{every}") for costs in computed)
        yield Result(f"search_step_overhead_k{every}", overhead, "passes", goal)
    for every in UPDATES:
        ratio = max(costs.ratio(f"k{every}") for costs in computed)
        yield Result(f"search_step_ratio_k{every}", ratio, "ratio")
        ratio = max(costs.ratio(f"k{every}") for costs in cached)
        yield Result(f"search_step_ratio_cached_k{every}", ratio, "ratio")
    # The design's best pair, so that it is not made to look worse than it is.
    yield Result("distpro_step_overhead_k1", min(costs.overhead("distpro") for costs in computed), "passes")
    memory = max(memory_ratio(pair, device) for pair in PAIRS)
    yield Result("search_step_memory_ratio", memory, "ratio", MEMORY_GOAL)


def main() -> None:
    """Measure and report, or (`--peak`) print one run's peak memory."""
    parser = argument_parser("search_step", __doc__)
    parser.add_argument("--rounds", type=int, default=8, help="of every kind of step; default: 8")
    parser.add_argument("--peak", nargs=2, metavar=("PAIR", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: skipped")
    elif options.peak:
        pair, kind = options.peak
        print(_peak_bytes(pair, kind, options.device))
    else:
        report(list(results(device=options.device, rounds=options.rounds)), options.json)


if __name__ == "__main__":
    main()
