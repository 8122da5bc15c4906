"""The command-line options that `python -m search.find` and `python -m search.distill` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from search.catalogue_checks import explain_validation
from search.datasets_file import name_of_directory, write_datasets_file
from search.distill import Report
from search.problems import SearchProblem
from search.recipe import Recipe
from search.records import TrialKey
from search.spec import JobSpec

SMALL_EVALUATION_IMAGES = 256
console = Console(stderr=True)

TeacherOption = Annotated[str | None, typer.Option("--teacher", help="Name of a timm model.")]
TeacherWeightsOption = Annotated[
    Path | None,
    typer.Option("--teacher-weights", help="Weights of the teacher: safetensors or a torch file."),
]
TrainTeacherOption = Annotated[
    int | None, typer.Option("--train-teacher", min=1, help="Train the teacher for so many epochs.")
]
UntrainedTeacherOption = Annotated[
    bool, typer.Option("--untrained-teacher", help="Use a random teacher; only to try things out.")
]
StudentOption = Annotated[str | None, typer.Option("--student", help="Name of a timm model.")]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="`digits`, a name of --datasets-file, or a directory of class folders."),
]
DatasetsFileOption = Annotated[
    Path | None, typer.Option("--datasets-file", help="The datasets.toml in which --data is named.")
]
EpochsOption = Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs of a run.")]
MaxStepsOption = Annotated[
    int | None,
    typer.Option(
        "--max-steps", min=1, help=f"Steps of a run at most; then {SMALL_EVALUATION_IMAGES} images judge."
    ),
]
RecipeOption = Annotated[Path | None, typer.Option("--recipe", help="A recipe that supplies every default.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the student's run.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; the bits of a result depend on them.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or cuda.")]


def data_name(data: str | None) -> str | None:
    """The name under which the spec has the data: a directory is named after its last part."""
    return name_of_directory(Path(data)) if data is not None and Path(data).is_dir() else data


def datasets_file_of(data: str | None, given: Path | None, *, directory: Path) -> Path | None:
    """The file that names the data: as given, or for a directory one that is written into `directory`."""
    if data is None or not Path(data).is_dir():
        return given
    path = directory / "datasets.toml"
    write_datasets_file(path, Path(data))
    return path


def read_recipe(path: Path | None) -> Recipe | None:
    """The recipe at this path. Raises SearchProblem if it cannot be read."""
    if path is None:
        return None
    try:
        return Recipe.model_validate_json(path.read_text())
    except OSError as error:
        raise SearchProblem(f"cannot read {path}: {error.strerror}", code="recipe_unreadable") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SearchProblem(
            f"{path} is not a recipe: {place}: {first['msg']}", code="recipe_invalid"
        ) from error


def make_spec(
    recipe: Recipe | None,
    *,
    teacher: str | None,
    teacher_weights: Path | None,
    train_teacher: int | None,
    untrained_teacher: bool,
    student: str | None,
    data: str | None,
    epochs: int | None,
    max_steps: int | None,
    trials: int | None = None,
) -> JobSpec:
    """The spec that the options describe; what they leave out is the recipe's, then the default's."""
    document: dict[str, Any] = recipe.spec.model_dump() if recipe else {"teachers": [{}], "student": {}}
    _set_teacher(document, teacher, teacher_weights, train_teacher, untrained_teacher)
    if student is not None:
        document["student"] = {"model": student}
    if data is not None and (recipe is None or data != recipe.spec.data.name):
        document["data"] = {"name": data}
    if epochs is not None:
        document.setdefault("budget", {})["epochs_per_trial"] = epochs
        document.setdefault("proof", {})["epochs"] = epochs
    if trials is not None:
        document.setdefault("budget", {})["trials"] = trials
    if max_steps is not None:
        # The teacher's training is cut short too, so that its accuracy says nothing.
        document["floor_accuracy"] = 0.0
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        faults = "; ".join(
            f"{fault.field}: {fault.message} {fault.remedy}" for fault in explain_validation(error)
        )
        raise SearchProblem(
            f"{faults} (options: --teacher, --student, --data)", code="spec_invalid"
        ) from error


def _set_teacher(
    document: dict[str, Any], model: str | None, weights: Path | None, epochs: int | None, untrained: bool
) -> None:
    if sum([weights is not None, epochs is not None, untrained]) > 1:
        raise SearchProblem(
            "give only one of --teacher-weights, --train-teacher and --untrained-teacher", code="spec_invalid"
        )
    first = document["teachers"][0]
    if model is not None:
        first["model"] = model
    if weights is not None:
        first["weights"] = str(weights)
    if epochs is not None:
        first["weights"] = "train"
        first["training"] = {**first.get("training", {}), "epochs": epochs}
    if untrained:
        console.print("[yellow]The teacher is untrained: nothing that it teaches is of use.[/yellow]")
        first["weights"] = "untrained"
        document["floor_accuracy"] = 0.0


def live_progress(total_epochs: int) -> tuple[Progress, Callable[[TrialKey, Report], None]]:
    """A progress bar, and the function that feeds it reports."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
    )
    tasks: dict[TrialKey, Any] = {}

    def on_report(key: TrialKey, report: Report) -> None:
        if key not in tasks:
            tasks[key] = progress.add_task(str(key), total=total_epochs, figures="")
        shown = {name: report.figures[name] for name in ("loss", "accuracy") if name in report.figures}
        text = " ".join(f"{name} {value:.3f}" for name, value in shown.items())
        progress.update(tasks[key], completed=report.epoch, figures=text)

    return progress, on_report


def end_with(problem: SearchProblem) -> NoReturn:
    """Print what is wrong, and exit with 2."""
    console.print(f"[red]{problem.code}[/red]: {problem.message}", highlight=False)
    sys.exit(2)


def default_threads(recipe: Recipe | None) -> int:
    """The recipe's own number of threads, else all cores."""
    return recipe.provenance.threads if recipe else os.cpu_count() or 1
