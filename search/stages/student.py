"""The stages search, tuning and proof: one training run of a student, then its figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from search.checkpoint import to_bytes
from search.data import ImageSet
from search.distill import Distillation, Material, Report
from search.evaluate import EVALUATION_BATCH, evaluate
from search.models import TappedModel, export_student, weights_sha256
from search.randomness import mix
from search.records import RunParameters, RunResult
from search.stages.material import LoadedTeacher, build, dataset_of, teacher_logits, teacher_of
from search.teacher_cache import TeacherCache
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
        self.is_proof = self.parameters.splits == "proof"
        self.judged = self.dataset.splits["test" if self.is_proof else "validation"]
        self.run = self._open()
        if state is not None:
            self.run.load(state)

    def _open(self) -> Distillation:
        setting, splits = self.setting, self.dataset.splits
        seed = mix(Purpose.PROOF if self.is_proof else Purpose.SEARCH, setting.key.seed)
        student = build(setting.spec, self.dataset, setting.spec.student.name, seed=seed)
        process = self.parameters.process
        teacher = None
        if process.logit_losses or process.pathways:
            teacher = teacher_of(setting)
        train = self.dataset.training_images(self.parameters.splits)
        material = Material(
            student=student,
            teacher=teacher.model if teacher else None,
            train=train,
            meta=splits["meta"],
            teacher_outputs=self._kept_outputs(teacher, train) if teacher else None,
            validate=None if self.is_proof else self._validator(splits["validation"]),
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

    def _kept_outputs(self, teacher: LoadedTeacher, train: ImageSet) -> TeacherCache:
        """The teacher's outputs on augmented images, computed once per node when they are first needed."""
        return TeacherCache(
            self.setting.places.cache_directory,
            teacher=teacher.model,
            images=train,
            policy=self.setting.spec.training.augmentation,
            seed=self.setting.spec.data.splits.seed,
            device=self.setting.device,
        )

    def _validator(self, images: ImageSet) -> Any:
        def validate(model: TappedModel) -> dict[str, float]:
            found = evaluate(
                model,
                images,
                batch_size=EVALUATION_BATCH,
                device=self.setting.device,
                limit=self.setting.evaluation_limit,
            )
            return {"accuracy": found.accuracy, "validation_loss": found.loss}

        return validate

    def steps(self) -> Iterator[Report | None]:
        return self.run.steps()

    def state(self) -> bytes:
        return to_bytes(self.run.state())

    def _teacher_logits(self) -> Tensor | None:
        if self.setting.places.teacher_file is None:
            return None
        return teacher_logits(self.setting, split="test" if self.is_proof else "validation")

    def outcome(self) -> Outcome:
        found = evaluate(
            self.run.student,
            self.judged,
            batch_size=EVALUATION_BATCH,
            device=self.setting.device,
            teacher_logits=self._teacher_logits(),
            limit=self.setting.evaluation_limit,
        )
        result = RunResult(
            accuracy=found.accuracy,
            agreement=found.agreement,
            expected_calibration_error=found.expected_calibration_error,
            loss=found.loss,
            images=found.images,
            steps=self.run.step,
            seconds=self.run.seconds,
            process=self.run.recorded(),
            student_sha256=weights_sha256(self.run.student),
        )
        files = {}
        if self.is_proof:
            files["student.safetensors"] = self.setting.places.trial_directory / "student.safetensors"
            export_student(self.run.student, files["student.safetensors"], {"limbeck.role": "student"})
        return Outcome(result.model_dump(mode="json"), files)
