"""The one training loop: all arms, the teacher too, are runs of it.

A run is a function of its parameters, data and seed. Data order, augmentation and dropout of a step are pure
functions of (seed, step), so that the whole state is one dict and a continued run is bitwise the same on the
CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from search.augment import views
from search.data import ImageSet, as_float
from search.hypergradient import Approximation, Batch, Lookahead
from search.hypergradient.adjoint import step_adjoint
from search.hypergradient.exact import call_with, exact
from search.losses import DistillationLosses
from search.models import TappedModel
from search.optimizers import make_optimizer, make_schedule
from search.problems import require_finite
from search.process import LearnedProcess, ReplayedProcess
from search.recipe import Process
from search.records import RunParameters
from search.spec import Training

TeacherLogits = Callable[[Tensor, int], Tensor]
"""(indices, view) -> logits (B, K)."""


@dataclass(frozen=True)
class Report:
    """A row of figures after `step` optimiser updates."""

    step: int
    epoch: float
    figures: dict[str, float]
    is_validation: bool


@dataclass(frozen=True)
class Material:
    """What a run works on. `meta` is needed to learn a process; `teacher_logits` serves cached logits by
    (indices, view) in place of the teacher's forward pass, where there are no pathways."""

    student: TappedModel
    teacher: TappedModel | None
    train: ImageSet
    meta: ImageSet | None = None
    teacher_logits: TeacherLogits | None = None
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
        hypergradient: Approximation = exact,
    ) -> None:
        self.material, self.parameters, self.training = material, parameters, training
        self.seed, self.device, self.hypergradient = seed, torch.device(device), hypergradient
        # All runs of a job see the same views, so that teacher outputs on them can be shared.
        self.augmentation_seed = augmentation_seed
        self.student = material.student.to(self.device).train()
        self.teacher = material.teacher.to(self.device).eval() if material.teacher else None
        process = parameters.process
        self.losses = DistillationLosses(
            process,
            teacher=self.teacher.stages if self.teacher else [],
            student=self.student.stages,
            seed=seed,
        ).to(self.device)
        self.learned = LearnedProcess(process, parameters.learn) if parameters.learn else None
        self.process: LearnedProcess | ReplayedProcess = self.learned or ReplayedProcess(process)
        self.batch_size = min(training.batch_size, len(material.train.labels))
        self.steps_per_epoch = len(material.train.labels) // self.batch_size
        self.total_steps = min(parameters.epochs * self.steps_per_epoch, max_steps or 10**12)
        self.optimizer = make_optimizer(training, [*self.student.parameters(), *self.losses.parameters()])
        self.schedule = make_schedule(training, self.optimizer, self.total_steps)
        self.step = 0
        self.seconds = 0.0
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def steps(self) -> Iterator[Report | None]:
        """Train to the end; a Report when figures are due. Raises NonFiniteFigure when a figure is not
        finite.
        """
        while self.step < self.total_steps:
            started = time.perf_counter()
            read_figures = self._update()
            self.step += 1
            # Figures are read from the device only when due: reading them waits for it.
            figures = read_figures() if self._is_report_due or self._is_validation_due else None
            self.seconds += time.perf_counter() - started
            yield self._report(figures) if figures is not None else None

    def _update(self) -> Callable[[], dict[str, float]]:
        progress = self.step / self.total_steps
        effective = self.process.at(progress)
        batch = self.batch()
        random_seed = mix(self.seed, 2, self.step)
        with self._randomness(random_seed):
            logits, maps = self.student.forward_taps(batch.images, self.losses.student_stages)
            loss, cross_entropy = self.losses.total(
                effective,
                student_logits=logits,
                teacher_logits=batch.teacher_logits,
                student_maps=maps,
                teacher_maps=batch.teacher_maps,
                targets=batch.targets,
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        learn = self.parameters.learn
        if self.learned is not None and learn is not None and self.step % learn.update_every_steps == 0:
            before, losses_before = _copies(self.student), _copies(self.losses)
            self.optimizer.step()
            lookahead = Lookahead(
                student=self.student,
                losses=self.losses,
                batch=batch,
                effective=effective,
                before=before,
                losses_before=losses_before,
                tangent=self._tangent(),
                random_seed=random_seed,
            )
            self.learned.update(self.hypergradient(lookahead))
        else:
            self.optimizer.step()
        rate = self.optimizer.param_groups[0]["lr"]
        self.schedule.step()
        return lambda: {
            "loss": float(loss.detach()),
            "cross_entropy": float(cross_entropy.detach()),
            "learning_rate": rate,
            **effective.figures(self.parameters.process),
        }

    def _tangent(self) -> dict[str, Tensor]:
        """The meta loss's gradient after the step, pulled back through the step."""
        images, targets = self.meta_batch()
        named = dict(self.student.named_parameters())
        with self._randomness(mix(self.seed, 3, self.step)):
            logits, _ = call_with(self.student, [], named, images)
        loss = F.cross_entropy(logits, targets)
        # A parameter that the logits do not depend on has no say in the meta loss.
        vectors = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
        return dict(
            zip(named, step_adjoint(self.optimizer, list(named.values()), list(vectors)), strict=True)
        )

    def batch(self) -> Batch:
        """The training batch of this step: a pure function of (seed, step)."""
        epoch, position = divmod(self.step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, permutation(len(self.material.train.labels), mix(self.seed, 0, epoch)))
        indices = self._order[1][position * self.batch_size : (position + 1) * self.batch_size]
        view = epoch % self.training.views
        images = self._images(self.material.train, indices, view)
        targets = self.material.train.labels[indices].to(self.device)
        logits, maps = self._teach(images, indices, view)
        return Batch(images, targets, logits, maps)

    def _teach(self, images: Tensor, indices: Tensor, view: int) -> tuple[Tensor | None, dict[int, Tensor]]:
        if self.teacher is None or not (self.parameters.process.logit_losses or self.losses.teacher_stages):
            return None, {}
        if self.material.teacher_logits is not None and not self.losses.teacher_stages:
            return self.material.teacher_logits(indices, view).to(self.device), {}
        with torch.no_grad():
            return self.teacher.forward_taps(images, self.losses.teacher_stages)

    def meta_batch(self) -> tuple[Tensor, Tensor]:
        """A seeded sample of the meta split, augmented like the training images."""
        meta, learn = self.material.meta, self.parameters.learn
        assert meta is not None
        assert learn is not None
        size = min(learn.meta_batch_size or self.batch_size, len(meta.labels))
        indices = permutation(len(meta.labels), mix(self.seed, 1, self.step))[:size]
        view = (self.step // self.steps_per_epoch) % self.training.views
        return self._images(meta, indices, view), meta.labels[indices].to(self.device)

    def _images(self, images: ImageSet, indices: Tensor, view: int) -> Tensor:
        raw = images.images[indices].to(self.device)
        augmented = views(
            raw,
            indices=indices.to(self.device),
            seed=self.augmentation_seed,
            view=view,
            policy=self.training.augmentation,
        )
        return as_float(augmented, dtype=next(self.student.parameters()).dtype)

    def _randomness(self, seed: int) -> _Seeded:
        return _Seeded(seed, self.device)

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
            figures = figures | self.material.validate(self.student)
            self.student.train()
        require_finite(figures, step=self.step)
        return Report(self.step, self.step / self.steps_per_epoch, figures, is_validation)

    def recorded(self) -> Process:
        """The process as replayed or as learned so far, with the scales measured."""
        return self.process.recorded([float(scale) for scale in self.losses.scales])

    def state(self) -> dict[str, Any]:
        """All that is needed to continue from here, of tensors and plain values."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "student": self.student.state_dict(),
            "losses": self.losses.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "process": self.process.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state of a run with the same parameters, data and seed."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.student.load_state_dict(state["student"])
        self.losses.load_state_dict(state["losses"])
        self.losses.is_measured = self.step > 0
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.process.load(state["process"])


class _Seeded:
    """Dropout and the like from a seed of their own; the caller's random state is left as it was."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self._fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *error: object) -> None:
        self._fork.__exit__(*error)  # type: ignore[arg-type]


def _copies(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def permutation(size: int, seed: int) -> Tensor:
    """A seeded order of 0..size-1, drawn on the CPU so that it is the same on every device."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def mix(*parts: int) -> int:
    """One 63-bit seed of several numbers (splitmix64 over them), so that neighbours do not share streams."""
    value = 0
    for part in parts:
        value = (value + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value >> 1


if __name__ == "__main__":
    from search.distill_command import run

    run()
