"""Transforms: the contract over the registry on real maps, and each one's layers by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from search.pathways.convolutions import nearest
from search.pathways.cross_attention import HEADS, MAX_SIDE
from search.pathways.resizing import resize
from search.registry import Kind, get, methods
from tests.search.pathways.maps import CASES, Case, case_of, normal, stage, transform_of

TRANSFORMS = [method.name for method in methods(Kind.TRANSFORM)]
OF_DISTPRO = ["one_convolution", "two_convolutions", "three_convolutions", "gated"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


@pytest.mark.parametrize("name", TRANSFORMS)
class TestEveryTransform:
    def test_it_gives_the_teachers_shape(self, name: str, case: Case) -> None:
        module = transform_of(name, student=case.student, teacher=case.teacher)
        found = module(case.student_map, case.teacher_shape)
        channels = (case.student if get(Kind.TRANSFORM, name).card.keeps_channels else case.teacher).channels
        assert found.shape == (6, channels, *case.teacher_shape[1:])
        assert torch.isfinite(found).all()

    def test_its_card_says_whether_it_trains(self, name: str, case: Case) -> None:
        module = transform_of(name, student=case.student, teacher=case.teacher)
        assert any(True for _ in module.parameters()) == get(Kind.TRANSFORM, name).card.trains

    def test_gradients_reach_the_student_and_every_weight(self, name: str, case: Case) -> None:
        module = transform_of(name, student=case.student, teacher=case.teacher)
        student_map = case.student_map.clone().requires_grad_()
        module(student_map, case.teacher_shape).square().sum().backward()
        assert student_map.grad is not None
        assert student_map.grad.abs().sum() > 0
        one_place = student_map.shape[-1] == 1
        untaught = {
            weight
            for weight, parameter in module.named_parameters()
            if parameter.grad is None or parameter.grad.abs().sum() == 0
        }
        # Where there is one place to ask, what is asked does not matter.
        asking = {weight for weight in untaught if weight.startswith(("query", "key"))}
        assert untaught == (asking if name == "cross_attention" and one_place else set())

    def test_any_other_size_will_do(self, name: str) -> None:
        module = transform_of(name, student=stage(6), teacher=stage(6))
        for size in ((5, 3), (1, 1), (24, 20)):
            for teacher_size in ((4, 4), (1, 1), (20, 18)):
                found = module(normal(2, 6, *size, seed=0), (6, *teacher_size))
                assert found.shape == (2, 6, *teacher_size)
                assert torch.isfinite(found).all()


class TestResizing:
    feature_map = torch.rand(2, 3, 8, 8, dtype=torch.float64)

    def test_a_larger_map_is_averaged_over_cells(self) -> None:
        expected = self.feature_map.reshape(2, 3, 4, 2, 4, 2).mean(dim=(3, 5))
        assert torch.allclose(resize(self.feature_map, (4, 4)), expected)

    def test_sizes_that_do_not_divide_are_pooled_adaptively(self) -> None:
        assert torch.allclose(resize(torch.ones(1, 1, 7, 7), (3, 3)), torch.ones(1, 1, 3, 3))

    def test_a_smaller_map_is_interpolated(self) -> None:
        ramp = torch.arange(4.0).expand(1, 1, 4, 4)
        found = resize(ramp, (8, 8))
        assert found.shape == (1, 1, 8, 8)
        assert torch.allclose(found.mean(), ramp.mean())
        assert (found.diff(dim=-1) >= 0).all()

    def test_a_map_of_the_right_size_is_left_alone(self) -> None:
        assert resize(self.feature_map, (8, 8)) is self.feature_map
        assert nearest(self.feature_map, (8, 8)) is self.feature_map


@pytest.mark.parametrize(("name", "layer"), [("projection", "convolution"), ("linear", "layer")])
class TestAffineMaps:
    @pytest.mark.parametrize("size", [(4, 4), (16, 16), (3, 3), (5, 12)])
    def test_resizing_first_or_last_is_the_same(self, name: str, layer: str, size: tuple[int, int]) -> None:
        module: Any = transform_of(name, student=stage(3), teacher=stage(5))
        feature_map = normal(2, 3, 8, 8, seed=0)
        weight = dict(module.named_parameters())[f"{layer}.weight"].flatten(1)
        bias = dict(module.named_parameters()).get(f"{layer}.bias", torch.zeros(5).double())
        mapped = torch.einsum("oc,bchw->bohw", weight, feature_map) + bias.view(1, -1, 1, 1)
        torch.testing.assert_close(module(feature_map, (5, *size)), resize(mapped, size))

    @pytest.mark.parametrize(("size", "places"), [((2, 2), 4), ((8, 8), 64), ((16, 16), 64)])
    def test_the_map_is_taken_at_the_smaller_size(
        self, name: str, layer: str, size: tuple[int, int], places: int
    ) -> None:
        module: Any = transform_of(name, student=stage(3), teacher=stage(5))
        seen: list[int] = []
        getattr(module, layer).register_forward_hook(
            lambda _module, inputs, _output: seen.append(inputs[0].numel() // 3)
        )
        module(normal(1, 3, 8, 8, seed=0), (5, *size))
        assert seen == [places]


def test_a_linear_map_starts_with_a_bias_and_a_projection_has_none() -> None:
    linear = transform_of("linear", student=stage(3), teacher=stage(5))
    projection = transform_of("projection", student=stage(3), teacher=stage(5))
    assert {name: tuple(p.shape) for name, p in linear.named_parameters()} == {
        "layer.weight": (5, 3),
        "layer.bias": (5,),
    }
    assert [tuple(p.shape) for p in projection.parameters()] == [(5, 3, 1, 1)]


def convolved(feature_map: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(feature_map, weight, padding=weight.shape[-1] // 2)


def normalised(feature_map: Tensor) -> Tensor:
    """BatchNorm in training, at its start."""
    mean = feature_map.mean(dim=(0, 2, 3), keepdim=True)
    return (feature_map - mean) / (feature_map.var(dim=(0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()


def gated(feature_map: Tensor, weight: Tensor) -> Tensor:
    return feature_map * (feature_map * weight).sum(dim=1, keepdim=True)


def resized(feature_map: Tensor, side: int) -> Tensor:
    index = torch.arange(side) * feature_map.shape[-1] // side
    return feature_map[:, :, index][:, :, :, index]


class TestDistPro:
    """Its four connectors, layer by layer as its release orders them."""

    @pytest.mark.parametrize("side", [4, 8, 16])
    def test_their_layers(self, side: int) -> None:
        x = normal(3, 6, 8, 8, seed=0)
        found = {}
        for name in OF_DISTPRO:
            module = transform_of(name, student=stage(6), teacher=stage(10))
            found[name] = (module(x, (10, side, side)), [p for p in module.parameters() if p.ndim == 4])
        value, (w,) = found["one_convolution"]
        torch.testing.assert_close(value, resized(normalised(convolved(x, w)), side))
        value, (w, g, v) = found["two_convolutions"]
        entered = gated(normalised(convolved(x, w)), g)
        torch.testing.assert_close(value, normalised(convolved(resized(entered, side), v)))
        value, (w, g, v, u) = found["three_convolutions"]
        middle = resized(gated(normalised(convolved(x, w)), g), side)
        torch.testing.assert_close(value, normalised(convolved(normalised(convolved(middle, v)), u)))
        value, (w, g, v, u) = found["gated"]
        entered = gated(normalised(convolved(x, w)).relu(), g)
        middle = resized(normalised(convolved(entered, v)).relu(), side)
        torch.testing.assert_close(value, normalised(convolved(middle, u)))

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("one_convolution", [(40, 24, 1, 1)]),
            ("two_convolutions", [(24, 24, 1, 1), (1, 24, 1, 1), (40, 24, 3, 3)]),
            ("three_convolutions", [(24, 24, 1, 1), (1, 24, 1, 1), (24, 24, 3, 3), (40, 24, 3, 3)]),
            ("gated", [(24, 24, 3, 3), (1, 24, 1, 1), (24, 24, 3, 3), (40, 24, 3, 3)]),
        ],
    )
    def test_their_weights(self, name: str, expected: list[tuple[int, ...]]) -> None:
        module = transform_of(name, student=stage(24), teacher=stage(40))
        assert [tuple(p.shape) for p in module.parameters() if p.ndim == 4] == expected
        assert all(layer.bias is None for layer in module.modules() if isinstance(layer, nn.Conv2d))
        norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert len(norms) == len(expected) - (name != "one_convolution")
        assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)

    @pytest.mark.parametrize("name", OF_DISTPRO[1:])
    def test_the_width_between_is_at_most_512(self, name: str) -> None:
        module: Any = get(Kind.TRANSFORM, name).factory(stage(1024), stage(600))
        assert module.gate.convolution.weight.shape[1] == 512

    @pytest.mark.parametrize("name", OF_DISTPRO)
    def test_they_start_as_released(self, name: str) -> None:
        module = transform_of(name, student=stage(64), teacher=stage(128))
        for layer in (layer for layer in module.modules() if isinstance(layer, nn.Conv2d)):
            out, _, kernel, _ = layer.weight.shape
            expected = (2 / (kernel**2 * out)) ** 0.5
            count = layer.weight.numel()
            assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=5 / (2 * count) ** 0.5)


class TestCrossAttention:
    def test_it_attends_as_torchs_attention_does(self) -> None:
        module: Any = transform_of("cross_attention", student=stage(12), teacher=stage(20))
        student_map = normal(2, 12, 6, 6, seed=1)
        seen: dict[str, Tensor] = {}
        for name in ("query", "query_place", "key", "key_place", "value", "leave"):
            getattr(module, name).register_forward_hook(
                lambda _module, inputs, output, name=name: seen.update(
                    {name: output, f"into {name}": inputs[0]}
                )
            )
        found = module(student_map, (20, 3, 3))
        query, key = seen["query"] + seen["query_place"], seen["key"] + seen["key_place"]
        assert query.shape == (2, 9, 12)
        assert key.shape == (2, 36, 12)
        heads = [t.reshape(2, -1, HEADS, 3).transpose(1, 2) for t in (query, key, seen["value"])]
        expected = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, 9, 12)
        torch.testing.assert_close(seen["into leave"], expected)
        residual = torch.einsum("oc,bchw->bohw", module.residual.weight, resize(student_map, (3, 3)))
        torch.testing.assert_close(found, residual + seen["leave"].transpose(1, 2).reshape(2, 20, 3, 3))

    def test_every_place_of_the_student_reaches_every_place_of_the_teacher(self) -> None:
        module = transform_of("cross_attention", student=stage(8), teacher=stage(8))
        student_map = normal(1, 8, 4, 4, seed=0).requires_grad_()
        corner = module(student_map, (8, 4, 4))[0, :, 0, 0].square().sum()
        (gradient,) = torch.autograd.grad(corner, student_map)
        assert (gradient.abs().sum(dim=1) > 0).all()

    def test_places_are_told_apart(self) -> None:
        """On a map that is the same everywhere, queries and keys differ by their places alone."""
        module: Any = transform_of("cross_attention", student=stage(8), teacher=stage(8))
        seen: list[Tensor] = []
        module.query_place.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        module(torch.ones(1, 8, 4, 4).double(), (8, 4, 4))
        (places,) = seen
        assert torch.cdist(places, places).fill_diagonal_(1).min() > 1e-3

    def test_large_maps_are_attended_at_a_bounded_cost(self) -> None:
        module: Any = transform_of("cross_attention", student=stage(4), teacher=stage(4))
        seen: list[int] = []
        for layer in (module.query, module.key):
            layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[1]))
        found = module(normal(1, 4, 56, 40, seed=0), (4, 64, 64))
        assert found.shape == (1, 4, 64, 64)
        assert seen == [MAX_SIDE**2, MAX_SIDE**2]
