"""Train one student by one process, without any service: `python -m search.distill`.

python -m search.distill --recipe recipe.json --seed 0 --out student/
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from search.commands.live_progress import LiveProgress
from search.commands.local_job import LocalJob
from search.commands.options import SharedOptions, command, console
from search.commands.running import local_job
from search.label_free import judged_by
from search.plan import teacher_proposal
from search.planning.arms import plain_kd
from search.problems import SearchProblem
from search.recipe import Recipe
from search.records import Proposal, RunParameters, RunResult, StageName, TrialKey, TrialRecord, TrialState


def distill(
    job: LocalJob, run: RunParameters, *, arm: str, seed: int, recipe: Recipe | None = None
) -> RunResult:
    """Train the teacher (or load it), then the student on train, meta and validation; figures on test.

    Raises SearchProblem for what the user can mend.
    """
    taught = _completed(job.trial(teacher_proposal(job.spec)))
    job.records.append(taught)
    if recipe is not None:
        _compare_teacher(recipe, (taught.result or {})["weights_sha256"])
    key = TrialKey(StageName.PROOF, arm, seed, 0)
    done = _completed(job.trial(Proposal(key, run.model_dump(mode="json"))))
    job.records.append(done)
    return RunResult.model_validate(done.result)


def _completed(record: TrialRecord) -> TrialRecord:
    if record.state != TrialState.COMPLETED:
        error = record.error
        raise SearchProblem(
            error.message if error else f"{record.key} did not complete",
            code=error.code if error else "internal",
        )
    return record


def _compare_teacher(recipe: Recipe, weights_sha256: str) -> None:
    if recipe.task.teachers[0].weights_sha256 not in (None, weights_sha256):
        console.print(
            "[yellow]The teacher's weights are not the recipe's: expect other figures. Give the recipe's own "
            "teacher with --teacher-weights for an exact repetition.[/yellow]"
        )


@command
def main(
    options: SharedOptions,
    out: Annotated[Path, typer.Option("--out", help="The directory to be written.")] = Path("distilled"),
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the student's run.")] = None,
) -> None:
    """Train a student by a recipe's process, or by plain KD (0.1 cross-entropy, 0.9 KL, T = 4)."""
    given = options.given_recipe()
    spec = options.spec(given)
    run = RunParameters(
        process=given.process if given else plain_kd(is_labelled=spec.data.is_labelled),
        epochs=options.epochs or (given.epochs if given else spec.proof_epochs),
        splits="proof",
    )
    chosen = spec.proof.seeds[0] if seed is None else seed
    arm = given.arm if given else "plain_kd"
    with (
        tempfile.TemporaryDirectory(prefix="limbeck-") as directory,
        LiveProgress(console) as progress,
    ):
        job = local_job(options, spec, Path(directory), recipe=given, progress=progress)
        result = distill(job, run, arm=arm, seed=chosen, recipe=given)
        _write(job, out, arm=arm, seed=chosen, result=result)
    console.print(
        f"test {judged_by(spec).in_words} {result.accuracy:.4f} on {result.images} images; wrote {out}",
        highlight=False,
    )


def _write(job: LocalJob, out: Path, *, arm: str, seed: int, result: RunResult) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for record in job.records:
        for file in (job.directory / "trials" / str(record.key)).glob("*.safetensors"):
            shutil.copyfile(file, out / file.name)
    document: dict[str, Any] = {"arm": arm, "seed": seed, **result.model_dump(mode="json")}
    (out / "result.json").write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


def run() -> None:
    """Entry of `python -m search.distill`."""
    typer.run(main)
