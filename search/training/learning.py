"""What a search does beside training: after some steps it asks the meta batch, and updates the process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search.devices import whole_float32
from search.hypergradient import Approximation, Step, of_module
from search.hypergradient.adjoint import Update, updates_of
from search.hypergradient.again import loss_again
from search.hypergradient.window import Taken, reversed_window
from search.models import TappedModel
from search.process import Effective, LearnedMetaParameters, LearnedProcess
from search.randomness import Seeded, mix
from search.records import Learning
from search.training.batches import Batch, Batches, Teaching
from search.training.extras import Extras
from search.training.losses import DistillationLosses
from search.training.meta_losses import MetaBatchLoss

FLOAT16_SCALE = 1024.0
"""Of the meta loss in float16, whose small gradients would else be rounded to zero."""


class ProcessLearning:
    """Updates a learned process by the hypergradient of steps that were taken.

    Of every `update_every_steps` steps the first `lookahead_steps` are kept; after the last of them the meta
    batch judges all of them, and the process and the transforms' meta parameters are updated.
    """

    def __init__(
        self,
        process: LearnedProcess,
        learn: Learning,
        *,
        student: TappedModel,
        losses: DistillationLosses,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        extras: Extras,
        hypergradient: Approximation,
    ) -> None:
        self.process, self.learn, self.hypergradient, self.extras = process, learn, hypergradient, extras
        self.student, self.losses, self.optimizer, self.batches = student, losses, optimizer, batches
        self._meta_loss = MetaBatchLoss(
            learn.meta_loss,
            student=student,
            teacher=batches.teacher,
            precision=batches.training.precision,
        )
        self.meta_parameters = LearnedMetaParameters(losses, learn)
        self._live = {f"student.{name}": value for name, value in student.named_parameters()}
        self._live |= {f"losses.{name}": value for name, value in losses.named_parameters()}
        # Copies are made into the same memory again and again: fresh pages cost more than the copy.
        self._copies: list[dict[str, Tensor]] = []
        self._window: list[_Kept] = []

    def is_update(self, step: int) -> bool:
        """Whether the process is updated after this step."""
        return step % self.learn.update_every_steps == self.learn.lookahead_steps - 1

    def is_retry(self, step: int) -> bool:
        """Whether at this step pathways of negligible weight are computed too."""
        update, position = divmod(step, self.learn.update_every_steps)
        return update % self.learn.retry_every_updates == 0 and position < self.learn.lookahead_steps

    def before(self, step: int) -> None:
        """To be called just before the optimiser's step, with the gradients in place."""
        position = step % self.learn.update_every_steps
        if position < self.learn.lookahead_steps:
            if position == 0:
                self._window = []
            while len(self._copies) <= position:
                self._copies.append({name: torch.empty_like(value) for name, value in self._live.items()})
            with torch.no_grad():
                torch._foreach_copy_(list(self._copies[position].values()), list(self._live.values()))

    def after(self, step: int, *, batch: Batch, effective: Effective, active: tuple[int, ...]) -> None:
        """To be called just after the optimiser's step, with the gradients still in place.

        Raises NonFiniteFigure.
        """
        position = step % self.learn.update_every_steps
        if position >= self.learn.lookahead_steps:
            return
        updates = updates_of(self.optimizer, self._live)
        if not self.is_update(step):
            updates = {name: update.kept() for name, update in updates.items()}
        self._window.append(_Kept(step, self._copies[position], updates, effective, active, batch))
        if self.is_update(step):
            self._update(step)

    def skipped(self, step: int) -> None:
        """To be called instead of `after` where the optimiser's step was left out: an overflow in float16."""
        if self.is_update(step) and self._window:
            self._update(step)

    def _update(self, step: int) -> None:
        window, self._window = self._window, []
        meta_gradient = self._meta_gradient(step)
        if self._overflowed(meta_gradient):
            return
        taken = [Taken(self._step(kept), kept.updates) for kept in window]
        with whole_float32():
            found = reversed_window(
                taken,
                meta_gradient,
                self.hypergradient,
                at_constant_length=self.learn.at_constant_length,
            )
            if self.process.length.is_due:
                self._measure_length(taken[0])
        # A pathway that was left out of some of the steps has only a part of its gradient: it waits.
        active = sorted(set.intersection(*(set(kept.active) for kept in window)))
        self.process.update(found, active=active)
        self.meta_parameters.update(found.meta_parameters, active=active)

    def _measure_length(self, taken: Taken) -> None:
        """Of the student's gradient in this step, beside what the starting weights' would have been."""
        gradients = [
            update.gradient
            for name, update in taken.updates.items()
            if name.startswith("student.") and update.gradient is not None
        ]
        starting = self._starting_gradient(taken.step)
        self.process.length.measured(start=_squared_length(starting), now=_squared_length(gradients))

    def _starting_gradient(self, step: Step) -> list[Tensor]:
        scale = FLOAT16_SCALE if step.precision == "float16" else 1.0
        leaves = {name: value.detach().requires_grad_(True) for name, value in step.before.items()}
        asked = [value for name, value in leaves.items() if name.startswith("student.")]
        total: list[Tensor] = []
        for part in range(len(step.parts)):
            loss = loss_again(step, part, leaves, effective=self.process.starting(), precision=step.precision)
            found = torch.autograd.grad(
                loss * (scale / len(step.parts)), asked, allow_unused=True, materialize_grads=True
            )
            total = list(found) if not total else list(torch._foreach_add(total, found))
        return total if scale == 1.0 else list(torch._foreach_div(total, scale))

    def _overflowed(self, meta_gradient: Mapping[str, Tensor]) -> bool:
        """Whether float16 could not hold the meta gradient: the update is left out, as a step would be."""
        if self.batches.training.precision != "float16":
            return False
        return not all(bool(value.isfinite().all()) for value in meta_gradient.values())

    def _step(self, kept: _Kept) -> Step:
        parts = self._batch(kept).parts(self.batches.training.accumulate_parts)
        return Step(
            student=self.student,
            losses=self.losses,
            before=kept.before,
            parts=parts,
            random_seeds=[training_seed(self.batches.seed, kept.step, part) for part in range(len(parts))],
            effective=kept.effective,
            active=kept.active,
            precision=self.batches.training.precision,
        )

    def _batch(self, kept: _Kept) -> Batch:
        if kept.batch is not None:
            return kept.batch
        stages = self.losses.teacher_stages(kept.active)
        has_logits = self.losses.needs_logits(kept.active)
        batch = self.batches.at(kept.step, Teaching(stages, has_logits, self.losses.process.taps))
        own = of_module(kept.before, "student")
        return self.extras.completed(batch, kept.step, kept.active, parameters=own)

    def _meta_gradient(self, step: int) -> dict[str, Tensor]:
        """The meta loss's gradient after the step, by the student's parameters."""
        images, targets = self.batches.meta_at(step, self.learn.meta_batch_size)
        training = self.batches.training
        scale = FLOAT16_SCALE if training.precision == "float16" else 1.0
        named = dict(self.student.named_parameters())
        total: list[Tensor] = []
        with Seeded(mix(self.batches.seed, 3, step), self.batches.device):
            # In as many parts as the training batch, which has to fit into memory too.
            for rows in torch.arange(len(images)).tensor_split(min(training.accumulate_parts, len(images))):
                part = slice(int(rows[0]), int(rows[-1]) + 1)
                loss = self._meta_loss.of(images[part], targets[part]) * (scale * len(rows) / len(images))
                # A parameter that the meta loss does not depend on has no say in it.
                found = torch.autograd.grad(
                    loss, list(named.values()), allow_unused=True, materialize_grads=True
                )
                total = list(found) if not total else list(torch._foreach_add(total, found))
        if scale != 1.0:
            total = list(torch._foreach_div(total, scale))
        return {f"student.{name}": vector for name, vector in zip(named, total, strict=True)}

    def state(self) -> dict[str, Any]:
        """Meta parameters, and the steps of a window that is not full yet; tensors and plain values."""
        return {
            "window": [kept.state() for kept in self._window],
            "meta_parameters": self.meta_parameters.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state; batches are made again when they are needed."""
        device = self.batches.device
        self.meta_parameters.load(state.get("meta_parameters", {}))
        self._window = [_Kept.from_state(kept, device) for kept in state["window"]]
        # The next window writes into these: they are the state's no more.
        self._copies = [dict(kept.before) for kept in self._window]


@dataclass(frozen=True)
class _Kept:
    """A step of the window: the parameters before it, and what the optimiser did to them."""

    step: int
    before: Mapping[str, Tensor]
    updates: Mapping[str, Update]
    effective: Effective
    active: tuple[int, ...]
    batch: Batch | None

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "before": dict(self.before),
            "updates": {name: update.state() for name, update in self.updates.items()},
            "effective": dict(vars(self.effective)),
            "active": list(self.active),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> _Kept:
        def own(value: Tensor) -> Tensor:
            return value.to(device, copy=True)

        return cls(
            step=state["step"],
            before={name: own(value) for name, value in state["before"].items()},
            updates={name: Update.from_state(update, own) for name, update in state["updates"].items()},
            effective=Effective(**state["effective"]),
            active=tuple(state["active"]),
            batch=None,
        )


def _squared_length(vectors: list[Tensor]) -> float:
    """Of all of them as one vector."""
    if not vectors:
        return 0.0
    # Summed on the CPU, where there is float64.
    return float(torch.stack(torch._foreach_norm(vectors)).cpu().double().square().sum())


def training_seed(seed: int, step: int, part: int = 0) -> int:
    """Of the randomness inside the training forward pass of one part of a step's batch."""
    return mix(seed, 2, step) if part == 0 else mix(seed, 2, step, part)
