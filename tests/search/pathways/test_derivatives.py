"""Quick derivatives against PyTorch's own, which are the simple twins: first, second and forward mode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn import functional

from search.pathways.derivatives import cell_means, mean_square
from tests.search.pathways.maps import normal

Formula = Callable[[Tensor], Tensor]
PAIRS: dict[str, tuple[Formula, Formula]] = {
    "mean_square": (mean_square, lambda values: values.square().mean()),
    "cell_means": (
        partial(cell_means, rows=2, columns=3),
        partial(functional.avg_pool2d, kernel_size=(2, 3)),
    ),
}
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def map_in(layout: torch.memory_format, *, seed: int) -> Tensor:
    return normal(2, 3, 4, 6, seed=seed).contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", PAIRS)
class TestAgainstTheTwin:
    def test_values_and_gradients(self, name: str, layout: torch.memory_format) -> None:
        values = map_in(layout, seed=0).requires_grad_()
        found, expected = (formula(values) for formula in PAIRS[name])
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
        along = normal(1, *found.shape, seed=1)[0]
        slopes = [torch.autograd.grad(one, values, along)[0] for one in (found, expected)]
        torch.testing.assert_close(*slopes, rtol=1e-14, atol=1e-16)

    def test_forward_mode_and_second_derivatives(self, name: str, layout: torch.memory_format) -> None:
        values = map_in(layout, seed=0).requires_grad_()
        quick, twin = PAIRS[name]
        torch.autograd.gradcheck(quick, values, check_forward_ad=True)
        torch.autograd.gradgradcheck(quick, values)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(values.detach(), map_in(layout, seed=2))
            tangents = [forward_ad.unpack_dual(formula(dual)).tangent for formula in (quick, twin)]
        torch.testing.assert_close(*tangents, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gradients_lie_in_memory_as_the_map_does(layout: torch.memory_format) -> None:
    """What is behind them would else have to be copied into the other order."""
    values = map_in(layout, seed=0).requires_grad_()
    for quick, _ in PAIRS.values():
        given, seen = values * 1.0, list[Tensor]()
        given.register_hook(seen.append)
        quick(given).square().sum().backward()
        assert [one.is_contiguous(memory_format=layout) for one in seen] == [True]
