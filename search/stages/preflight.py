"""The preflight stage: what is wrong is said before device time is spent; a step of each kind is measured."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path

from search.checkpoint import to_bytes
from search.data import ImageSet
from search.dimensions import Choices, starting_choices
from search.distill import Distillation, Material, Report
from search.method_card import Need
from search.models import TappedModel
from search.pathway_rules import MapFacts
from search.planning.arms import (
    as_choice,
    dimensions_of,
    learning,
    pathways_between,
    plain_kd,
    starting_process,
)
from search.planning.method_choices import DISTANCES, FEATURE_LOSSES, LOGIT_LOSSES, TRANSFORMS, as_uses
from search.planning.nearest import refusal_of
from search.preflight import cards_for, grouped, run_preflight, seconds_per_step
from search.recipe import AnyPathway, FeatureLoss, Process, constant
from search.records import Learning, RunParameters
from search.registry import Kind
from search.spec import MethodUse
from search.stages.kept_outputs import kept_outputs, teacher_pass
from search.stages.label_free_figures import require_judges
from search.stages.material import build, dataset_of, teacher_of, training_images
from search.teacher_cache import TeacherCache
from search.trial import Outcome, TrialSetting

MEASURED_STEPS = 5
TEACHER_PASSES = 3
MOST_TIMED = 8
"""Processes that are timed: those with losses that ask a model again, then those with the most pathways."""
ASKING_AGAIN = frozenset({Need.VIEWS, Need.TRAINABLE_TEACHER, Need.TEACHER_TAIL, Need.TEACHER_AGAIN})
"""Needs of which each costs a pass of student or teacher beside the usual ones."""


class PreflightRun:
    """No training to speak of: checks, and a handful of steps of each kind of run."""

    def __init__(self, setting: TrialSetting) -> None:
        started = time.perf_counter()
        self.setting = setting
        self.dataset = dataset_of(setting)
        self.cards = cards_for(setting.spec)
        self.is_teacher_ready = setting.places.teacher_file is not None
        self.teacher = self._teacher()
        self.student = self._student()
        self.start_seconds = time.perf_counter() - started

    def _teacher(self) -> TappedModel:
        if self.is_teacher_ready:
            return teacher_of(self.setting).model
        teacher = build(self.setting.spec, self.dataset, self.setting.spec.teacher.model, seed=0)
        return teacher.to(self.setting.device)

    def _student(self) -> TappedModel:
        return build(self.setting.spec, self.dataset, self.setting.spec.student.name, seed=0)

    def steps(self) -> Iterator[Report | None]:
        return iter(())

    def state(self) -> bytes:
        return to_bytes({})

    def outcome(self) -> Outcome:
        require_judges(self.setting, teacher=self.teacher, student=self.student)
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

    @property
    def _plain_kd(self) -> Process:
        return plain_kd(is_labelled=self.setting.spec.data.is_labelled)

    def _measure(self, kind: str) -> float:
        """Median seconds of a step of this kind."""
        match kind:
            case "student_alone":
                return self._seconds(constant())
            case "teacher":
                return self._teacher_seconds()
            case "kd":
                return self._seconds(self._plain_kd)
            case "pathways":
                return self._costliest[1]
            case _:
                return self._search_seconds(self._learning())

    def _search_seconds(self, learn: Learning) -> float:
        """Of a step with its update of the process: with K steps of lookahead, one of K carries it."""
        process, plain = self._costliest
        of_all = self._seconds(process, learn=learn, steps_at_once=learn.lookahead_steps)
        return max(plain, of_all - (learn.lookahead_steps - 1) * plain)

    def _seconds(self, process: Process, *, learn: Learning | None = None, steps_at_once: int = 1) -> float:
        """Median seconds of a step (or of so many) with this process, on a student of its own.

        The images are those of one batch, and what the job's runs would read of the teacher is kept of them.
        """
        run = RunParameters(process=process, epochs=(MEASURED_STEPS + 2) * steps_at_once, learn=learn)
        with tempfile.TemporaryDirectory(prefix="limbeck-preflight-") as directory:
            material = Material(
                student=self._student(),
                teacher=self.teacher,
                train=self._one_batch,
                meta=self.dataset.splits["meta"],
                teacher_outputs=self._kept(run, Path(directory)),
            )
            # Every step is reported: reading its figures waits for the device, so that its work is timed.
            training = self.setting.spec.training.model_copy(update={"report_every_steps": 1, "views": 1})
            distillation = Distillation(
                material,
                run,
                training,
                seed=0,
                augmentation_seed=self.setting.spec.data.splits.seed,
                device=self.setting.device,
            )
            steps = grouped(distillation.steps(), steps_at_once)
            return seconds_per_step(steps, measured=MEASURED_STEPS)

    @property
    def _one_batch(self) -> ImageSet:
        return self.dataset.splits["train"].first(self.setting.spec.training.batch_size)

    def _kept(self, run: RunParameters, directory: Path) -> TeacherCache | None:
        """The outputs that such a run of the job's length would read, for one batch."""
        found = self._kept_of_job(run)
        if found is None:
            return None
        whole = teacher_pass(self.setting, self.teacher, self._one_batch, taps=run.process.taps)
        return TeacherCache(directory, whole, stages=found.stages)

    def _kept_of_job(self, run: RunParameters) -> TeacherCache | None:
        """As of the job's longest run on the most images, for which the fewest stages fit."""
        spec = self.setting.spec
        longest = run.model_copy(update={"epochs": max(spec.budget.epochs_per_trial, spec.proof_epochs)})
        images = training_images(self.setting, splits="proof")
        return kept_outputs(self.setting, longest, self.teacher, images, student=self.student)

    def _teacher_seconds(self) -> float:
        """Seconds of the teacher on one batch where its outputs are kept; else they are part of the steps."""
        if self._kept_of_job(RunParameters(process=self._plain_kd, epochs=1)) is None:
            return 0.0
        whole = teacher_pass(self.setting, self.teacher, self._one_batch)

        def passes() -> Iterator[None]:
            while True:
                whole.over_view(0, [], lambda outputs: None)
                yield

        return seconds_per_step(passes(), warm_up=1, measured=TEACHER_PASSES)

    def _learning(self) -> Learning:
        """The job's own settings, so that a start that a normalisation cannot hold is found here."""
        spec = self.setting.spec
        return learning(spec, learning_rate=0.01, update_every_steps=spec.search.process.lookahead_steps)

    @cached_property
    def _costliest(self) -> tuple[Process, float]:
        """The process of the space whose steps take longest, and how long: predictions should not be too low.

        What transforms and losses cost cannot be read off their number, so every set of either is timed.
        """
        timed = [(process, self._seconds(process)) for process in self._processes()]
        return max(timed, key=lambda pair: pair[1])

    def _processes(self) -> list[Process]:
        """For every set of transforms, and of feature losses, the process with the most pathways; plain KD
        where nothing fits."""
        transforms, (most, *others) = self.setting.spec.search.space.transforms, self._losses()
        found = [self._longest(each, most) for each in transforms]
        found += [self._longest(transforms[0], losses) for losses in others]
        found.sort(key=lambda process: (self._passes(process), len(process.pathways)), reverse=True)
        distilling = [process for process in found if process.pathways or process.logit_losses]
        return distilling[:MOST_TIMED] or [self._plain_kd]

    def _passes(self, process: Process) -> int:
        """How many needs of its losses cost a pass more."""
        losses = (one.loss for one in process.pathways if isinstance(one, FeatureLoss))
        cards = (self.cards.get(f"{Kind.FEATURE_LOSS}/{loss}", {}) for loss in losses)
        return sum(len(ASKING_AGAIN & set(card.get("needs", ()))) for card in cards)

    def _longest(self, transforms: Sequence[str | MethodUse], losses: Choices) -> Process:
        """The process with the most pathways through these transforms, beside these losses."""
        spec, space = self.setting.spec, self.setting.spec.search.space
        dimensions = dimensions_of(spec)
        # The widest transforms cost most.
        widest = {each.name: each.at(1.0) for each in dimensions if each.name.startswith(f"{TRANSFORMS}.")}
        start: Choices = {**starting_choices(dimensions), **widest, **losses}
        choices: list[Choices] = [
            {
                **start,
                "connections": as_choice(name),
                TRANSFORMS: as_uses(transforms),
                DISTANCES: as_uses(distances),
            }
            for name, distances in product(space.connections, space.distances)
        ]
        usable = filter(None, map(self._pathways, choices))
        return starting_process(spec, start, max(usable, key=len, default=[]), self.cards)

    def _losses(self) -> list[Choices]:
        """For every set of feature losses the largest of logit losses that can be used with it, the largest
        first; no losses where none can be used."""
        spec, space = self.setting.spec, self.setting.spec.search.space
        pairs: list[Choices] = [
            {LOGIT_LOSSES: as_uses(logits), FEATURE_LOSSES: as_uses(features)}
            for logits, features in sorted(
                product(space.logit_losses, space.feature_losses),
                key=lambda pair: -sum(map(len, pair)),
            )
        ]
        usable = [pair for pair in pairs if refusal_of(spec, pair, [], self.cards) is None]
        firsts = {json.dumps(pair[FEATURE_LOSSES]): pair for pair in reversed(usable)}
        found = [pair for pair in usable if firsts[json.dumps(pair[FEATURE_LOSSES])] is pair]
        return found or [{LOGIT_LOSSES: [], FEATURE_LOSSES: []}]

    def _pathways(self, choices: Choices) -> list[AnyPathway] | None:
        """Those of these choices; None where their methods cannot be used together."""
        facts, size = MapFacts.of(self.cards), self.dataset.size
        found = pathways_between(choices, self.teacher.stages, self.student.stages, facts, input_size=size)
        is_usable = refusal_of(self.setting.spec, choices, found, self.cards) is None
        return found if is_usable else None
