"""Images per second of a plain distillation loop: `python -m benchmarks.throughput`.

Ours against timm's `LogitDistillationTask` in a plain loop and against torchdistill, with the teacher
computed at each step: equal work. Then ours with crop and flip and cached teacher outputs against the bound,
which is the student's step alone on a batch that is ready. Loops take turns in blocks of steps, in another
order each round, so that whatever else the machine does falls on all; a figure is the median of the rounds'
ratios. The images are noise of CIFAR's size unless --data names a directory of images.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.results import Goal, Result, Spread, argument_parser, report

if TYPE_CHECKING:
    from benchmarks.throughput_loops import Setting
    from search.data import ImageSet

IMAGES = 2560
WARM_UP_STEPS = 5
PEERS = {"throughput_vs_timm": "timm", "throughput_vs_torchdistill": "torchdistill"}


def main() -> None:
    """Print the figures."""
    options = _options()
    import torch

    from benchmarks.throughput_loops import Setting

    if options.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no CUDA device")
        return
    setting = Setting(
        teacher=options.teacher,
        student=options.student,
        images=_images(options.data),
        batch_size=options.batch_size,
        device=torch.device(options.device),
        channels_last=options.channels_last,
    )
    with tempfile.TemporaryDirectory(prefix="limbeck-throughput-") as directory:
        seconds = measured(setting, Path(directory), rounds=options.rounds, steps=options.steps)
    results = figures(seconds, images_per_block=options.steps * options.batch_size)
    threads = torch.get_num_threads()
    print(f"{options.teacher} -> {options.student}, batch {options.batch_size}, {threads} threads")
    for name, rates in seconds.items():
        print(
            f"{name:>20}: {Spread.of([1e3 * each / options.steps for each in rates]).in_words('ms')} a step"
        )
    report(results, options.json, details={"seconds": seconds, "threads": threads, "steps": options.steps})


def _options() -> argparse.Namespace:
    parser = argument_parser("throughput", __doc__)
    parser.add_argument("--teacher", default="resnet8_w32", help="a timm model (resnet8_w32)")
    parser.add_argument("--student", default="resnet8_w8", help="a timm model (resnet8_w8)")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step (128)")
    parser.add_argument("--rounds", type=int, default=25, help="blocks of each loop (25)")
    parser.add_argument("--steps", type=int, default=5, help="steps of a block (5)")
    parser.add_argument("--channels-last", action="store_true", help="memory format of all loops")
    return parser.parse_args()


def _images(directory: Path | None) -> ImageSet:
    import torch

    from search.data import ImageSet, open_dataset
    from search.spec import Splits

    if directory is not None:
        return open_dataset("data", Splits(train=IMAGES), directory=directory).splits["train"]
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, 3, 32, 32)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return ImageSet(noise, torch.randint(0, 10, (IMAGES,), generator=generator))


def measured(setting: Setting, directory: Path, *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each block of each loop."""
    from benchmarks.throughput_loops import ours, student_alone, timms, torchdistills

    loops = {
        "ours": ours(setting),
        "timm": timms(setting),
        "torchdistill": torchdistills(setting),
        "ours, cached": ours(setting, augmentation="crop_flip", cache=directory),
        "student alone": student_alone(setting),
    }
    for loop in loops.values():
        for _ in range(WARM_UP_STEPS):
            loop.step()
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(_timed(loops[name].step, steps, setting))
    return seconds


def _timed(step: Callable[[], object], steps: int, setting: Setting) -> float:
    _synchronise(setting)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    _synchronise(setting)
    return time.perf_counter() - started


def _synchronise(setting: Setting) -> None:
    if setting.device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def figures(seconds: Mapping[str, list[float]], *, images_per_block: int) -> list[Result]:
    """Ratios of rates, and rates."""
    results = [
        Result(name, _ratio(seconds[peer], seconds["ours"]), "ratio", Goal(">=", 0.97))
        for name, peer in PEERS.items()
    ]
    share = _ratio(seconds["student alone"], seconds["ours, cached"])
    results.append(Result("throughput_cached_share", share, "ratio", Goal(">=", 0.9)))
    for name, loop in (("throughput", "ours"), ("throughput_cached", "ours, cached")):
        rate = images_per_block / statistics.median(seconds[loop])
        results.append(Result(name, rate, "images_per_second"))
    return results


def _ratio(others: list[float], ours: list[float]) -> float:
    """Our rate over the other's, as the median over the rounds."""
    return statistics.median(other / own for other, own in zip(others, ours, strict=True))


if __name__ == "__main__":
    main()
