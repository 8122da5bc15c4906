"""Central differences along u, as DARTS and DistPro have them: two forward passes and no backward pass.

The radius of the two points is 0.01 in weight space. Always in float32: rounding in bfloat16 makes the
difference wrong by a tenth of itself up to many times itself (docs/hypergradients.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from search.hypergradient import HyperGradient, Parameters, Step
from search.hypergradient.again import (
    META,
    flat,
    gathered,
    logit_losses_again,
    loss_again,
    meta_leaves,
    pathways_again,
    seeded,
    student_again,
)
from search.method_card import Card
from search.registry import Kind, register
from search.training.extras import StudentOutputs
from search.training.precision import Precision

RADIUS = 1e-2
Values = dict[str, Tensor]


@register(
    Kind.HYPERGRADIENT,
    "finite_difference",
    source="DARTS, Liu et al. 2019, arXiv 1806.09055; DistPro",
    card=Card(
        systems=("distpro",),
        differences="DistPro moves the weights themselves there and back, which leaves rounding in them; "
        "here both points are computed beside them, in float32.",
    ),
)
class FiniteDifference:
    """Central differences of the losses at two points beside the weights, in float32."""

    def __init__(self, *, radius: float = RADIUS, precision: Precision = "float32") -> None:
        self.radius, self.precision = radius, precision

    def slope(self, step: Step, direction: Parameters) -> HyperGradient:
        """Two forward passes of student and losses."""

        def values(parameters: Parameters) -> Values:
            return self._mean([self._values(step, part, parameters) for part in range(len(step.parts))])

        return gathered(step, self._difference(step, direction, values))

    def pull_back(self, step: Step, direction: Parameters) -> tuple[HyperGradient, dict[str, Tensor]]:
        """Two forward and backward passes: the Hessian times u is the difference of two gradients."""

        def values(parameters: Parameters) -> Values:
            parts = range(len(step.parts))
            return self._mean(
                [
                    self._values(step, part, parameters) | self._gradient(step, part, parameters)
                    for part in parts
                ]
            )

        found = self._difference(step, direction, values)
        return gathered(step, found), {name: found[name] for name in step.before}

    def _difference(
        self, step: Step, direction: Parameters, values: Callable[[Parameters], Values]
    ) -> Values:
        squares = torch.stack([value.square().sum() for value in direction.values()])
        epsilon = self.radius / squares.sum().sqrt().clamp(min=1e-30)
        plus, minus = (
            values(
                {
                    name: value + sign * epsilon * direction[name] if name in direction else value
                    for name, value in step.before.items()
                }
            )
            for sign in (1.0, -1.0)
        )
        return {name: (plus[name] - minus[name]) / (2.0 * epsilon) for name in plus}

    def _mean(self, parts: list[Values]) -> Values:
        return {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}

    def _values(self, step: Step, part: int, parameters: Parameters) -> Values:
        """The losses, and their derivatives by temperatures and by the transforms' meta parameters."""
        with torch.no_grad(), seeded(step, part):
            outputs = student_again(step, part, parameters, self.precision)
            logits = outputs.logits
            pathways, by_meta = _pathways(step, part, parameters, outputs)
        effective = step.effective
        temperatures = (
            effective.teacher_temperatures.to(logits, copy=True).requires_grad_(True),
            effective.student_temperatures.to(logits, copy=True).requires_grad_(True),
        )
        with torch.enable_grad():
            values = logit_losses_again(step, part, logits, temperatures)
            teacher, student = (
                temperatures
                if not len(values)
                else torch.autograd.grad(
                    values @ effective.logit_weights.to(values),
                    temperatures,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
        return {
            "logit_weights": values.detach(),
            "pathway_weights": pathways,
            META: by_meta,
            "teacher_temperatures": teacher.detach(),
            "student_temperatures": student.detach(),
        }

    def _gradient(self, step: Step, part: int, parameters: Parameters) -> Values:
        leaves = {name: value.detach().requires_grad_(True) for name, value in parameters.items()}
        with torch.enable_grad():
            loss = loss_again(step, part, leaves, effective=step.effective, precision=self.precision)
        gradients = torch.autograd.grad(
            loss, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        return dict(zip(leaves, gradients, strict=True))


def _pathways(
    step: Step, part: int, parameters: Parameters, outputs: StudentOutputs
) -> tuple[Tensor, Tensor]:
    """The active pathways' losses (A,), and the derivative of their weighted sum by meta parameters (M,)."""
    logits, meta = outputs.logits, meta_leaves(step)
    nothing = flat((torch.zeros_like(value) for value in meta.values()), like=logits)
    if not step.active:
        return logits.new_zeros(0), nothing
    with torch.set_grad_enabled(bool(meta)):
        values = pathways_again(step, part, {**parameters, **meta}, outputs)
        loss = values @ step.effective.pathway_weights[list(step.active)].to(values)
    if not loss.requires_grad:
        return values.detach(), nothing
    found = torch.autograd.grad(loss, [*meta.values()], allow_unused=True, materialize_grads=True)
    return values.detach(), flat(found, like=logits)
