"""Stages: found in any network, read in one pass, as maps whatever the network works on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search.models.tapped import TappedModel
from search.models.taps import HookReader, as_grid, feature_info
from search.models.weights import Preprocessing
from tests.search.models.building import build, images

NAMES = ["test_resnet", "test_vit", "test_vit3", "test_efficientnet", "resnet8_w8"]


@pytest.mark.parametrize("name", NAMES)
class TestTaps:
    def test_a_handful_of_stages_from_first_to_last(self, name: str) -> None:
        stages = build(name).stages
        assert 3 <= len(stages) <= 5
        assert [stage.index for stage in stages] == list(range(len(stages)))
        assert (stages[0].depth, stages[-1].depth) == (0.0, 1.0)
        assert [stage.depth for stage in stages] == sorted({stage.depth for stage in stages})

    def test_asking_for_fewer_stages_gives_the_same_maps(self, name: str) -> None:
        model = build(name).eval()
        with torch.no_grad():
            every = model.forward_taps(images(), range(len(model.stages)))[1]
            last = len(model.stages) - 1
            logits, some = model.forward_taps(images(), [last, 1, 1])
        assert set(some) == {1, last}
        assert all(torch.equal(some[stage], every[stage]) for stage in some)
        assert logits.shape == (4, 10)

    def test_gradients_flow_from_every_stage(self, name: str) -> None:
        model = build(name).train()
        _, maps = model.forward_taps(images(), range(len(model.stages)))
        first = next(parameter for parameter in model.parameters() if parameter.ndim > 1)
        for value in maps.values():
            (gradient,) = torch.autograd.grad(value.square().sum(), first, retain_graph=True)
            assert gradient.abs().sum() > 0


@pytest.mark.parametrize("is_hooked", [False, True])
def test_a_compiled_caller_gets_the_same_without_a_break(is_hooked: bool) -> None:
    model = build("resnet8_w8").eval()
    if is_hooked:
        model._read = HookReader(model.network, [info["module"] for info in feature_info(model.network)])
    compiled = torch.compile(model.forward_taps, backend="eager", fullgraph=True)
    for taps in ("output", "pre_activation", "output"):
        with torch.no_grad():
            expected = model.forward_taps(images(), [0, 1, 2], taps=taps)
            logits, maps = compiled(images(), [0, 1, 2], taps=taps)
        assert torch.equal(logits, expected[0])
        assert all(torch.equal(maps[stage], expected[1][stage]) for stage in maps)


class TestPrefixTokens:
    def test_class_and_register_tokens_are_apart_from_the_grid(self) -> None:
        model = build("test_vit3").eval()
        network = model.network
        with torch.no_grad():
            tokens = model.prefix_tokens(images(), [0, 1])
            maps = model.forward_taps(images(), [0, 1])[1]
            given = (images() - 0.3) / torch.tensor(0.25)
            whole = network.forward_intermediates(given, output_fmt="NLC", intermediates_only=True)
        assert network.num_prefix_tokens > 0
        for stage in (0, 1):
            assert tokens[stage].shape == (4, network.num_prefix_tokens, model.stages[stage].channels)
            grid = maps[stage].flatten(2).transpose(1, 2)
            assert torch.equal(grid, whole[model._taps[stage]])

    def test_a_network_without_them_has_none(self) -> None:
        assert build("test_resnet").prefix_tokens(images(), [0]) == {}


class _Blocks(nn.Module):
    """A network that is not timm's: a list of blocks on tokens with one class token, and nothing else."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 12, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(12, 12), nn.GELU()) for _ in range(3))
        self.head = nn.Linear(12, 10)

    def tokens(self, x: Tensor) -> Iterator[Tensor]:
        grid = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(grid), -1, -1), grid], dim=1)
        for block in self.blocks:
            x = x + block(x)
            yield block(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(list(self.tokens(x))[-1][:, 0])


def wrapped(network: nn.Module) -> TappedModel:
    preprocessing = Preprocessing(mean=(0.3,), std=(0.25,), size=32)
    return TappedModel(network, name="own", preprocessing=preprocessing, data_size=32, img_size=None)


class TestOtherNetworks:
    def test_hooks_give_what_forward_intermediates_gives(self) -> None:
        model = build("test_resnet").eval()
        given = (images() - 0.3) / 0.25
        read = HookReader(model.network, [info["module"] for info in feature_info(model.network)])
        with torch.no_grad():
            logits, maps = read(model.network, given, range(5))
            expected = model.forward_taps(images(), range(5))
        assert torch.equal(logits, expected[0])
        assert all(torch.equal(maps[index], expected[1][index]) for index in range(5))

    def test_blocks_on_tokens_without_any_description_become_grids(self) -> None:
        network = _Blocks().eval()
        model = wrapped(network)
        assert [(stage.channels, stage.reduction) for stage in model.stages] == [(12, 8.0)] * 3
        with torch.no_grad():
            logits, maps = model.forward_taps(images(), [0, 2])
            given = (images() - 0.3) / torch.tensor(0.25)
            expected = list(network.tokens(given))
        assert torch.equal(logits, network(given))
        for stage in (0, 2):
            assert torch.equal(maps[stage].flatten(2).transpose(1, 2), expected[stage][:, 1:])

    def test_a_network_without_stages_can_be_used_for_its_logits(self) -> None:
        model = wrapped(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)))
        assert model.stages == []
        logits, maps = model.forward_taps(images(), [])
        assert (logits.shape, maps) == ((4, 10), {})

    def test_a_copy_reads_itself(self) -> None:
        model = wrapped(_Blocks()).eval()
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.mul_(2.0)
            first, second = (net.forward_taps(images(), [0])[1][0] for net in (model, twin))
        assert not torch.allclose(first, second)


class TestGrids:
    @pytest.mark.parametrize("prefix", [None, 5])
    def test_tokens_are_read_row_by_row_behind_the_prefix(self, prefix: int | None) -> None:
        tokens = torch.arange(2 * 14 * 3.0).reshape(2, 14, 3)
        grid = as_grid(tokens, prefix=prefix)
        assert grid.shape == (2, 3, 3, 3)
        assert torch.equal(grid[1, :, 1, 2], tokens[1, 5 + 3 + 2])

    def test_channels_last_are_moved(self) -> None:
        value = torch.rand(2, 4, 4, 7)
        assert torch.equal(as_grid(value), value.permute(0, 3, 1, 2))
        assert as_grid(torch.rand(2, 7, 4, 4)).shape == (2, 7, 4, 4)

    @pytest.mark.parametrize(("shape", "prefix"), [((2, 7), None), ((2, 14, 3), 1)])
    def test_what_is_no_grid_is_refused(self, shape: tuple[int, ...], prefix: Any) -> None:
        with pytest.raises(ValueError, match=r"neither|square"):
            as_grid(torch.zeros(shape), prefix=prefix)
