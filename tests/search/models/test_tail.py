"""The rest of a network from a stage on: whole for every kind of network, and frozen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from search.models import TappedModel, build_model
from search.models.tail import Layout, NoTailError, Tail

SIZE = 32
LAYOUTS: dict[str, Layout] = {
    "test_resnet": "channels_first",
    "test_convnext": "channels_first",
    "resnet8_w8": "channels_first",
    "test_mambaout": "channels_last",
    "test_vit": "tokens",
    "test_vit3": "tokens",
}


def model(name: str) -> TappedModel:
    found = build_model(
        name, classes=5, channels=1, input_size=SIZE, seed=0, data_mean=(0.3,), data_std=(0.3,)
    )
    return found.double().eval()


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", LAYOUTS)
def test_from_every_stage_it_ends_where_the_whole_network_does(name: str) -> None:
    whole = model(name)
    stages = [*range(len(whole.stages))]
    # Of black images: class tokens are those of such images.
    given = torch.zeros_like(images()) if name == "test_vit" else images()
    with torch.no_grad():
        maps = whole.forward_taps(given, stages)[1]
        for stage in stages[:-1]:
            tail = Tail(whole, stage)
            assert tail.layout == LAYOUTS[name]
            assert tail.shape == maps[stage].shape[1:]
            torch.testing.assert_close(tail(maps[stage]), maps[stages[-1]], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_gradients_reach_the_map_and_no_parameter(name: str) -> None:
    whole = model(name)
    tail = Tail(whole, len(whole.stages) - 2)
    shape = (2, *tail.shape)
    given = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given.requires_grad_()
    tail(given).square().sum().backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    assert bool((given.grad != 0).any())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in whole.parameters())
    along = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        up, down = (tail(given + step * along).square().sum() for step in (1e-6, -1e-6))
    torch.testing.assert_close((given.grad * along).sum(), (up - down) / 2e-6, rtol=1e-5, atol=1e-7)


def test_the_network_is_left_as_it_was() -> None:
    whole = model("test_resnet").train()
    before = {name: kept.clone() for name, kept in whole.state_dict().items()}
    hooks = len(whole.network.get_submodule("layer2")._forward_hooks)
    tail = Tail(whole, 2)
    tail(torch.ones(2, *tail.shape))
    assert whole.training
    assert whole.network.training
    assert all(torch.equal(kept, before[name]) for name, kept in whole.state_dict().items())
    assert len(whole.network.get_submodule(tail.name)._forward_hooks) == hooks


def test_other_types_come_back_as_they_are_given() -> None:
    tail = Tail(model("test_resnet"), 2)
    assert tail(torch.ones(2, *tail.shape, dtype=torch.float32)).dtype == torch.float32


@pytest.mark.parametrize("stage", [-1, 4, 5])
def test_behind_the_last_stage_there_is_nothing(stage: int) -> None:
    with pytest.raises(NoTailError, match="no stage behind"):
        Tail(model("test_resnet"), stage)
