"""The preflight stage: what is wrong is said before device time is spent; a step of each kind is measured."""

from __future__ import annotations

import time
from collections.abc import Iterator

from search.arms import dimensions_of, pathways_between, plain_kd, starting_process
from search.checkpoint import to_bytes
from search.dimensions import Choices, starting_choices
from search.distill import Distillation, Material, Report
from search.models import TappedModel
from search.preflight import run_preflight, seconds_per_step
from search.recipe import Process, constant
from search.records import Learning, RunParameters
from search.stages.material import build, dataset_of, teacher_of
from search.trial import Outcome, TrialSetting

MEASURED_STEPS = 5


class PreflightRun:
    """No training to speak of: checks, and a handful of steps of each kind of run."""

    def __init__(self, setting: TrialSetting) -> None:
        started = time.perf_counter()
        self.setting = setting
        self.dataset = dataset_of(setting)
        self.is_teacher_ready = setting.places.teacher_file is not None
        self.teacher = self._teacher()
        self.student = self._student()
        self.start_seconds = time.perf_counter() - started

    def _teacher(self) -> TappedModel:
        if self.is_teacher_ready:
            return teacher_of(self.setting).model
        return build(self.setting.spec, self.dataset, self.setting.spec.teacher.model, seed=0)

    def _student(self) -> TappedModel:
        return build(self.setting.spec, self.dataset, self.setting.spec.student.name, seed=0)

    def steps(self) -> Iterator[Report | None]:
        return iter(())

    def state(self) -> bytes:
        return to_bytes({})

    def outcome(self) -> Outcome:
        result = run_preflight(
            self.setting.spec,
            self.dataset,
            teacher=self.teacher,
            student=self.student,
            is_teacher_ready=self.is_teacher_ready,
            measure=self._measure,
            start_seconds=self.start_seconds,
            device=self.setting.device,
        )
        return Outcome(result.model_dump(mode="json"), {})

    def _measure(self, kind: str) -> float:
        """Median seconds of a step of this kind, on a student of its own."""
        processes = {"student_alone": constant(), "kd": plain_kd()}
        run = RunParameters(
            process=processes.get(kind) or self._all_pathways(),
            epochs=MEASURED_STEPS + 2,
            learn=self._learning() if kind == "search" else None,
        )
        spec = self.setting.spec
        material = Material(
            student=self._student(),
            teacher=self.teacher,
            train=self.dataset.splits["train"],
            meta=self.dataset.splits["meta"],
        )
        # Every step is reported: reading its figures waits for the device, so that its whole work is timed.
        training = spec.training.model_copy(update={"report_every_steps": 1})
        distillation = Distillation(material, run, training, seed=0, device=self.setting.device)
        return seconds_per_step(distillation.steps(), measured=MEASURED_STEPS)

    def _learning(self) -> Learning:
        """The job's own settings, so that a start that a normalisation cannot hold is found here."""
        return Learning(
            learning_rate=0.01,
            normalisation=self.setting.spec.search.process.normalisation,
            meta_batch_size=self.setting.spec.search.process.meta_batch_size,
        )

    def _all_pathways(self) -> Process:
        """The costliest choice of the space: predictions should not be too low."""
        space = self.setting.spec.search.space
        stages = self.teacher.stages, self.student.stages
        choices: list[Choices] = [
            {
                **starting_choices(dimensions_of(self.setting.spec)),
                "connections": connections,
                "transform": transform,
                "distances": list(distances),
            }
            for connections in space.connections
            for transform in space.transforms
            for distances in space.distances
        ]
        found = [pathways_between(choice, *stages, input_size=self.dataset.size) for choice in choices]
        most = max(range(len(choices)), key=lambda index: len(found[index]))
        return starting_process(self.setting.spec, choices[most], found[most])
