"""The exact directional derivatives: one forward-mode pass, or the Hessian by reverse over reverse.

The training loss is linear in the weights: d/dw_p <u, grad L> = <u, grad L_p>, one Jacobian-vector product of
the vector of losses along u. A temperature enters its loss non-linearly: with z the logits and dz their
tangent, d/dtau <u, grad KD> = d/dtau <dKD/dz, dz>, a small backward pass on the logits alone. A transform's
meta parameters are treated likewise, on the maps (`search.hypergradient.through_maps`).
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache

import torch
import torch.autograd.forward_ad as fwd
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from search.features import ModelOutputs
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
from search.hypergradient.through_maps import by_meta_parameters
from search.problems import SearchProblem
from search.randomness import RandomState
from search.registry import Kind, register
from search.training.extras import StudentOutputs

SLOPES = ("logit_weights", "pathway_weights", "teacher_temperatures", "student_temperatures")


@register(
    Kind.HYPERGRADIENT,
    "exact",
    source="Baydin et al. 2022, arXiv 2202.08587 (forward mode); SAMA, 2310.05674",
)
class Exact:
    """Forward-mode differentiation of the training losses; exact up to rounding, in bfloat16 too."""

    def slope(self, step: Step, direction: Parameters) -> HyperGradient:
        """One forward pass of student and losses with tangents, and no graph through the network."""
        _silence_torch()
        try:
            parts = [_slopes(step, part, direction) for part in range(len(step.parts))]
        except NotImplementedError as error:
            raise SearchProblem(
                f"{step.student.name} or a pathway has an operation without a forward-mode derivative "
                f"({str(error).splitlines()[0]}); set search.process.hypergradient to finite_difference, or "
                "choose another student",
                code="model_unsupported",
            ) from error
        return gathered(step, {name: torch.stack([s[name] for s in parts]).mean(0) for name in parts[0]})

    def pull_back(self, step: Step, direction: Parameters) -> tuple[HyperGradient, dict[str, Tensor]]:
        """The gradient's graph, contracted with u, differentiated once more."""
        count = len(step.parts)
        slopes: dict[str, Tensor] = {}
        hessian: dict[str, Tensor] = {}
        for part in range(count):
            for kept, found in zip((slopes, hessian), _second_order(step, part, direction), strict=True):
                for name, value in found.items():
                    kept[name] = kept[name] + value / count if name in kept else value / count
        slopes["pathway_weights"] = slopes["pathway_weights"][list(step.active)]
        return gathered(step, slopes), hessian


def _slopes(step: Step, part: int, direction: Parameters) -> dict[str, Tensor]:
    # Fused attention has no forward-mode derivative; the mathematical one is the same function.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), fwd.dual_level(), seeded(step, part):
        duals = {
            name: _dual(value, direction[name]) if name in direction else value
            for name, value in step.before.items()
        }
        outputs = student_again(step, part, duals, step.precision, exact_tangents=True)
        plain, tangent = _primal(outputs.logits).clone(), _tangent(outputs.logits).clone()
        by_pathway = by_meta = plain.new_zeros(0)
        meta = meta_leaves(step)
        before_pathways = RandomState(step.device) if meta else None
        if step.active:
            by_pathway = _tangent(pathways_again(step, part, duals, outputs)).clone()
        if before_pathways is not None:
            before_pathways.come_back()
            tangents = {stage: _tangent(one).clone() for stage, one in outputs.maps.items()}
            by_meta = by_meta_parameters(step, part, meta, direction, _values(outputs), tangents)
    return {
        "pathway_weights": by_pathway,
        META: by_meta,
        **_by_logits(step, part, logits=plain, tangent=tangent),
    }


def _by_logits(step: Step, part: int, *, logits: Tensor, tangent: Tensor) -> dict[str, Tensor]:
    """Derivatives with respect to the logit losses' weights and temperatures; (L,) each."""
    effective = step.effective
    temperatures = (
        effective.teacher_temperatures.to(logits, copy=True).requires_grad_(True),
        effective.student_temperatures.to(logits, copy=True).requires_grad_(True),
    )
    with torch.enable_grad():
        leaf = logits.requires_grad_(True)
        values = logit_losses_again(step, part, leaf, temperatures)
        if not len(values):
            return dict.fromkeys(SLOPES[:1] + SLOPES[2:], logits.new_zeros(0))
        slopes = torch.stack(
            [(torch.autograd.grad(value, leaf, create_graph=True)[0] * tangent).sum() for value in values]
        )
        by_temperature = torch.autograd.grad(
            slopes @ effective.logit_weights.to(slopes),
            temperatures,
            allow_unused=True,
            materialize_grads=True,
        )
    return dict(zip(SLOPES[:1] + SLOPES[2:], (slopes, *by_temperature), strict=True))


def _second_order(
    step: Step, part: int, direction: Parameters
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """d <u, grad L> / d (weights, temperatures, meta parameters), and / d parameters."""
    leaves = {name: value.detach().requires_grad_(True) for name, value in step.before.items()}
    like = next(iter(leaves.values())).detach()
    vectors = {
        name: getattr(step.effective, name).to(like, copy=True).requires_grad_(True) for name in SLOPES
    }
    meta = meta_leaves(step)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        effective = replace(step.effective, **vectors)
        loss = loss_again(step, part, leaves | meta, effective=effective, precision=step.precision)
        asked = [name for name in leaves if name in direction]
        gradients = torch.autograd.grad(
            loss, [leaves[name] for name in asked], create_graph=True, allow_unused=True
        )
        along = [
            (gradient * direction[name]).sum()
            for name, gradient in zip(asked, gradients, strict=True)
            if gradient is not None
        ]
        found = torch.autograd.grad(
            torch.stack(along).sum(),
            [*vectors.values(), *leaves.values(), *meta.values()],
            allow_unused=True,
            materialize_grads=True,
        )
    slopes = dict(zip(vectors, found, strict=False))
    hessian = dict(zip(leaves, found[len(vectors) :], strict=False))
    by_meta = flat(found[len(vectors) + len(leaves) :], like=like)
    return slopes | {META: by_meta}, hessian


def _values(outputs: StudentOutputs) -> StudentOutputs:
    """The same without tangents."""
    logits, maps, views = outputs
    plain = {stage: _primal(one).clone() for stage, one in maps.items()}
    plain_views = {
        place: ModelOutputs(_primal(view.logits), {tap: _primal(one) for tap, one in view.maps.items()})
        for place, view in views.items()
    }
    return StudentOutputs(_primal(logits).clone(), plain, plain_views)


@cache
def _silence_torch() -> None:
    """torch compiles its forward-mode formulas with its own deprecated scripting, and warns of it."""
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = fwd.make_dual(value, tangent)  # type: ignore[no-untyped-call]
    return dual


def _primal(value: Tensor) -> Tensor:
    primal: Tensor = fwd.unpack_dual(value).primal  # type: ignore[no-untyped-call]
    return primal


def _tangent(value: Tensor) -> Tensor:
    tangent: Tensor | None = fwd.unpack_dual(value).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(value) if tangent is None else tangent
