"""The exact derivative by the transforms' meta parameters, without a graph through the network.

With F the student's maps, W the transforms' trained parameters, and dF and dW their tangents along u, which a
forward-mode pass has given: <u, grad L_p> = <dL_p/dF, dF> + <dL_p/dW, dW>. What a meta parameter changes of
it is a backward pass through these two gradients, on the pathways alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from search.hypergradient import Parameters, Step
from search.hypergradient.again import flat, pathways_again
from search.training.extras import StudentOutputs


def by_meta_parameters(
    step: Step,
    part: int,
    meta: Mapping[str, Tensor],
    direction: Parameters,
    outputs: StudentOutputs,
    tangents: Mapping[int, Tensor],
) -> Tensor:
    """d <u, grad of the training loss> / d meta parameters, (M,); zero where no pathway of theirs is active.

    `meta` are leaves by `losses.NAME`, `outputs` the student's without a graph, `tangents` those of its maps;
    to be called where the random numbers stand as before the pathways.
    """
    nothing = flat((torch.zeros_like(value) for value in meta.values()), like=outputs.logits)
    weights = _weights(step)
    if not weights:
        return nothing
    trained = {
        name: value.detach().requires_grad_(True)
        for name, value in step.before.items()
        if name.startswith("losses.") and name in direction
    }
    maps = {stage: value.detach().requires_grad_(True) for stage, value in outputs.maps.items()}
    with torch.enable_grad():
        values = pathways_again(step, part, {**step.before, **trained, **meta}, outputs._replace(maps=maps))
        loss = torch.stack([weight * values[row] for row, weight in weights.items()]).sum()
        along = [tangents[stage] for stage in maps] + [direction[name] for name in trained]
        slope = _along(loss, [*maps.values(), *trained.values()], along)
        if not slope.requires_grad:
            return nothing
        found = torch.autograd.grad(slope, [*meta.values()], allow_unused=True, materialize_grads=True)
    return flat(found, like=outputs.logits)


def _weights(step: Step) -> dict[int, float]:
    """Of those active pathways that have meta parameters, by their row among the active ones."""
    owned = {place for owner in step.losses.meta_owners() for place in owner.pathways}
    weights = step.effective.pathway_weights.tolist()
    return {row: weights[place] for row, place in enumerate(step.active) if place in owned}


def _along(loss: Tensor, leaves: list[Tensor], tangents: list[Tensor]) -> Tensor:
    """<gradient, tangent>, with its graph."""
    gradients = torch.autograd.grad(
        loss, leaves, create_graph=True, allow_unused=True, materialize_grads=True
    )
    products = [(gradient * tangent).sum() for gradient, tangent in zip(gradients, tangents, strict=True)]
    return torch.stack(products).sum()
