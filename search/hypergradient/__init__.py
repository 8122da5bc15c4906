"""d(meta loss after the last optimiser steps) / d(process): one approximation per file, one shared contract.

With u the direction in which a step's gradient moves the meta loss (`search.hypergradient.adjoint`), all
that a step contributes are directional derivatives of its training losses along u: `slope`. Looking several
steps ahead also needs the Hessian of the training loss times u, which carries the meta gradient over the
step: `pull_back`. `search.hypergradient.window` composes them. The formulas are in docs/hypergradients.md.

Contract of a method (Kind.HYPERGRADIENT): a class without arguments that is an `Approximation`. It leaves
weights, buffers, gradients and random state as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from search import registry
from search.problems import NonFiniteFigure
from search.registry import Kind, import_siblings

if TYPE_CHECKING:
    from search.models.tapped import TappedModel
    from search.process import Effective
    from search.training.batches import Batch
    from search.training.losses import DistillationLosses
    from search.training.precision import Precision

__all__ = ["Approximation", "HyperGradient", "Parameters", "Step", "build_approximation"]

Parameters = Mapping[str, Tensor]
"""Of student and transforms, or one tensor for each, by `student.NAME` and `losses.NAME`."""


@dataclass(frozen=True)
class HyperGradient:
    """Gradient of the meta loss with respect to the effective values, and to the transforms' meta parameters
    (M in all, in the order of `DistillationLosses.meta_parameters`); float64 vectors on the CPU.

    Zero for pathways that were not active.
    """

    logit_weights: Tensor  # (L,)
    pathway_weights: Tensor  # (P,)
    teacher_temperatures: Tensor  # (L,)
    student_temperatures: Tensor  # (L,)
    meta_parameters: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))  # (M,)

    def __add__(self, other: HyperGradient) -> HyperGradient:
        return HyperGradient(
            **{part.name: getattr(self, part.name) + getattr(other, part.name) for part in fields(self)}
        )

    def require_finite(self) -> None:
        """Raise NonFiniteFigure naming the part that is not finite."""
        for part in fields(self):
            if not bool(getattr(self, part.name).isfinite().all()):
                raise NonFiniteFigure(
                    f"the hypergradient of the {part.name.replace('_', ' ')} is not finite: lower the "
                    "learning rate or that of the process"
                )


@dataclass(frozen=True)
class Step:
    """The training losses of one step that was taken: the point at which they are differentiated.

    `before` are the parameters before the step, `parts` the parts of its batch with one random seed each
    (the loss is the mean over the parts), `active` the indices of the pathways that were computed. The meta
    parameters are still those of the step: a window ends before they are moved.
    """

    student: TappedModel
    losses: DistillationLosses
    before: Parameters
    parts: Sequence[Batch]
    random_seeds: Sequence[int]
    effective: Effective
    active: tuple[int, ...]
    precision: Precision = "float32"

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.before.values())).device


class Approximation(Protocol):
    """A way to differentiate the losses of a step along a direction u (a name without entry: zero)."""

    def slope(self, step: Step, direction: Parameters) -> HyperGradient:
        """d/dw <u, grad L(theta, w)>, for w the effective weights, temperatures and meta parameters."""
        ...

    def pull_back(self, step: Step, direction: Parameters) -> tuple[HyperGradient, dict[str, Tensor]]:
        """The same, and the Hessian of the training loss in all parameters times u."""
        ...


def of_module(values: Parameters, prefix: str) -> dict[str, Tensor]:
    """The entries of the `student` or of the `losses`, by the module's own names."""
    start = len(prefix) + 1
    return {name[start:]: value for name, value in values.items() if name.startswith(f"{prefix}.")}


def build_approximation(name: str) -> Approximation:
    """The approximation of that name; UnknownMethodError names those there are."""
    approximation: Approximation = registry.get(Kind.HYPERGRADIENT, name).factory()
    return approximation


import_siblings(__name__, list(__path__))
