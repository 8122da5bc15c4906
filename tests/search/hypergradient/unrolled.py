"""The oracle: training steps as one differentiable function, the optimisers written from their papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from search.distill import Distillation
from search.hypergradient import HyperGradient
from search.training.precision import forward_taps
from tests.search.hypergradient.runs import PARTS

Named = dict[str, Tensor]


def unrolled(
    run: Distillation, rates: list[float], *, forward: Callable[..., Any] = forward_taps
) -> tuple[HyperGradient, Named]:
    """Differentiate the meta loss through so many steps from the run's state; and the student after them.

    `forward` stands for the training pass where its derivatives are to be exact ones of low-precision
    values; the steps are then still taken with the pass's own gradients.
    """
    effective = run.process.at(run.step / run.total_steps)
    values = [getattr(effective, name).clone().requires_grad_(True) for name in PARTS]
    live = dict(run.student.named_parameters(prefix="student")) | dict(
        run.losses.named_parameters(prefix="losses")
    )
    parameters = {name: value.detach().clone().requires_grad_(True) for name, value in live.items()}
    states = {name: dict(run.optimizer.state.get(value, {})) for name, value in live.items()}
    groups = {id(value): group for group in run.optimizer.param_groups for value in group["params"]}
    with sdpa_kernel(SDPBackend.MATH):  # fused attention is not twice differentiable
        for rate in rates:
            gradients = torch.autograd.grad(
                _loss(run, parameters, values, forward),
                list(parameters.values()),
                create_graph=True,
                allow_unused=True,
            )
            gradients = _at_constant_length(run, gradients, parameters, values, forward)
            taken = gradients
            if forward is not forward_taps:
                loss = _loss(run, parameters, values, forward_taps)
                taken = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for (name, value), exact, own in zip(list(parameters.items()), gradients, taken, strict=True):
                if exact is not None and own is not None:
                    gradient = exact + (own - exact).detach()
                    group = groups[id(live[name])] | {"lr": rate}
                    parameters[name] = _stepped(run, group, states[name], value, gradient)
            run.step += 1
        run.step -= 1
        student = {name[8:]: value for name, value in parameters.items() if name.startswith("student.")}
        by = torch.autograd.grad(_meta_loss(run, student), values)
    found = dict(zip(PARTS, (value.double() for value in by), strict=True))
    return HyperGradient(**found), {name: value.detach() for name, value in student.items()}


def _at_constant_length(
    run: Distillation,
    gradients: tuple[Tensor | None, ...],
    parameters: Named,
    values: list[Tensor],
    forward: Callable[..., Any],
) -> tuple[Tensor | None, ...]:
    """Where the run asks for it: the student's gradients brought to the length that they have anyway, so that
    the process can only turn them."""
    learn = run.parameters.learn
    if learn is None or not learn.at_constant_length:
        return gradients
    fixed = [value.detach() for value in values]
    anyway = torch.autograd.grad(
        _loss(run, parameters, fixed, forward),
        list(parameters.values()),
        create_graph=True,
        allow_unused=True,
    )
    is_student = [name.startswith("student.") for name in parameters]
    wanted, found = (
        sum(g.square().sum() for g, own in zip(some, is_student, strict=True) if own and g is not None)
        for some in (anyway, gradients)
    )
    factor = torch.as_tensor(wanted / found).sqrt()
    return tuple(
        g * factor if own and g is not None else g for g, own in zip(gradients, is_student, strict=True)
    )


def _meta_loss(run: Distillation, student: Named) -> Tensor:
    """In as many parts as the training batch."""
    images, targets = run.meta_batch()
    size = len(images) // run.training.accumulate_parts
    total = torch.zeros(())
    for start in range(0, len(images), size):
        logits, _ = forward_taps(
            run.student,
            images[start : start + size],
            [],
            parameters=student,
            keep_buffers=True,
            precision=run.training.precision,
        )
        total = total + F.cross_entropy(logits, targets[start : start + size], reduction="sum")
    return total / len(images)


def _loss(run: Distillation, parameters: Named, values: list[Tensor], forward: Callable[..., Any]) -> Tensor:
    """The mean over the parts of the training loss written out; cross-entropy's weight is the run's own."""
    weight = run.process.at(run.step / run.total_steps).cross_entropy_weight
    batch = run.batch()
    parts = batch.parts(run.training.accumulate_parts)
    student = {name[8:]: value for name, value in parameters.items() if name.startswith("student.")}
    transforms = {name[7:]: value for name, value in parameters.items() if name.startswith("losses.")}
    total = torch.zeros(())
    for part in parts:
        logits, maps = forward(
            run.student,
            part.images,
            run.losses.student_stages(),
            parameters=student,
            keep_buffers=True,
            precision=run.training.precision,
        )
        losses = run.losses.logit_losses(
            logits,
            part.teacher_logits,
            part.targets,
            teacher_temperatures=values[2],
            student_temperatures=values[3],
        )
        given = (maps, part.teacher_maps, None, part.beside(logits))
        pathways = torch.func.functional_call(run.losses, transforms, given, tie_weights=False)
        loss = weight * F.cross_entropy(logits, part.targets) + torch.stack(losses).double() @ values[0]
        total = total + (loss + pathways.double() @ values[1]) / len(parts)
    return total


def _stepped(run: Distillation, group: dict, state: dict, value: Tensor, gradient: Tensor) -> Tensor:
    """theta' as a differentiable function of theta, the moments and the gradient; the moments follow."""
    rate, decay = group["lr"], group["weight_decay"]
    if run.training.optimizer == "sgd":
        gradient = gradient + decay * value
        momentum = group["momentum"]
        old = state.get("momentum_buffer")
        velocity = gradient if old is None or not momentum else momentum * old + gradient
        state["momentum_buffer"] = velocity
        return value - rate * (gradient + momentum * velocity if group["nesterov"] else velocity)
    if run.training.optimizer == "adam":
        gradient = gradient + decay * value
    else:
        value = value * (1 - rate * decay)
    beta1, beta2 = group["betas"]
    count = float(state.get("step", 0.0)) + 1
    mean = beta1 * state.get("exp_avg", torch.zeros_like(value)) + (1 - beta1) * gradient
    square = beta2 * state.get("exp_avg_sq", torch.zeros_like(value)) + (1 - beta2) * gradient**2
    state.update(step=count, exp_avg=mean, exp_avg_sq=square)
    mean_hat, square_hat = mean / (1 - beta1**count), square / (1 - beta2**count)
    # Where no gradient has ever come the root's slope is infinite; such an element does not move.
    is_alive = square_hat > 0
    root = torch.where(is_alive, square_hat, 1.0).sqrt() * is_alive
    return value - rate * mean_hat / (root + group["eps"])
