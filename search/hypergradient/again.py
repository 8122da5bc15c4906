"""The training pass of a step once more, with other parameters: what all approximations differentiate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search.hypergradient import HyperGradient, Parameters, Step, of_module
from search.randomness import Seeded
from search.training.extras import StudentOutputs, view_outputs
from search.training.precision import Precision, forward_taps

if TYPE_CHECKING:
    from search.process import Effective
    from search.training.losses import DistillationLosses

META = "meta_parameters"


def seeded(step: Step, part: int) -> Seeded:
    """The step's own randomness, which student and then transforms draw from."""
    return Seeded(step.random_seeds[part], step.device)


def student_again(
    step: Step,
    part: int,
    parameters: Parameters,
    precision: Precision,
    *,
    exact_tangents: bool = False,
) -> StudentOutputs:
    """Logits and the maps that the active pathways need; to be called inside `seeded`."""
    own = of_module(parameters, "student")
    batch = step.parts[part]
    logits, maps = forward_taps(
        step.student,
        batch.images,
        step.losses.student_stages(step.active),
        taps=step.losses.process.taps,
        precision=precision,
        parameters=own,
        keep_buffers=True,
        exact_tangents=exact_tangents,
    )
    views = view_outputs(
        step.student,
        step.losses,
        batch,
        precision=precision,
        parameters=own,
        exact_tangents=exact_tangents,
    )
    return StudentOutputs(logits, maps, views)


def pathways_again(step: Step, part: int, parameters: Parameters, outputs: StudentOutputs) -> Tensor:
    """The unit-scaled losses (A,) of the active pathways, of what the student says.

    Of the losses' buffers those are replaced that `parameters` names: meta parameters.
    """
    logits, maps, views = outputs
    batch = step.parts[part]
    # torch's own tie_weights puts back the wrong tensors where pathways share a transform: its parameters
    # would then be others than the optimiser's. One name of each is enough, as they share the module.
    values: Tensor = torch.func.functional_call(
        step.losses,
        _replaced(step, parameters),
        (maps, batch.teacher_maps, step.active, batch.beside(logits, views)),
        tie_weights=False,
    )
    return values


def loss_again(
    step: Step, part: int, parameters: Parameters, *, effective: Effective, precision: Precision
) -> Tensor:
    """The training loss, 0-dim, differentiable in the effective weights and temperatures too."""
    batch = step.parts[part]
    with seeded(step, part):
        logits, maps, views = student_again(step, part, parameters, precision)
        replaced = {f"losses.{name}": value for name, value in _replaced(step, parameters).items()}
        loss: Tensor = torch.func.functional_call(
            _Total(step.losses),
            replaced,
            (effective,),
            {
                "active": step.active,
                "student_logits": logits,
                "teacher_logits": batch.teacher_logits,
                "student_maps": maps,
                "teacher_maps": batch.teacher_maps,
                "targets": batch.targets,
                "indices": batch.indices,
                "extras": batch.extras,
                "views": views,
            },
            tie_weights=False,
        )
    return loss


def logit_losses_again(step: Step, part: int, logits: Tensor, temperatures: tuple[Tensor, Tensor]) -> Tensor:
    """The logit losses (L,) of these logits at these temperatures of teacher and student."""
    batch = step.parts[part]
    values = step.losses.logit_losses(
        logits,
        batch.teacher_logits,
        batch.targets,
        teacher_temperatures=temperatures[0],
        student_temperatures=temperatures[1],
    )
    return torch.stack(values) if values else logits.new_zeros(0)


def meta_leaves(step: Step) -> dict[str, Tensor]:
    """The transforms' meta parameters by `losses.NAME`, to be differentiated by."""
    named = step.losses.meta_parameters()
    return {f"losses.{name}": value.detach().clone().requires_grad_(True) for name, value in named.items()}


def flat(values: Iterable[Tensor], *, like: Tensor) -> Tensor:
    """All numbers of the tensors as one vector, empty where there are none."""
    return torch.cat([like.new_zeros(0), *(value.flatten() for value in values)])


def gathered(step: Step, slopes: Mapping[str, Tensor]) -> HyperGradient:
    """The hypergradient of slopes on the device, their pathways the active ones only: one wait for it all."""
    names = ("logit_weights", "teacher_temperatures", "student_temperatures", "pathway_weights")
    losses = len(step.effective.logit_weights)
    all_slopes = torch.cat([slopes[name].detach() for name in (*names, META)]).cpu().double()
    sizes = [losses, losses, losses, len(step.active), len(slopes[META])]
    logit, teacher, student, active, meta = torch.split(all_slopes, sizes)
    pathway = torch.zeros(len(step.effective.pathway_weights), dtype=torch.float64)
    pathway[list(step.active)] = active
    return HyperGradient(logit, pathway, teacher, student, meta)


def _replaced(step: Step, parameters: Parameters) -> dict[str, Tensor]:
    """What stands for the losses' own tensors, each by one name.

    To be called without `tie_weights`: torch puts back the wrong tensors where two places share a module, and
    pathways share their transform.
    """
    buffers = {name: value.clone() for name, value in step.losses.named_buffers()}
    return buffers | of_module(parameters, "losses")


class _Total(nn.Module):
    """`DistillationLosses.total` as a module's forward."""

    def __init__(self, losses: DistillationLosses) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, effective: Effective, **outputs: object) -> Tensor:
        loss, _ = self.losses.total(effective, **outputs)  # type: ignore[arg-type]
        return loss
