"""The optimisers' adjoints against torch's own differentiable optimiser steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from search.hypergradient.adjoint import Adjoint, pull_through, updates_of


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        (torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.1}),
        (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}),
    ],
)
def test_equals_torchs_differentiable_step(
    kind: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(0)
    start, first, second, vector = torch.randn((4, 5), generator=generator, dtype=torch.float64)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = kind([parameter], **settings)
    parameter.grad = first.clone()
    optimizer.step()
    before = parameter.detach().clone()
    state = {name: value.clone() for name, value in optimizer.state[parameter].items()}
    parameter.grad = second.clone()
    optimizer.step()
    update = updates_of(optimizer, {"w": parameter})["w"]
    by_gradient, earlier = pull_through(update, before=before, after=Adjoint(vector))

    moved = before.clone().requires_grad_(True)
    gradient = second.clone().requires_grad_(True)
    moments = {
        name: value.clone().requires_grad_(True)
        for name, value in state.items()
        if value.shape == moved.shape
    }
    inner = moved * 1.0
    again = kind([inner], **settings, differentiable=True)
    again.state[inner] = {name: moments.get(name, value.double()) * 1.0 for name, value in state.items()}
    inner.grad = gradient * 1.0
    again.step()
    expected = torch.autograd.grad(inner, [gradient, moved, *moments.values()], vector)
    torch.testing.assert_close(by_gradient, expected[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(earlier().parameter, expected[1], rtol=1e-12, atol=1e-14)
    for name, value in zip(moments, expected[2:], strict=True):
        torch.testing.assert_close(earlier().moments[name], value, rtol=1e-12, atol=1e-14)


def test_elements_that_never_had_a_gradient_stay_finite() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.grad = torch.tensor([0.0, 1.0])
    optimizer.step()
    update = updates_of(optimizer, {"w": parameter})["w"]
    by_gradient, _ = pull_through(update, before=torch.ones(2), after=Adjoint(torch.ones(2)))
    assert by_gradient.isfinite().all()


def test_parameters_without_a_gradient_did_not_move() -> None:
    moved, still = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.SGD([moved, still], lr=0.1)
    moved.grad = torch.ones(2)
    optimizer.step()
    assert list(updates_of(optimizer, {"moved": moved, "still": still})) == ["moved"]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda p: torch.optim.RMSprop(p), "no adjoint is known for RMSprop"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1), "SGD with dampening"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "AdamW with amsgrad"),
    ],
)
def test_an_unknown_optimizer_is_refused(optimizer: Any, message: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    with pytest.raises(TypeError, match=message):
        updates_of(optimizer([parameter]), {"w": parameter})
