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

from search.arms import plain_kd
from search.local import LocalJob
from search.options import (
    SMALL_EVALUATION_IMAGES,
    DataOption,
    DatasetsFileOption,
    DeviceOption,
    EpochsOption,
    MaxStepsOption,
    RecipeOption,
    SeedOption,
    StudentOption,
    TeacherOption,
    TeacherWeightsOption,
    ThreadsOption,
    TrainTeacherOption,
    UntrainedTeacherOption,
    console,
    data_name,
    datasets_file_of,
    default_threads,
    end_with,
    live_progress,
    make_spec,
    read_recipe,
)
from search.plan import teacher_proposal
from search.problems import SearchProblem
from search.recipe import Recipe
from search.records import Proposal, RunParameters, RunResult, StageName, TrialKey, TrialRecord, TrialState
from search.registry import load_everything


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


def main(
    out: Annotated[Path, typer.Option("--out", help="The directory to be written.")] = Path("distilled"),
    teacher: TeacherOption = None,
    teacher_weights: TeacherWeightsOption = None,
    train_teacher: TrainTeacherOption = None,
    untrained_teacher: UntrainedTeacherOption = False,
    student: StudentOption = None,
    data: DataOption = None,
    datasets_file: DatasetsFileOption = None,
    epochs: EpochsOption = None,
    max_steps: MaxStepsOption = None,
    recipe: RecipeOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
) -> None:
    """Train a student by a recipe's process, or by plain KD (0.1 cross-entropy, 0.9 KL, T = 4)."""
    load_everything()
    try:
        given = read_recipe(recipe)
        spec = make_spec(
            given,
            teacher=teacher,
            teacher_weights=teacher_weights,
            train_teacher=train_teacher,
            untrained_teacher=untrained_teacher,
            student=student,
            data=data_name(data),
            epochs=epochs,
            max_steps=max_steps,
        )
        process = given.process if given else plain_kd()
        run = RunParameters(
            process=process,
            epochs=epochs or (given.epochs if given else spec.proof_epochs),
            splits="proof",
        )
        progress, on_report = live_progress(run.epochs)
        with tempfile.TemporaryDirectory(prefix="limbeck-distill-") as directory, progress:
            job = LocalJob(
                spec,
                Path(directory),
                datasets_file=datasets_file_of(data, datasets_file, directory=Path(directory)),
                threads=threads or default_threads(given),
                device=device,
                max_steps=max_steps,
                evaluation_limit=SMALL_EVALUATION_IMAGES if max_steps else None,
                on_report=on_report,
            )
            chosen = spec.proof.seeds[0] if seed is None else seed
            arm = given.arm if given else "plain_kd"
            result = distill(job, run, arm=arm, seed=chosen, recipe=given)
            _write(job, out, arm=arm, seed=chosen, result=result)
    except SearchProblem as problem:
        end_with(problem)
    console.print(f"test accuracy {result.accuracy:.4f} on {result.images} images; wrote {out}")


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
