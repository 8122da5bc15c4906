"""The export stage: the winning student as plain timm loads it, and the recipe."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version

from search.checkpoint import to_bytes
from search.distill import Report
from search.models import TappedModel
from search.problems import SearchProblem
from search.recipe import Provenance, Recipe, Task, TaskModel
from search.records import ExportParameters, ExportResult
from search.stages.judging import judge
from search.stages.material import build, dataset_of, require_data, teacher_of
from search.trial import Outcome, TrialSetting

VERSIONED = ("limbeck", "torch", "torchvision", "timm", "numpy", "optuna")


class ExportRun:
    """No training: copies, evaluates what was written, and writes the recipe."""

    def __init__(self, setting: TrialSetting) -> None:
        self.setting = setting
        self.parameters = ExportParameters.model_validate(setting.parameters)
        self.dataset = dataset_of(setting)
        require_data(self.dataset, self.parameters.run.data_sha256)

    def steps(self) -> Iterator[Report | None]:
        return iter(())

    def state(self) -> bytes:
        return to_bytes({})

    def outcome(self) -> Outcome:
        places = self.setting.places
        if places.student_file is None:
            raise SearchProblem("the winning proof run has stored no student", code="student_missing")
        student_file = places.trial_directory / "student.safetensors"
        shutil.copyfile(places.student_file, student_file)
        student = build(
            self.setting.spec, self.dataset, self.setting.spec.student.name, seed=0, weights=student_file
        )
        device = self.setting.device
        whole = replace(self.setting, evaluation_limit=None)
        found = judge(whole, student.to(device), "test", teacher=False)
        recipe = write_recipe(self.setting, self.parameters, proof_seeds=self.setting.spec.proof.seeds)
        recipe = recipe.model_copy(update={"served_parameters": student.served_parameter_count})
        recipe_file = places.trial_directory / "recipe.json"
        recipe_file.write_text(recipe.to_json())
        result = ExportResult(accuracy=found.accuracy, recipe=recipe.model_dump(mode="json"))
        return Outcome(
            result.model_dump(mode="json"), {"student.safetensors": student_file, "recipe.json": recipe_file}
        )


def write_recipe(setting: TrialSetting, parameters: ExportParameters, *, proof_seeds: list[int]) -> Recipe:
    """The recipe of a run: its task as it was, its process, its evidence, and what exact repetition needs."""
    spec, run = setting.spec, parameters.run
    dataset = dataset_of(setting)
    teacher = teacher_of(setting)
    return Recipe(
        arm=parameters.arm,
        task=Task(
            teachers=[_task_model(spec.teacher.model, teacher.model, teacher.weights_sha256)],
            student=_task_model(spec.student.name, build(spec, dataset, spec.student.name, seed=0)),
            data=dataset.name,
            data_sha256=dataset.content_sha256,
            classes=dataset.classes,
            input_channels=dataset.channels,
            input_size=spec.data.input_size or dataset.size,
            split_sizes={name: len(split.labels) for name, split in dataset.splits.items()},
        ),
        process=run.process,
        epochs=run.epochs,
        training=spec.training,
        spec=spec.model_copy(update={"name": None, "labels": {}, "metadata": {}}),
        evidence=parameters.report,
        provenance=Provenance(
            job_id=setting.places.job_id,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
            device=setting.device,
            threads=setting.threads,
            search_seed=spec.search.seed,
            proof_seeds=proof_seeds,
        ),
    )


def _task_model(name: str, model: TappedModel, weights: str | None = None) -> TaskModel:
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    return TaskModel(model=name, parameters=parameters, stages=model.stages, weights_sha256=weights)


def versions() -> dict[str, str]:
    """Of everything that a result's bits depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}}
