"""The options that the commands `search.find`, `search.distill` and `search.proof` share, declared once."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import typer
from pydantic import ValidationError
from rich.console import Console

from search.catalogue_checks import check_combinations, check_names, explain_validation
from search.commands.overrides import override
from search.datasets_file import BUILT_IN, name_of_directory, write_datasets_file
from search.models import require_known
from search.problems import SearchProblem
from search.recipe import Recipe
from search.registry import load_everything, methods
from search.spec import JobSpec, arms_with
from search.spec_faults import SpecFault

SMALL_EVALUATION_IMAGES = 256
console = Console(stderr=True)


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """Teacher, student, data and how to run; every field is an option."""

    teacher: Annotated[str | None, typer.Option("--teacher", help="Name of a timm model.")] = None
    teacher_weights: Annotated[
        Path | None,
        typer.Option("--teacher-weights", help="Weights of the teacher: safetensors or a torch file."),
    ] = None
    train_teacher: Annotated[
        int | None,
        typer.Option(
            "--train-teacher",
            min=1,
            help="Train the teacher for so many epochs; 20 where no option says what it is.",
        ),
    ] = None
    untrained_teacher: Annotated[
        bool, typer.Option("--untrained-teacher", help="Use a random teacher; only to try things out.")
    ] = False
    student: Annotated[str | None, typer.Option("--student", help="Name of a timm model.")] = None
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="`digits`, a name of --datasets-file, or a directory (docs/datasets.md says of what kinds).",
        ),
    ] = None
    datasets_file: Annotated[
        Path | None, typer.Option("--datasets-file", help="The datasets.toml in which --data is named.")
    ] = None
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A recipe that supplies every default.")] = (
        None
    )
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs of a run.")] = None
    max_steps: Annotated[
        int | None,
        typer.Option(
            "--max-steps",
            min=1,
            help=f"Steps of a run at most, the teacher's too; {SMALL_EVALUATION_IMAGES} images judge then.",
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Any field of the job spec, such as training.learning_rate=0.01; may be repeated.",
        ),
    ] = None
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; the bits of a result depend on them.")
    ] = None
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, or mps (which is not tested).")
    ] = None

    def given_recipe(self) -> Recipe | None:
        """The recipe of --recipe. Raises SearchProblem if it cannot be read."""
        return read_recipe(self.recipe) if self.recipe is not None else None

    def spec(self, recipe: Recipe | None, **parts: Any) -> JobSpec:
        """The spec that the options describe; what they leave out is the recipe's, then the default's.

        `parts` (field paths with `__` for dots, None for unchanged) come before --set. Raises SearchProblem.
        """
        document: dict[str, Any] = recipe.spec.model_dump() if recipe else {"teachers": [{}], "student": {}}
        self._set_teacher(document)
        if self.student is not None:
            document["student"] = {"model": self.student}
        name = self._data_name()
        if name is not None and (recipe is None or name != recipe.spec.data.name):
            document["data"] = {"name": name, **({"labels": recipe.spec.data.labels} if recipe else {})}
        for path, value in {
            "budget__epochs_per_trial": self.epochs,
            "proof__epochs": self.epochs,
            # The teacher's training is cut short too, so that its accuracy says nothing.
            "floor_accuracy": 0.0 if self.max_steps is not None else None,
            **parts,
        }.items():
            _put(document, path.split("__"), value)
        override(document, self.settings or ())
        if recipe is not None:
            _fit_arms(document, recipe.spec)
        return checked_spec(document)

    def datasets_file_in(self, directory: Path) -> Path | None:
        """The file that names the data: as given, or for a directory one that is written into `directory`."""
        if self.data is None or not Path(self.data).is_dir():
            return self.datasets_file
        path = directory / "datasets.toml"
        write_datasets_file(path, Path(self.data))
        return path

    def threads_with(self, recipe: Recipe | None) -> int:
        """As given, else the recipe's own number of threads, else all cores."""
        return self.threads or (recipe.provenance.threads if recipe else os.cpu_count() or 1)

    def _data_name(self) -> str | None:
        """The name under which the spec has the data: a directory is named after its last part."""
        if self.data is None:
            return None
        if Path(self.data).is_dir():
            return name_of_directory(Path(self.data))
        if self.data.startswith(("/", ".", "~")):
            raise SearchProblem(f"--data: there is no directory {self.data}", code="unknown_dataset")
        if self.datasets_file is None and self.data != BUILT_IN:
            raise SearchProblem(
                f"--data: {self.data!r} is neither a directory nor `{BUILT_IN}`; the file that names data "
                "sets of your own is given by --datasets-file",
                code="unknown_dataset",
            )
        return self.data

    def _set_teacher(self, document: dict[str, Any]) -> None:
        if (
            sum([self.teacher_weights is not None, self.train_teacher is not None, self.untrained_teacher])
            > 1
        ):
            raise SearchProblem(
                "give only one of --teacher-weights, --train-teacher and --untrained-teacher",
                code="spec_invalid",
            )
        first = document["teachers"][0]
        if self.teacher is not None:
            first["model"] = self.teacher
        if self.teacher_weights is not None:
            first["weights"] = str(self.teacher_weights)
        if self.train_teacher is not None:
            first["weights"] = "train"
            first["training"] = {**first.get("training", {}), "epochs": self.train_teacher}
        if self.untrained_teacher:
            console.print("[yellow]The teacher is untrained: nothing that it teaches is of use.[/yellow]")
            first["weights"] = "untrained"
            document["floor_accuracy"] = 0.0


def command(body: Callable[..., None]) -> Callable[..., None]:
    """A command with the shared options beside its own: `body` takes them as its first argument.

    A SearchProblem ends the command with its sentence and status 2.
    """
    own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
    shared = get_type_hints(SharedOptions, include_extras=True)

    @functools.wraps(body)
    def run(**values: Any) -> None:
        options = SharedOptions(**{name: values.pop(name) for name in shared})
        try:
            load_everything()
            body(options, **values)
        except SearchProblem as problem:
            end_with(problem)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters += [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=shared[field.name]
        )
        for field in fields(SharedOptions)
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # whose signature typer would read instead
    return run


def read_recipe(path: Path) -> Recipe:
    """The recipe at this path. Raises SearchProblem if it cannot be read."""
    try:
        return Recipe.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SearchProblem(f"cannot read {path}: {error.strerror}", code="recipe_unreadable") from error
    except ValidationError as error:
        raise SearchProblem(
            f"{path} is not a recipe: {_in_words(explain_validation(error, Recipe)[:1])}",
            code="recipe_invalid",
        ) from error


def checked_spec(document: dict[str, Any]) -> JobSpec:
    """The spec, with every method that it names registered here. Raises SearchProblem."""
    try:
        spec = JobSpec.model_validate(document)
    except ValidationError as error:
        faults = explain_validation(error)
        raise SearchProblem(
            f"{_in_words(faults)}\noptions: --teacher, --student, --data, --set; `--help` lists all",
            code="spec_invalid",
        ) from error
    for model in (spec.teacher.model, spec.student.name):
        require_known(model)  # before the teacher is trained for a student that there is not
    here = {
        "methods": [method.described() for method in methods()],
        "models": [spec.teacher.model, spec.student.name],
        "datasets": [{"name": name} for name in (spec.data.name, spec.data.out_of_distribution) if name],
    }
    unknown = check_names(spec, here)
    if unknown:
        raise SearchProblem(
            f"{_in_words(unknown)}\n`python -m search` lists all methods", code="unknown_method"
        )
    refused = check_combinations(spec, here)
    if refused:
        raise SearchProblem(_in_words(refused), code="methods_do_not_combine")
    return spec


def _fit_arms(document: dict[str, Any], before: JobSpec) -> None:
    """Where labels are read that were not before, or no longer are, arms that nobody chose anew follow."""
    data, proof = document.get("data"), document.get("proof")
    if not isinstance(data, dict) or not isinstance(proof, dict) or proof.get("arms") != before.proof.arms:
        return
    labels = data.get("labels", "given")
    if labels != before.data.labels:
        proof["arms"] = arms_with(before.proof.arms, is_labelled=labels == "given")


def end_with(problem: SearchProblem) -> NoReturn:
    """Print what is wrong, and exit with 2."""
    console.print(f"[red]{problem.code}[/red]: ", end="")
    console.print(problem.message, highlight=False, markup=False, soft_wrap=True)
    sys.exit(2)


def _in_words(faults: list[SpecFault]) -> str:
    said = [f"{fault.field}: {fault.message}; {fault.remedy}".removeprefix(": ") for fault in faults]
    return said[0] if len(said) == 1 else "".join(f"\n  {line}" for line in said)


def _put(document: dict[str, Any], path: list[str], value: Any) -> None:
    if value is None:
        return
    for name in path[:-1]:
        document = document.setdefault(name, {})
    document[path[-1]] = value
