"""The one training loop: all arms, the teacher too, are runs of it.

A run is a function of its parameters, data and seed. Data order, augmentation, mixing and dropout of a step
are pure functions of (seed, step), so that generators and the sampler's position need no keeping: the whole
state is one dict, and a continued run is bitwise the same on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search.data import ImageSet
from search.features import Pair, pair_of
from search.hypergradient import Approximation, build_approximation
from search.label_free import why_labels
from search.models import TappedModel
from search.problems import SearchProblem, require_finite
from search.process import Effective, LearnedProcess, ReplayedProcess
from search.randomness import Seeded
from search.recipe import FeatureLoss, Process
from search.records import RunParameters
from search.spec import Training
from search.training.allocation import keep_freed_memory
from search.training.averaging import WeightAverage
from search.training.batches import Batch, Batches, TeacherOutputs, Teaching
from search.training.compilation import compiled
from search.training.extras import Extras, view_outputs
from search.training.learning import ProcessLearning, training_seed
from search.training.lessons import LessonPlan
from search.training.loss_scaling import LossScaling
from search.training.losses import DistillationLosses
from search.training.optimizers import make_optimizer, make_schedule
from search.training.precision import forward_taps


@dataclass(frozen=True)
class Report:
    """A row of figures after `step` optimiser updates."""

    step: int
    epoch: float
    figures: dict[str, float]
    is_validation: bool


@dataclass(frozen=True)
class Material:
    """What a run works on. `meta` is needed to learn a process; `teacher_outputs` serves kept outputs in
    place of the teacher's forward pass, where it keeps the stages that a step needs."""

    student: TappedModel
    teacher: TappedModel | None
    train: ImageSet
    meta: ImageSet | None = None
    teacher_outputs: TeacherOutputs | None = None
    validate: Callable[[TappedModel], dict[str, float]] | None = None


class Distillation:
    """One training run. `steps()` yields once per optimiser update; `state()` and `load()` in between."""

    def __init__(
        self,
        material: Material,
        parameters: RunParameters,
        training: Training,
        *,
        seed: int,
        augmentation_seed: int = 0,
        device: str = "cpu",
        max_steps: int | None = None,
        hypergradient: Approximation | None = None,
    ) -> None:
        self.material, self.parameters, self.training = material, parameters, training
        self.seed, self.device = seed, torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.is_labelled = material.train.is_labelled
        self._require_labels()
        self.student = self._placed(material.student).train()
        self.teacher = self._placed(material.teacher).eval() if material.teacher else None
        process, learn = parameters.process, parameters.learn
        self.losses = DistillationLosses(
            process,
            teacher=self.teacher.stages if self.teacher else [],
            student=self.student.stages,
            seed=seed,
            label_smoothing=training.label_smoothing,
            pair=self._pair(),
            is_labelled=self.is_labelled,
        ).to(self.device)
        self._attach_part()
        self.batches = Batches(
            material.train,
            material.meta,
            training,
            seed=seed,
            augmentation_seed=augmentation_seed,
            device=self.device,
            dtype=next(self.student.parameters()).dtype,
            classes=self._classes,
            teacher=self.teacher,
            teacher_outputs=material.teacher_outputs,
        )
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = min(parameters.epochs * self.steps_per_epoch, max_steps or 10**12)
        self.optimizer = make_optimizer(
            training, student=self.student, losses=self.losses, device=self.device
        )
        self.schedule = make_schedule(
            training, self.optimizer, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch
        )
        self.scaling = LossScaling(training.precision, self.device)
        self.average = (
            WeightAverage(self.student, decay=training.ema_decay) if training.ema_decay is not None else None
        )
        self.extras = Extras(self.losses, self.batches, self.student, seed=seed)
        self._forward = compiled(forward_taps) if training.torch_compile else forward_taps
        self.learned = LearnedProcess(process, learn) if learn else None
        self.process: LearnedProcess | ReplayedProcess = self.learned or ReplayedProcess(process)
        self.learning = (
            ProcessLearning(
                self.learned,
                learn,
                student=self.student,
                losses=self.losses,
                optimizer=self.optimizer,
                batches=self.batches,
                extras=self.extras,
                hypergradient=hypergradient or build_approximation(learn.hypergradient),
            )
            if self.learned and learn
            else None
        )
        self.lessons = LessonPlan(self.losses, self.batches, self.student, training, seed=seed)
        self.step = 0
        self.seconds = 0.0

    def _require_labels(self) -> None:
        """Raise SearchProblem `labels_needed` where the process needs labels and there are none."""
        reason = None if self.is_labelled else why_labels(self.parameters.process)
        if reason is not None:
            raise SearchProblem(
                f"{reason}, but the images have no labels here: use a process without, or set data.labels to "
                "`given`",
                code="labels_needed",
            )

    def _pair(self) -> Pair | None:
        """As feature losses are told of the models, where there are any."""
        whole = any(isinstance(one, FeatureLoss) for one in self.parameters.process.pathways)
        if self.teacher is None or not whole:
            return None
        images, taps = len(self.material.train.labels), self.parameters.process.taps
        return pair_of(self.student, self.teacher, images=images, taps=taps)

    def _attach_part(self) -> None:
        """What a loss gives the student before its logits. Raises SearchProblem for a second one."""
        for loss in self.losses.feature_losses():
            if loss.student_part is not None:
                if self.training.channels_last:
                    loss.student_part.to(memory_format=torch.channels_last)
                try:
                    self.student.attach(loss.student_part)
                except ValueError as error:
                    raise SearchProblem(
                        f"{error}; choose one loss that does so", code="methods_do_not_combine"
                    ) from error

    def steps(self) -> Iterator[Report | None]:
        """Train to the end; a Report when figures are due. Raises NonFiniteFigure when a figure is not
        finite.
        """
        while self.step < self.total_steps:
            started = time.perf_counter()
            self.lessons.give(self.step)
            read_figures = self._update()
            self.step += 1
            # Figures are read from the device only when due: reading them waits for it.
            figures = read_figures() if self._is_report_due or self._is_validation_due else None
            self.seconds += time.perf_counter() - started
            yield self._report(figures) if figures is not None else None

    def _update(self) -> Callable[[], dict[str, float]]:
        effective = self.process.at(self.step / self.total_steps)
        active = self.active(effective)
        batch = self.batch(active)
        parts = batch.parts(self.training.accumulate_parts)
        self.optimizer.zero_grad(set_to_none=True)
        losses = [
            self._backward(part, len(parts), number, effective, active) for number, part in enumerate(parts)
        ]
        if self._step(batch, effective, active):
            self._observe(batch, [logits for _, _, logits in losses])
        for loss in self.losses.feature_losses():
            loss.share()
        rate = self.optimizer.param_groups[0]["lr"]
        self.schedule.step(self.step + 1)
        if self.average is not None:
            self.average.update(self.student, self.step + 1)
        return lambda: {
            "loss": sum(float(loss) for loss, _, _ in losses),
            **self._cross_entropy(losses),
            "learning_rate": rate,
            **self.scaling.figures(),
            **effective.figures(self.parameters.process),
        }

    def _cross_entropy(self, losses: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
        return {"cross_entropy": sum(float(each) for _, each, _ in losses)} if self.is_labelled else {}

    def _backward(
        self, part: Batch, parts: int, number: int, effective: Effective, active: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of a part of the batch are added up; its shares of loss and cross-entropy, and the
        student's logits."""
        with Seeded(training_seed(self.seed, self.step, number), self.device):
            logits, maps = self._forward(
                self.student,
                part.images,
                self._stages(active),
                taps=self.losses.process.taps,
                precision=self.training.precision,
            )
            views = view_outputs(self.student, self.losses, part, precision=self.training.precision)
            loss, cross_entropy = self.losses.total(
                effective,
                active=active,
                student_logits=logits,
                teacher_logits=part.teacher_logits,
                student_maps=maps,
                teacher_maps=part.teacher_maps,
                targets=part.targets,
                indices=part.indices,
                extras=part.extras,
                views=views,
            )
        if parts > 1:
            loss, cross_entropy = loss / parts, cross_entropy / parts
        self.scaling.scaled(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), cross_entropy.detach(), logits.detach()

    def _observe(self, batch: Batch, parts: list[Tensor]) -> None:
        """Show temperature rules that follow the training what this step's batch gave."""
        rules = self.process.rules
        if rules.follow_training and batch.teacher_logits is not None:
            logits = torch.cat(parts)
            rules.observe(
                logits,
                batch.teacher_logits[: len(logits)],
                batch.targets[: len(logits)],
                progress=self.step / self.total_steps,
            )

    def _stages(self, active: tuple[int, ...]) -> list[int]:
        """The student's stages to be read. A compiled pass reads all that any pathway needs: each other set
        would be compiled anew.
        """
        return self.losses.student_stages(None if self.training.torch_compile else active)

    def _step(self, batch: Batch, effective: Effective, active: tuple[int, ...]) -> bool:
        """Whether the step was taken: it is left out at an overflow in float16."""
        learning = self.learning
        is_taken = self.scaling.unscale(self.optimizer)
        if not is_taken:
            if learning is not None:
                learning.skipped(self.step)
        else:
            if learning is not None:
                learning.before(self.step)
            self.scaling.step(self.optimizer)
            if learning is not None:
                learning.after(self.step, batch=batch, effective=effective, active=active)
        self.scaling.adapt()
        return is_taken

    def active(self, effective: Effective) -> tuple[int, ...]:
        """The pathways to be computed at this step: all at the first, which measures their scales; later
        those that weigh something, and in a search now and then all, so that each can come back.
        """
        is_every = self.step == 0 or (self.learning is not None and self.learning.is_retry(self.step))
        return effective.active(0.0 if is_every else self.parameters.process.skip_below)

    def batch(self, active: tuple[int, ...] | None = None) -> Batch:
        """The training batch of this step, with what these pathways (by default all) need of the teacher."""
        teaching = Teaching(
            stages=self.losses.teacher_stages(active),
            logits=self.losses.needs_logits(active),
            taps=self.losses.process.taps,
        )
        return self.extras.completed(self.batches.at(self.step, teaching), self.step, active)

    def meta_batch(self) -> tuple[Tensor, Tensor]:
        """The meta images of this step and their labels."""
        learn = self.parameters.learn
        return self.batches.meta_at(self.step, learn.meta_batch_size if learn else None)

    @property
    def _is_validation_due(self) -> bool:
        epoch, beyond = divmod(self.step, self.steps_per_epoch)
        is_due = beyond == 0 and epoch % self.training.validate_every_epochs == 0
        return self.material.validate is not None and (is_due or self.step == self.total_steps)

    @property
    def _is_report_due(self) -> bool:
        return self.step % self.training.report_every_steps == 0 or self.step == self.total_steps

    def _report(self, figures: dict[str, float]) -> Report:
        is_validation = self._is_validation_due
        if is_validation and self.material.validate is not None:
            figures = figures | self.material.validate(self.trained)
            self.student.train()
        require_finite(figures, step=self.step)
        return Report(self.step, self.step / self.steps_per_epoch, figures, is_validation)

    @property
    def trained(self) -> TappedModel:
        """What is evaluated and exported: the average of the student's weights where one is kept."""
        return self.student if self.average is None else self.average.model

    @property
    def _classes(self) -> int:
        classes: Any = self.student.network.num_classes
        return int(classes)

    def _placed(self, model: TappedModel) -> TappedModel:
        memory_format = torch.channels_last if self.training.channels_last else torch.preserve_format
        placed: TappedModel = model.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]
        return placed

    def recorded(self) -> Process:
        """The process as replayed or as learned so far, with the scales measured."""
        process = self.process.recorded([float(scale) for scale in self.losses.scales])
        return self.learning.meta_parameters.recorded(process) if self.learning else process

    def state(self) -> dict[str, Any]:
        """All that is needed to continue from here, of tensors and plain values."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "student": self.student.state_dict(),
            "losses": self.losses.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaling": self.scaling.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "process": self.process.state(),
            "learning": self.learning.state() if self.learning else {},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state of a run with the same parameters, data and seed."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.student.load_state_dict(state["student"])
        self.losses.load_state_dict(state["losses"])
        self.losses.is_measured = self.step > 0
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaling.load_state_dict(state["scaling"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.process.load(state["process"])
        if self.learning is not None:
            self.learning.load(state["learning"])


if __name__ == "__main__":
    from search.commands.distilling import run

    run()
