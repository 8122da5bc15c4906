"""The exact one-step hypergradient of all weights and temperatures by one forward-mode pass.

The training loss is linear in the weights: d L_meta(theta') / d w_p = <u, grad L_p(theta)>, one
Jacobian-vector product of the vector of losses along u. A temperature enters its loss non-linearly: with z
the logits and dz their tangent, d/dtau <u, grad_theta KD> = d/dtau <dKD/dz, dz>, a small backward pass on
the logits alone. Both are exact. (DARTS and DistPro difference two forward passes instead; under bf16 that
is wrong by 10-350%.)
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache

import torch
import torch.autograd.forward_ad as fwd
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from search.hypergradient import HyperGradient, Lookahead
from search.models import TappedModel


class _Taps(nn.Module):
    """`forward_taps` as a module's forward, so that parameters and buffers can be replaced for one call."""

    def __init__(self, model: TappedModel, stages: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.stages = list(stages)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        return self.model.forward_taps(images, self.stages)


def call_with(
    model: TappedModel, stages: Sequence[int], parameters: Mapping[str, Tensor], images: Tensor
) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits and maps of the model with other parameters and copies of its buffers (which BatchNorm writes
    to).
    """
    replaced = {f"model.{name}": value for name, value in parameters.items()}
    buffers = {f"model.{name}": value.clone() for name, value in model.named_buffers()}
    result: tuple[Tensor, dict[int, Tensor]] = torch.func.functional_call(
        _Taps(model, stages), (replaced, buffers), (images,)
    )
    return result


def exact(lookahead: Lookahead) -> HyperGradient:
    """One forward-mode pass of the student and the losses, then one small backward pass on the logits."""
    losses, batch = lookahead.losses, lookahead.batch
    _silence_torch()
    # Fused attention has no forward-mode derivative; the mathematical one is the same function.
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices=_devices(batch.images)),
        sdpa_kernel(SDPBackend.MATH),
        fwd.dual_level(),
    ):
        torch.manual_seed(lookahead.random_seed)
        duals = {name: _dual(value, lookahead.tangent[name]) for name, value in lookahead.before.items()}
        logits, maps = call_with(
            lookahead.student, losses.student_stages(lookahead.active), duals, batch.images
        )
        by_pathway = torch.zeros(len(losses.process.pathways), dtype=torch.float64)
        if lookahead.active:
            values = torch.func.functional_call(
                losses,
                (dict(lookahead.losses_before), {name: b.clone() for name, b in losses.named_buffers()}),
                (maps, batch.teacher_maps, lookahead.active),
            )
            by_pathway[list(lookahead.active)] = _tangent(values).double().cpu()
        plain_logits, logits_tangent = _primal(logits).clone(), _tangent(logits).clone()
    return HyperGradient(
        pathway_weights=by_pathway, **_by_logit_losses(lookahead, plain_logits, logits_tangent)
    )


@cache
def _silence_torch() -> None:
    """torch compiles its forward-mode formulas with its own deprecated scripting, and warns of it."""
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)


def _by_logit_losses(lookahead: Lookahead, logits: Tensor, tangent: Tensor) -> dict[str, Tensor]:
    """Derivatives with respect to the logit losses' weights and temperatures; (L,) each."""
    batch, effective = lookahead.batch, lookahead.effective
    temperatures = [
        temperatures.to(logits, copy=True).requires_grad_(True)
        for temperatures in (effective.teacher_temperatures, effective.student_temperatures)
    ]
    with torch.enable_grad():
        leaf = logits.requires_grad_(True)
        values = lookahead.losses.logit_losses(
            leaf,
            batch.teacher_logits,
            batch.targets,
            teacher_temperatures=temperatures[0],
            student_temperatures=temperatures[1],
        )
        slopes = [
            (torch.autograd.grad(value, leaf, create_graph=True)[0] * tangent).sum() for value in values
        ]
        by_temperature: list[Tensor | None] = [None, None]
        if slopes:
            weighted = torch.stack(slopes) @ effective.logit_weights.to(logits)
            by_temperature = list(torch.autograd.grad(weighted, temperatures, allow_unused=True))
    none = torch.zeros(len(values), dtype=torch.float64)
    teacher, student = (none if g is None else g.double().cpu() for g in by_temperature)
    return {
        "logit_weights": torch.stack([s.detach().double().cpu() for s in slopes]) if slopes else none,
        "teacher_temperatures": teacher,
        "student_temperatures": student,
    }


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = fwd.make_dual(value, tangent)  # type: ignore[no-untyped-call]
    return dual


def _primal(value: Tensor) -> Tensor:
    primal: Tensor = fwd.unpack_dual(value).primal  # type: ignore[no-untyped-call]
    return primal


def _tangent(value: Tensor) -> Tensor:
    tangent: Tensor | None = fwd.unpack_dual(value).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(value) if tangent is None else tangent


def _devices(images: Tensor) -> list[torch.device]:
    return [images.device] if images.device.type == "cuda" else []
