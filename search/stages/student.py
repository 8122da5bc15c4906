"""The stages search, tuning and proof: one training run of a student, then its figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from search.checkpoint import to_bytes
from search.distill import Distillation, Material, Report
from search.models import TappedModel, export_student, weights_sha256
from search.models.served import folded
from search.problems import require_finite
from search.randomness import mix
from search.records import RunParameters, RunResult
from search.stages.judging import judge
from search.stages.kept_outputs import kept_outputs
from search.stages.label_free_figures import without_labels
from search.stages.material import (
    build,
    dataset_of,
    require_data,
    teacher_of,
    training_images,
)
from search.trial import Outcome, Purpose, TrialSetting


class StudentRun:
    """A student trained by one process.

    With the splits `search` it trains on train and is judged on validation. With `proof` it trains on train,
    meta and validation together and reads test once, in `outcome`, after its last checkpoint.
    """

    def __init__(self, setting: TrialSetting, state: dict[str, Any] | None) -> None:
        self.setting = setting
        self.parameters = RunParameters.model_validate(setting.parameters)
        self.dataset = dataset_of(setting)
        require_data(self.dataset, self.parameters.data_sha256)
        self.is_proof = self.parameters.splits == "proof"
        self.run = self._open()
        self.earlier_cache_seconds = 0.0
        if state is not None:
            self.run.load(state)
            self.earlier_cache_seconds = float(state.get("cache_seconds", 0.0))

    def _open(self) -> Distillation:
        setting, splits = self.setting, self.dataset.splits
        seed = mix(Purpose.PROOF if self.is_proof else Purpose.SEARCH, setting.key.seed)
        student = build(setting.spec, self.dataset, setting.spec.student.name, seed=seed)
        process = self.parameters.process
        teacher = None
        if process.logit_losses or process.pathways:
            teacher = teacher_of(setting)
        train = training_images(setting, splits=self.parameters.splits)
        self.kept = (
            kept_outputs(setting, self.parameters, teacher.model, train, student=student) if teacher else None
        )
        material = Material(
            student=student,
            teacher=teacher.model if teacher else None,
            train=train,
            meta=splits["meta"],
            teacher_outputs=self.kept,
            validate=None if self.is_proof else self._validated,
        )
        return Distillation(
            material,
            self.parameters,
            setting.spec.training,
            seed=seed,
            augmentation_seed=setting.spec.data.splits.seed,
            device=setting.device,
            max_steps=setting.max_steps,
        )

    def _validated(self, model: TappedModel) -> dict[str, float]:
        found = judge(self.setting, model, "validation", teacher=False)
        return {"accuracy": found.accuracy, "validation_loss": found.loss}

    def steps(self) -> Iterator[Report | None]:
        return self.run.steps()

    def state(self) -> bytes:
        return to_bytes({**self.run.state(), "cache_seconds": self._cache_seconds})

    @property
    def _cache_seconds(self) -> float:
        """Spent so far on computing the teacher's cached outputs, or on waiting for who does."""
        return self.earlier_cache_seconds + (self.kept.seconds if self.kept else 0.0)

    def outcome(self) -> Outcome:
        found = judge(self.setting, self.run.trained, "test" if self.is_proof else "validation")
        require_finite({"the loss on the judged images": found.loss}, step=self.run.step)
        result = RunResult(
            accuracy=found.accuracy,
            agreement=found.agreement,
            expected_calibration_error=found.expected_calibration_error,
            loss=found.loss,
            images=found.images,
            steps=self.run.step,
            seconds=self.run.seconds - self._cache_seconds,
            cache_seconds=self._cache_seconds,
            process=self.run.recorded(),
            student_sha256=weights_sha256(folded(self.run.trained)),
            served_parameters=self.run.trained.served_parameter_count,
            without_labels=without_labels(self.setting, self.run.trained, is_proof=self.is_proof),
        )
        files = {}
        if self.is_proof:
            files["student.safetensors"] = self.setting.places.trial_directory / "student.safetensors"
            export_student(self.run.trained, files["student.safetensors"], {"limbeck.role": "student"})
        return Outcome(result.model_dump(mode="json"), files)
