"""The adjoint of one optimiser step: how the weights after it answer to the gradient that went in.

theta' = step(theta, g). Given v = dL/dtheta', these functions return u = (d theta' / d g)^T v, so that
dL/dw_p = <u, grad L_p(theta)> for a training loss that is linear in its weights w. All optimisers here act on
each element alone, so u is an elementwise product. Gradient clipping would couple the elements; the loop does
not clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def step_adjoint(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], vectors: Sequence[Tensor]
) -> list[Tensor]:
    """u for each parameter, from the optimiser's state just AFTER the step and the gradients still in
    `.grad`.

    Raises TypeError for an optimiser whose adjoint is not known.
    """
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    adjoint = _adjoints.get(type(optimizer))
    if adjoint is None:
        raise TypeError(f"no adjoint is known for {type(optimizer).__name__}; use SGD or AdamW")
    return [
        adjoint(groups[id(parameter)], optimizer.state[parameter], parameter, vector)
        for parameter, vector in zip(parameters, vectors, strict=True)
    ]


def _sgd(group: dict, state: dict, parameter: Tensor, vector: Tensor) -> Tensor:  # type: ignore[type-arg]
    # Momentum alone passes the new gradient on with factor 1 - dampening; Nesterov adds momentum times that.
    passed = 1.0 - group["dampening"] if group["momentum"] else 1.0
    factor = 1.0 + group["momentum"] * passed if group["nesterov"] else passed
    return vector * (-float(group["lr"]) * factor)


def _adamw(group: dict, state: dict, parameter: Tensor, vector: Tensor) -> Tensor:  # type: ignore[type-arg]
    """m_hat / (sqrt(v_hat) + eps), differentiated by the gradient in both moments."""
    gradient = parameter.grad
    assert gradient is not None
    beta1, beta2 = group["betas"]
    step = float(state["step"])
    correction1, correction2 = 1.0 - beta1**step, 1.0 - beta2**step
    mean = state["exp_avg"] / correction1
    root = (state["exp_avg_sq"] / correction2).sqrt()
    denominator = root + group["eps"]
    by_mean = (1.0 - beta1) / correction1 / denominator
    # d root / d g = (1 - beta2) g / (correction2 * root); where root is 0 so is g, and the product is 0.
    root_slope = torch.where(
        root > 0, (1.0 - beta2) * gradient / (correction2 * root), torch.zeros_like(root)
    )
    by_root = mean * root_slope / denominator.square()
    slope: Tensor = (by_mean - by_root) * -float(group["lr"])
    return vector * slope


_adjoints = {torch.optim.SGD: _sgd, torch.optim.AdamW: _adamw}
