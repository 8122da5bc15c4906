"""Are learned temperatures better than fixed ones? `python -m benchmarks.temperatures --data DIR`.

MKD's claim (arXiv 2202.07940), where it should matter: strong augmentation (RandAugment), and a student with
a fifteenth of its teacher's parameters. KD with temperatures of teacher and student learned apart, or tied,
against T = 4 and against the best fixed T of a grid, chosen on validation. Weights are fixed in all arms.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.cifar10 import default_cache, require_device
from benchmarks.results import argument_parser, report


def main() -> None:
    """Train what is missing, then print the figures."""
    parser = argument_parser("temperatures", __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer temperatures, epochs and seeds")
    parser.add_argument("--cache", type=Path, default=default_cache(), help=f"default: {default_cache()}")
    parser.add_argument("--processes", type=int, default=2, help="trials at once, a thread each (2)")
    parser.add_argument("--teacher-epochs", type=int, default=12, help="12; fewer only to try things out")
    parser.add_argument("--augmentation", default="rand_augment", help="a registered policy (rand_augment)")
    options = parser.parse_args()
    if options.data is None:
        parser.error("--data DIR is needed: CIFAR-10 as class folders or as its python files")
    if require_device(options.device):
        _run(options)


def _run(options: argparse.Namespace) -> None:
    from benchmarks.cifar10_task import job_spec, write_place
    from benchmarks.cifar10_teacher import teacher_file
    from benchmarks.ledger import Ledger
    from benchmarks.pool import Place, Pool
    from benchmarks.pooled_job import PooledJob
    from benchmarks.temperatures_task import FULL, QUICK, results, run
    from search.records import StageName

    form = QUICK if options.quick else FULL
    json_path = options.json or options.cache / f"temperatures-{'quick' if options.quick else 'full'}.json"
    teacher = teacher_file(
        options.data,
        options.cache,
        device=options.device,
        threads=options.processes,
        epochs=options.teacher_epochs,
    )
    datasets_file, name = write_place(options.data, options.cache)
    spec = job_spec(
        data_name=name,
        teacher=teacher,
        search_epochs=form.epochs,
        epochs=form.epochs,
        seeds=list(range(form.seeds)),
        trials=1,
        at_once=options.processes,
        training={"augmentation": options.augmentation},
    )
    settings = {
        "form": asdict(form),
        "augmentation": options.augmentation,
        "teacher_epochs": options.teacher_epochs,
        "device": options.device,
    }
    place = Place(options.cache / "trials" / json_path.stem, datasets_file, options.device)
    place.directory.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def say(sentence: str) -> None:
        print(f"[{(time.monotonic() - started) / 60:5.1f} min] {sentence}", flush=True)

    with Pool(options.processes, imports=["benchmarks.temperatures_only"]) as pool:
        job = PooledJob("grid", spec, place, pool, Ledger(json_path, settings), say)
        job.advance(until=StageName.SEARCH)
        outcome = run(job, form)
    figures = results(outcome)
    report(
        figures, json_path, details={**job.ledger.document, "figures": asdict(outcome, dict_factory=_plain)}
    )


def _plain(items: list[tuple[str, object]]) -> dict[str, object]:
    """Without the processes, which the runs hold."""
    return {name: value for name, value in items if name != "learned"}


if __name__ == "__main__":
    main()
