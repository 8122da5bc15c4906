"""The adjoint of one optimiser step: how what came after it answers to what went in.

A step maps parameters theta, the optimiser's moments s and the gradient g to theta' and s'. Given the meta
loss's gradient with respect to theta' and s', `pull_through` returns it with respect to g (the direction u in
which the training losses are differentiated), and directly to theta and s. All optimisers here act on each
element alone, so every formula is elementwise. Gradient clipping would couple the elements; the training loop
does not clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

# Where no gradient has ever come the root of the second moment has an infinite slope, but the gradient that
# multiplies it is zero.
TINY = 1e-18


@dataclass(frozen=True)
class Update:
    """What the optimiser did to one parameter: its settings, and its tensors as they were after the step."""

    kind: str
    settings: Mapping[str, float]
    gradient: Tensor | None = None
    moments: Mapping[str, Tensor] = field(default_factory=dict)

    def kept(self) -> Update:
        """A copy that the optimiser's next step does not overwrite; gradients are made anew by each step."""
        moments = {name: value.clone() for name, value in self.moments.items()}
        return Update(self.kind, self.settings, self.gradient, moments)

    def state(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {**vars(self), "settings": dict(self.settings), "moments": dict(self.moments)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], own: Callable[[Tensor], Tensor]) -> Update:
        """From a state, whose tensors go through `own`."""
        gradient = state["gradient"]
        return cls(
            state["kind"],
            state["settings"],
            None if gradient is None else own(gradient),
            {name: own(value) for name, value in state["moments"].items()},
        )


@dataclass(frozen=True)
class Adjoint:
    """The meta loss's gradient with respect to one parameter and to its moments (without entry: zero)."""

    parameter: Tensor
    moments: Mapping[str, Tensor] = field(default_factory=dict)

    def plus(self, parameter: Tensor) -> Adjoint:
        """With more on the parameter."""
        return Adjoint(self.parameter + parameter, self.moments)


def updates_of(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Update]:
    """The step just taken, with the gradients still in `.grad`; without parameters that had no gradient.

    Raises TypeError for an optimiser, or a setting of one, whose adjoint is not known.
    """
    read = _readers.get(type(optimizer))
    if read is None:
        raise TypeError(f"no adjoint is known for {type(optimizer).__name__}; use SGD, Adam or AdamW")
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for group in optimizer.param_groups:
        unknown = [name for name in ("maximize", "dampening", "amsgrad") if group.get(name)]
        if unknown:
            raise TypeError(f"no adjoint is known for {type(optimizer).__name__} with {unknown[0]}")
    moved = {name: value for name, value in parameters.items() if value.grad is not None}
    counts = _step_counts([optimizer.state[parameter] for parameter in moved.values()])
    return {
        name: read(
            groups[id(parameter)] | {"step": count}, optimizer.state[parameter], cast(Tensor, parameter.grad)
        )
        for (name, parameter), count in zip(moved.items(), counts, strict=True)
    }


def _step_counts(states: list[dict[str, Any]]) -> list[float]:
    """How many steps the optimiser has taken of each parameter; fused optimisers count on the device, which
    is asked once. SGD does not count.
    """
    counted = [state["step"] for state in states if "step" in state]
    if len(counted) < len(states):
        return [0.0] * len(states)
    return torch.stack(counted).tolist() if counted else []


def _read_sgd(group: dict[str, Any], state: dict[str, Any], gradient: Tensor) -> Update:
    settings = {name: float(group[name]) for name in ("lr", "weight_decay", "momentum", "nesterov")}
    return Update("sgd", settings, gradient)


def _read_adam(group: dict[str, Any], state: dict[str, Any], gradient: Tensor) -> Update:
    settings = {name: float(group[name]) for name in ("lr", "weight_decay", "eps", "decoupled_weight_decay")}
    settings |= {"beta1": group["betas"][0], "beta2": group["betas"][1], "step": group["step"]}
    return Update("adam", settings, gradient, {name: state[name] for name in ("exp_avg", "exp_avg_sq")})


_readers = {torch.optim.SGD: _read_sgd, torch.optim.Adam: _read_adam, torch.optim.AdamW: _read_adam}


def pull_through(update: Update, *, before: Tensor, after: Adjoint) -> tuple[Tensor, Callable[[], Adjoint]]:
    """u = the adjoint of the gradient; and, when asked for, that of the parameter (but for what comes through
    the gradient) and of the moments before the step.
    """
    through = _through_sgd if update.kind == "sgd" else _through_adam
    return through(update, before, after)


def _through_sgd(update: Update, before: Tensor, after: Adjoint) -> tuple[Tensor, Callable[[], Adjoint]]:
    """d = g + decay theta; b' = momentum b + d; theta' = theta - rate (d + momentum b', or b', or d)."""
    settings = update.settings
    by_step = after.parameter * -settings["lr"]
    momentum = settings["momentum"]
    by_buffer = None
    by_gradient = by_step
    if momentum:
        by_buffer = by_step * momentum if settings["nesterov"] else by_step
        if "momentum_buffer" in after.moments:
            by_buffer = by_buffer + after.moments["momentum_buffer"]
        by_gradient = by_buffer + by_step if settings["nesterov"] else by_buffer

    def earlier() -> Adjoint:
        moments = {} if by_buffer is None else {"momentum_buffer": by_buffer * momentum}
        return Adjoint(after.parameter + by_gradient * settings["weight_decay"], moments)

    return by_gradient, earlier


def _through_adam(update: Update, before: Tensor, after: Adjoint) -> tuple[Tensor, Callable[[], Adjoint]]:
    """m' = beta1 m + (1 - beta1) g; v' = beta2 v + (1 - beta2) g^2; theta moves by -rate m^ / (root v^ + e),
    with m^ and v^ corrected for their start. AdamW decays theta beside that; Adam adds decay theta to g.
    """
    settings, rate = update.settings, update.settings["lr"]
    decay, is_decoupled = settings["weight_decay"], bool(settings["decoupled_weight_decay"])
    beta1, beta2, step = settings["beta1"], settings["beta2"], settings["step"]
    correction1, correction2 = 1.0 - beta1**step, 1.0 - beta2**step
    gradient = update.gradient
    assert gradient is not None
    if decay and not is_decoupled:
        gradient = gradient + decay * before
    root = (update.moments["exp_avg_sq"] / correction2).sqrt_()
    by_mean = after.parameter * (-rate / correction1) / (root + settings["eps"])
    by_root = by_mean * update.moments["exp_avg"] / -(root + settings["eps"])
    by_square = by_root / (root.clamp(min=TINY) * (2.0 * correction2)) * (root > 0)
    if after.moments:
        by_mean = by_mean + after.moments["exp_avg"]
        by_square = by_square + after.moments["exp_avg_sq"]
    by_gradient = by_mean * (1.0 - beta1) + by_square * gradient * (2.0 * (1.0 - beta2))

    def earlier() -> Adjoint:
        kept = (
            after.parameter * (1.0 - rate * decay) if is_decoupled else after.parameter + by_gradient * decay
        )
        return Adjoint(kept, {"exp_avg": by_mean * beta1, "exp_avg_sq": by_square * beta2})

    return by_gradient, earlier
