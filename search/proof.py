"""All arms of a job on this machine, and the verdict: `python -m search.proof`.

python -m search.proof --teacher test_resnet --student test_mambaout --epochs 10 --seeds 3 --out proof/
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from search.commands.job_file import write_whole
from search.commands.live_progress import LiveProgress
from search.commands.local_job import LocalJob
from search.commands.options import SharedOptions, command, console
from search.commands.report_table import print_report
from search.commands.running import local_job
from search.plan import EXPORT_KEY
from search.planning.given import GivenProcess
from search.problems import SearchProblem
from search.spec import ARMS
from search.spec_faults import did_you_mean

WORK = "job"
RESULTS = ("recipe.json", "student.safetensors")


def prove(job: LocalJob) -> dict[str, Any]:
    """Run the job's plan to its end; the report. Raises SearchProblem when the plan fails."""
    report = job.run()
    assert report is not None, "a plan that is run to its end has a report"
    return report


@command
def main(
    options: SharedOptions,
    out: Annotated[
        Path, typer.Option("--out", help="The directory to be written; the same command goes on from it.")
    ] = Path("proof"),
    arms: Annotated[
        str | None, typer.Option("--arms", help=f"Comma-separated; by default all: {', '.join(ARMS)}.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=2, max=100, help="Runs of every arm, with seeds 0, 1, ...")
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Search trials at most.")] = None,
    search: Annotated[
        bool, typer.Option("--search/--no-search", help="With --recipe: search again, or prove its process.")
    ] = False,
) -> None:
    """Search (or take a recipe's process), tune KD with as much compute, train every arm, and judge.

    With --recipe the searched arm is the recipe's own process, and nothing is searched.
    """
    recipe = options.given_recipe()
    spec = options.spec(
        recipe,
        budget__trials=trials,
        proof__arms=_arms(arms),
        proof__seeds=list(range(seeds)) if seeds else None,
    )
    given = GivenProcess.of(recipe) if recipe is not None and not search else None
    work = out / WORK
    try:
        with LiveProgress(console) as progress:
            job = local_job(options, spec, work, recipe=recipe, progress=progress, given=given, is_kept=True)
            report = prove(job)
    except KeyboardInterrupt:
        console.print(f"Interrupted; the same command goes on from what is in {work}.", highlight=False)
        raise
    _write(job, out, report)
    print_report(report)
    console.print(f"wrote report.json, {' and '.join(RESULTS)} into {out}", highlight=False)


def _arms(given: str | None) -> list[str] | None:
    """The arms of a list, in the order of a report. Raises SearchProblem for what is none."""
    if given is None:
        return None
    named = [name.strip().replace("-", "_") for name in given.split(",") if name.strip()]
    for name in named:
        if name not in ARMS:
            guess = did_you_mean(name, ARMS)
            raise SearchProblem(
                f"--arms: {name!r} is no arm; {f'{guess} ' if guess else ''}known: {', '.join(ARMS)}",
                code="spec_invalid",
            )
    return [name for name in ARMS if name in named]


def _write(job: LocalJob, out: Path, report: dict[str, Any]) -> None:
    write_whole(out / "report.json", (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    for name in RESULTS:
        shutil.copyfile(job.directory / "trials" / str(EXPORT_KEY) / name, out / name)


if __name__ == "__main__":
    typer.run(main)
