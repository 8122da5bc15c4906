"""Find a process for a teacher, a student and a data set: `python -m search.find`.

python -m search.find --teacher test_resnet --train-teacher 20 --student test_convnext --epochs 10 --out
found.json
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from search.findings import replays_json, what_search_found
from search.history import History
from search.local import LocalJob
from search.options import (
    SMALL_EVALUATION_IMAGES,
    DataOption,
    DatasetsFileOption,
    DeviceOption,
    EpochsOption,
    MaxStepsOption,
    RecipeOption,
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
from search.plan import EXPORT_KEY, searched_run
from search.problems import SearchProblem
from search.recipe import Recipe
from search.records import ExportParameters, Proposal, StageName, TrialRecord
from search.registry import load_everything
from search.stages.export import write_recipe
from search.trial import TrialSetting, device_for


def find(job: LocalJob) -> tuple[Recipe, list[TrialRecord]]:
    """Search with the plan's own strategy until tuning would begin; the found process as a recipe.

    Raises SearchProblem when nothing could be found.
    """
    job.run(until=StageName.TUNING)
    found = what_search_found(job.spec, History(job.records))
    evidence: dict[str, Any] = {
        "validation_accuracy": found.chosen.accuracy,
        "process_kind": found.kind.value,
        "replays": replays_json(found),
        "trials": [
            {"key": str(record.key), "state": record.state.value, "device_seconds": record.device_seconds}
            for record in job.records
        ],
    }
    run = searched_run(job.spec, job.records)
    parameters = ExportParameters(arm="searched", seed=0, run=run, report=evidence)
    document = parameters.model_dump(mode="json")
    setting = TrialSetting(
        job.spec,
        EXPORT_KEY,
        document,
        job.places(Proposal(EXPORT_KEY, document)),
        job.threads,
        device_for(job.spec, job.device),
    )
    return write_recipe(setting, parameters, proof_seeds=[]), job.records


def main(
    out: Annotated[Path, typer.Option("--out", help="The JSON file to be written.")] = Path("found.json"),
    teacher: TeacherOption = None,
    teacher_weights: TeacherWeightsOption = None,
    train_teacher: TrainTeacherOption = None,
    untrained_teacher: UntrainedTeacherOption = False,
    student: StudentOption = None,
    data: DataOption = None,
    datasets_file: DatasetsFileOption = None,
    epochs: EpochsOption = None,
    max_steps: MaxStepsOption = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Search trials; 1 by default.")
    ] = None,
    recipe: RecipeOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
) -> None:
    """Search for the distillation process of a pair, and write it as a recipe."""
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
            trials=trials or (None if given else 1),
        )
        progress, on_report = live_progress(spec.budget.epochs_per_trial)
        with tempfile.TemporaryDirectory(prefix="limbeck-find-") as directory, progress:
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
            found, _ = find(job)
    except SearchProblem as problem:
        end_with(problem)
    out.write_text(found.to_json())
    console.print(f"validation accuracy {json.dumps(found.evidence['validation_accuracy'])}; wrote {out}")


if __name__ == "__main__":
    typer.run(main)
