"""Optimisers and learning-rate schedules of a run, from its training settings, through timm's factories."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from search.spec import Training

FUSED_DEVICES = ("cpu", "cuda")


def make_optimizer(
    training: Training, *, student: nn.Module, losses: nn.Module, device: torch.device
) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW on the student and on the transforms of its losses.

    As timm has it, weights are decayed, but no biases, norms, nor what the network itself names
    (`no_weight_decay`: position embeddings, class tokens).
    """
    own: dict[str, Any] = {"momentum": training.momentum} if training.optimizer == "sgd" else {}
    if training.optimizer == "sgd":
        own["nesterov"] = training.nesterov and training.momentum > 0
    # One kernel for all parameters: on a small net the steps of many small tensors are felt.
    own["fused"] = device.type in FUSED_DEVICES
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        _groups(student, losses, weight_decay=training.weight_decay),
        opt=training.optimizer,
        lr=training.learning_rate,
        weight_decay=0.0,
        **own,
    )
    return optimizer


def _groups(student: nn.Module, losses: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    network = getattr(student, "network", student)
    part: nn.Module | None = getattr(student, "part", None)
    exempt: set[str] = getattr(network, "no_weight_decay", set)()
    parts = {"part": part} if part is not None else {}
    groups: list[dict[str, Any]] = param_groups_weight_decay(
        nn.ModuleDict({"network": network, **parts, "losses": losses}),
        weight_decay=weight_decay,
        no_weight_decay_list={f"network.{name}" for name in exempt},
    )
    return groups


class Schedule(Protocol):
    """The learning rate of every update."""

    def step(self, updates: int) -> None:
        """Set the rate of the next update, after so many."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to continue, beside the optimiser's state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        ...


def make_schedule(
    training: Training, optimizer: torch.optim.Optimizer, *, total_steps: int, steps_per_epoch: int
) -> Schedule:
    """Stepped once per update over `total_steps` updates.

    The warm-up rises linearly from one step's share of the peak; after it the cosine takes the rest of the
    run, while milestones are parts of the whole run.
    """
    if training.schedule == "onecycle":
        return _OneCycle(training, optimizer, total_steps)
    warm_up = min(round(training.warmup_epochs * steps_per_epoch), total_steps - 1)
    return _ByTimm(training, optimizer, total_steps, warm_up)


class _OneCycle:
    """torch's, which timm has not."""

    def __init__(self, training: Training, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        # Momentum is not cycled: the hypergradient's adjoint reads one momentum per run.
        self._schedule = OneCycleLR(
            optimizer, max_lr=training.learning_rate, total_steps=total_steps + 1, cycle_momentum=False
        )

    def step(self, updates: int) -> None:
        self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return self._schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._schedule.load_state_dict(state)


class _ByTimm:
    """Its schedules are functions of the number of updates, so that there is nothing to keep."""

    def __init__(
        self, training: Training, optimizer: torch.optim.Optimizer, total_steps: int, warm_up: int
    ) -> None:
        is_cosine = training.schedule == "cosine"
        self._schedule, _ = create_scheduler_v2(
            optimizer,
            sched=training.schedule,
            num_epochs=total_steps - warm_up if is_cosine else total_steps,
            # timm's milestone m holds from the update before m; these hold from m itself.
            decay_milestones=[round(part * total_steps) + 1 for part in training.milestones],
            decay_rate=training.decay_rate,
            warmup_epochs=warm_up,
            warmup_lr=training.learning_rate / max(warm_up, 1),
            warmup_prefix=is_cosine,
            step_on_epochs=False,
            updates_per_epoch=1,
        )
        self.step(0)

    def step(self, updates: int) -> None:
        self._schedule.step_update(updates)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The rate itself is among the optimiser's groups."""
