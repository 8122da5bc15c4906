"""The last steps of a search, kept for reversal: the meta loss after them, differentiated by the process.

One step needs one `slope` along u. Several are reversed one after the other, the last first: the meta loss's
gradient goes back through the optimiser's step (`search.hypergradient.adjoint`) and through the gradient
(`Approximation.pull_back`), and every step adds its slope, since the process was the same in all of them. The
transforms train beside the student, so they are part of what is carried back, although the meta loss itself
does not depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search.hypergradient import Approximation, HyperGradient, Step
from search.hypergradient.adjoint import Adjoint, Update, pull_through


@dataclass(frozen=True)
class Taken:
    """A step that was taken: its losses, and what the optimiser did to each parameter."""

    step: Step
    updates: Mapping[str, Update]


def reversed_window(
    window: Sequence[Taken],
    meta_gradient: Mapping[str, Tensor],
    approximation: Approximation,
    *,
    at_constant_length: bool = False,
) -> HyperGradient:
    """d meta loss / d process, of the steps in the order in which they were taken.

    `meta_gradient` is the meta loss's gradient after the last step, by `student.NAME`. With
    `at_constant_length` it is the derivative at constant length of the student's gradient, in each step
    (`across`).
    """
    adjoints = {name: Adjoint(value) for name, value in meta_gradient.items()}
    found: HyperGradient | None = None
    for taken in reversed(window[1:]):
        slope, adjoints = _reversed_step(taken, adjoints, approximation, at_constant_length)
        found = slope if found is None else found + slope
    direction = {
        name: pull_through(taken_update, before=window[0].step.before[name], after=adjoints[name])[0]
        for name, taken_update in window[0].updates.items()
        if name in adjoints
    }
    if at_constant_length:
        direction = across(direction, window[0].updates)
    first = approximation.slope(window[0].step, direction)
    return first if found is None else found + first


def _reversed_step(
    taken: Taken, adjoints: Mapping[str, Adjoint], approximation: Approximation, at_constant_length: bool
) -> tuple[HyperGradient, dict[str, Adjoint]]:
    step = taken.step
    through = {
        name: pull_through(update, before=step.before[name], after=adjoints[name])
        for name, update in taken.updates.items()
        if name in adjoints
    }
    direction = {name: by for name, (by, _) in through.items()}
    slope, hessian = approximation.pull_back(step, direction)
    if at_constant_length:
        slope = approximation.slope(step, across(direction, taken.updates))
    # A parameter without a gradient did not move: its adjoint passes the step as it is.
    earlier = {name: through[name][1]() if name in through else adjoint for name, adjoint in adjoints.items()}
    return slope, {
        name: earlier[name].plus(value) if name in earlier else Adjoint(value)
        for name, value in hessian.items()
    }


def across(direction: Mapping[str, Tensor], updates: Mapping[str, Update]) -> dict[str, Tensor]:
    """The part of u that is at right angles to the student's gradient G: u - (<u, G> / <G, G>) G.

    A loss's slope along it says what more of that loss would do at an unchanged length of the gradient.
    Under SGD the losses' weights together are a factor of the learning rate, and one step ahead a smaller
    rate looks better wherever the real one overshoots (short-horizon bias): without this part a search turns
    every weight down, whatever the losses teach.
    """
    gradients = {
        name: update.gradient
        for name, update in updates.items()
        if name in direction and name.startswith("student.") and update.gradient is not None
    }
    if not gradients:
        return dict(direction)
    sums = [(direction[name] * gradient).sum() for name, gradient in gradients.items()]
    sums += [gradient.square().sum() for gradient in gradients.values()]
    products = torch.stack(sums).tolist()  # one wait for the device, not two for each parameter
    along, squared = sum(products[: len(gradients)]), sum(products[len(gradients) :])
    if squared == 0.0:
        return dict(direction)
    share = along / squared
    return {
        name: value - share * gradients[name] if name in gradients else value
        for name, value in direction.items()
    }
