"""Is the searched process better than tuned KD on CIFAR-10? `python -m benchmarks.cifar10 --data DIR`.

A resnet8_w32 teaches a resnet8_w8 on 5,000 images, at a short schedule and at one so long that training
longer no longer helps plain KD. DIR holds CIFAR-10 as class folders or as its python files. A run that was
killed continues with the same --json: runs that the file holds are not run again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.results import argument_parser, report


def main() -> None:
    """Train what is missing, then print the figures."""
    parser = argument_parser("cifar10", __doc__)
    parser.add_argument("--quick", action="store_true", help="20 minutes on two cores instead of 2 hours")
    parser.add_argument("--cache", type=Path, default=default_cache(), help=f"default: {default_cache()}")
    parser.add_argument("--processes", type=int, default=2, help="trials at once, a thread each (2)")
    parser.add_argument("--teacher-epochs", type=int, default=12, help="12; fewer only to try things out")
    options = parser.parse_args()
    if options.data is None:
        parser.error("--data DIR is needed: CIFAR-10 as class folders or as its python files")
    if require_device(options.device):
        _run(options, options.json or options.cache / f"cifar10-{'quick' if options.quick else 'full'}.json")


def _run(options: argparse.Namespace, json_path: Path) -> None:
    from benchmarks.cifar10_benchmark import Benchmark
    from benchmarks.cifar10_form import FULL, QUICK

    benchmark = Benchmark(
        form=QUICK if options.quick else FULL,
        data=options.data,
        cache=options.cache,
        json_path=json_path,
        device=options.device,
        processes=options.processes,
        teacher_epochs=options.teacher_epochs,
    )
    results, details = benchmark.run()
    report(results, json_path, details=details)


def default_cache() -> Path:
    """Where the teacher, decoded images and the trials' files are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "limbeck" / "benchmarks"


def require_device(device: str) -> bool:
    """Whether it is there; where it is not, a line says that the benchmark was skipped."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print("skipped: no CUDA device")
            return False
    return True


if __name__ == "__main__":
    main()
