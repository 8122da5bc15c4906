"""d(meta loss after one optimiser step) / d(process): one approximation per file, one shared signature.

Each approximation is a function of a `Lookahead` that returns a `HyperGradient`; it leaves weights, buffers
and random state as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from torch import Tensor

from search.problems import NonFiniteFigure

if TYPE_CHECKING:
    from search.batches import Batch
    from search.losses import DistillationLosses
    from search.models import TappedModel
    from search.process import Effective


@dataclass(frozen=True)
class HyperGradient:
    """Gradient of the meta loss with respect to the effective values; float64 vectors on the CPU.

    Zero for pathways that were not active.
    """

    logit_weights: Tensor  # (L,)
    pathway_weights: Tensor  # (P,)
    teacher_temperatures: Tensor  # (L,)
    student_temperatures: Tensor  # (L,)

    def require_finite(self) -> None:
        """Raise NonFiniteFigure naming the part that is not finite."""
        for part in fields(self):
            if not bool(getattr(self, part.name).isfinite().all()):
                raise NonFiniteFigure(
                    f"the hypergradient of the {part.name.replace('_', ' ')} is not finite: lower the "
                    "learning rate or that of the process"
                )


@dataclass(frozen=True)
class Lookahead:
    """One optimiser step that was taken, and the meta batch it is judged by.

    `before` and `losses_before` are the student's and the transforms' parameters before the step by name
    (the meta loss does not depend on the transforms: they have no tangent), `tangent` the direction
    (d step / d gradient)^T v in which the losses of `batch` are differentiated at `before`
    (`search.hypergradient.adjoint`), v being the meta loss's gradient after the step. `active` are the
    indices of the pathways that were computed.
    """

    student: TappedModel
    losses: DistillationLosses
    batch: Batch
    effective: Effective
    active: tuple[int, ...]
    before: Mapping[str, Tensor]
    losses_before: Mapping[str, Tensor]
    tangent: Mapping[str, Tensor]
    random_seed: int


Approximation = Callable[[Lookahead], HyperGradient]
