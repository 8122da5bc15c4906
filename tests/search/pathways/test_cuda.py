"""Transforms and distances on a GPU: values and both modes' derivatives are those of the CPU."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from search.pathways import PathwayLoss, build_pathway
from search.recipe import Pathway
from search.registry import Kind, get, methods
from tests.search.pathways.maps import normal, stage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("transform", [method.name for method in methods(Kind.TRANSFORM)])
@pytest.mark.parametrize("distance", [method.name for method in methods(Kind.DISTANCE)])
@pytest.mark.parametrize("side", [4, 8, 12])
def test_a_gpu_gives_what_the_cpu_gives(transform: str, distance: str, side: int) -> None:
    assert_a_gpu_gives_what_the_cpu_gives(transform, distance, side)


@pytest.mark.parametrize("operator", [method.name for method in methods(Kind.OPERATOR)])
def test_operators_too_but_for_what_is_drawn(operator: str) -> None:
    if operator != "random_mask":
        assert_a_gpu_gives_what_the_cpu_gives(f"projection+{operator}", "mse", 6)


def assert_a_gpu_gives_what_the_cpu_gives(transform: str, distance: str, side: int) -> None:
    keeps = get(Kind.TRANSFORM, transform.partition("+")[0]).card.keeps_channels
    is_bridged = not keeps or get(Kind.DISTANCE, distance).card.ignores_channels
    width = 12 if is_bridged else 8
    pathway = Pathway(teacher_stage=0, student_stage=0, transform=transform, distance=distance)
    loss = build_pathway(pathway, student=stage(8), teacher=stage(width), seed=0).double()
    maps = normal(6, 8, 8, 8, seed=0), normal(6, width, side, side, seed=1)
    tangent = normal(6, 8, 8, 8, seed=2)
    found = derivatives(loss.cuda(), *(tensor.cuda() for tensor in (*maps, tangent)))
    expected = derivatives(loss.cpu(), *maps, tangent)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-9, atol=1e-12)


def derivatives(
    loss: PathwayLoss, student_map: Tensor, teacher_map: Tensor, tangent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The value, its gradient, and its derivative along the tangent in forward mode."""

    def value(at: Tensor) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in loss.named_buffers()}
        found: Tensor = torch.func.functional_call(loss, buffers, (at, teacher_map))
        return found

    leaf = student_map.clone().requires_grad_()
    reverse = value(leaf)
    (gradient,) = torch.autograd.grad(reverse, leaf)
    with torch.no_grad(), forward_ad.dual_level():
        along = forward_ad.unpack_dual(value(forward_ad.make_dual(student_map, tangent))).tangent
    return reverse.detach(), gradient, along
