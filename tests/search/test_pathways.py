"""Transforms and distances: the contract over the registry on three pairs of models, and formulas by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from search.models import build_model
from search.pathway_rules import fits
from search.pathways import PathwayLoss, build_pathway
from search.pathways.attention import attention_transfer
from search.pathways.hcl import hierarchical_context
from search.pathways.mse import mean_squared_error
from search.pathways.projection import Projection
from search.pathways.resizing import resize
from search.recipe import Pathway, Stage
from search.registry import Kind, get, methods

PAIRS = {
    "cnn": ("resnet10t", "test_resnet"),
    "vit": ("test_vit3", "test_vit"),
    "mixed": ("test_vit3", "test_convnext"),
}
TRANSFORMS = [method.name for method in methods(Kind.TRANSFORM)]
DISTANCES = [method.name for method in methods(Kind.DISTANCE)]


@dataclass(frozen=True)
class Case:
    """A teacher stage and a student stage with their maps (B, C, H, W) of the same images, float64."""

    teacher: Stage
    student: Stage
    teacher_map: Tensor
    student_map: Tensor

    @property
    def teacher_shape(self) -> tuple[int, int, int]:
        return tuple(self.teacher_map.shape[1:])  # type: ignore[return-value]


@lru_cache
def maps_of(name: str) -> tuple[list[Stage], dict[int, Tensor]]:
    model = build_model(
        name, classes=10, channels=1, input_size=64, seed=0, data_mean=(0.3,), data_std=(0.3,)
    )
    images = torch.rand(6, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = model.eval().forward_taps(images, range(len(model.stages)))[1]
    return model.stages, {index: value.double() for index, value in maps.items()}


def case_of(pair: str, *, teacher_stage: int, student_stage: int) -> Case:
    teacher, student = (maps_of(name) for name in PAIRS[pair])
    return Case(
        teacher[0][teacher_stage],
        student[0][student_stage],
        teacher[1][teacher_stage],
        student[1][student_stage],
    )


@pytest.fixture(params=sorted(PAIRS))
def pair(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[(-1, -1), (1, 2), (-2, 0)], ids=["last", "up", "down"])
def case(request: pytest.FixtureRequest, pair: str) -> Case:
    """Pairs of stages of which the student's map is of the same size, smaller or larger."""
    teacher, student = (len(maps_of(name)[0]) for name in PAIRS[pair])
    return case_of(pair, teacher_stage=request.param[0] % teacher, student_stage=request.param[1] % student)


def transform_of(name: str, case: Case) -> torch.nn.Module:
    torch.manual_seed(0)
    module: torch.nn.Module = get(Kind.TRANSFORM, name).factory(case.student, case.teacher)
    return module.double()


@pytest.mark.parametrize("name", TRANSFORMS)
class TestEveryTransform:
    def test_it_gives_the_teachers_shape(self, name: str, case: Case) -> None:
        found = transform_of(name, case)(case.student_map, case.teacher_shape)
        channels = case.student.channels if name == "identity" else case.teacher.channels
        assert found.shape == (6, channels, *case.teacher_shape[1:])
        assert torch.isfinite(found).all()

    def test_gradients_reach_the_student_and_every_weight(self, name: str, case: Case) -> None:
        module = transform_of(name, case)
        student_map = case.student_map.clone().requires_grad_()
        module(student_map, case.teacher_shape).square().sum().backward()
        assert student_map.grad is not None
        assert student_map.grad.abs().sum() > 0
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize("name", DISTANCES)
class TestEveryDistance:
    def test_a_finite_scalar_whose_gradient_reaches_the_student_only(self, name: str, case: Case) -> None:
        teacher = case.teacher_map.clone().requires_grad_()
        student = (teacher.detach() * 1.5 + 0.1).requires_grad_()
        loss = get(Kind.DISTANCE, name).factory(student, teacher)
        assert loss.shape == ()
        assert torch.isfinite(loss)
        loss.backward()
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()
        assert student.grad.abs().sum() > 0 or case.teacher_map.shape[-1] == 1
        assert teacher.grad is None

    def test_zero_where_the_maps_are_equal(self, name: str, case: Case) -> None:
        assert float(get(Kind.DISTANCE, name).factory(case.teacher_map, case.teacher_map.clone())) == 0.0

    def test_positive_where_they_differ(self, name: str, case: Case) -> None:
        noise = torch.randn(case.teacher_map.shape, generator=torch.Generator().manual_seed(0)).double()
        found = float(get(Kind.DISTANCE, name).factory(case.teacher_map + noise, case.teacher_map))
        has_one_place = name == "attention" and case.teacher_map.shape[-1] == 1
        assert found == 0 if has_one_place else found > 0

    def test_silent_maps_give_finite_gradients(self, name: str) -> None:
        student = torch.zeros(2, 8, 4, 4, requires_grad=True)
        get(Kind.DISTANCE, name).factory(student, torch.rand(2, 8, 4, 4)).backward()
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("distance", DISTANCES)
class TestEveryPathway:
    def loss(self, case: Case, transform: str, distance: str) -> PathwayLoss:
        pathway = Pathway(
            teacher_stage=case.teacher.index,
            student_stage=case.student.index,
            transform=transform,
            distance=distance,
        )
        assert fits(pathway, case.teacher, case.student) is None
        return build_pathway(pathway, student=case.student, teacher=case.teacher, seed=1).double()

    @pytest.fixture
    def fitting(self, case: Case, transform: str, distance: str) -> Case:
        """Where the transform cannot bridge a difference in width, the student's channels are repeated."""
        if transform != "identity" or distance == "attention":
            return case
        width = case.teacher.channels
        channels = torch.arange(width) % case.student.channels
        stage = case.student.model_copy(update={"channels": width})
        return replace(case, student=stage, student_map=case.student_map[:, channels])

    def test_its_forward_mode_derivative_is_the_gradient_along_the_tangent(
        self, transform: str, distance: str, fitting: Case
    ) -> None:
        loss = self.loss(fitting, transform, distance)
        student_map = fitting.student_map
        tangent = torch.randn(student_map.shape, generator=torch.Generator().manual_seed(2)).double()

        def value(at: Tensor) -> Tensor:
            buffers = {name: buffer.clone() for name, buffer in loss.named_buffers()}
            found: Tensor = torch.func.functional_call(loss, buffers, (at, fitting.teacher_map))
            return found

        with torch.no_grad(), forward_ad.dual_level():
            dual = value(forward_ad.make_dual(student_map, tangent))
            derivative = forward_ad.unpack_dual(dual).tangent
        (gradient,) = torch.autograd.grad(value(leaf := student_map.clone().requires_grad_()), leaf)
        expected = float((gradient * tangent).sum())
        assert float(derivative) == pytest.approx(expected, rel=1e-9, abs=1e-15)

    def test_the_same_seed_gives_the_same_value_and_leaves_the_random_state(
        self, transform: str, distance: str, fitting: Case
    ) -> None:
        state = torch.get_rng_state()
        first, second = (
            self.loss(fitting, transform, distance)(fitting.student_map, fitting.teacher_map)
            for _ in range(2)
        )
        assert torch.equal(first, second)
        assert torch.equal(torch.get_rng_state(), state)


class TestFormulas:
    student = torch.randn(3, 5, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    teacher = torch.randn(3, 5, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def test_mse(self) -> None:
        expected = ((self.student.numpy() - self.teacher.numpy()) ** 2).mean()
        assert float(mean_squared_error(self.student, self.teacher)) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(("side", "levels"), [(8, (4, 2, 1)), (4, (2, 1)), (2, (1,)), (1, ())])
    def test_hcl(self, side: int, levels: tuple[int, ...]) -> None:
        student, teacher = (m[:, :, :side, :side].numpy() for m in (self.student, self.teacher))

        def pooled(values: np.ndarray, level: int) -> np.ndarray:
            cell = side // level
            return values.reshape(3, 5, level, cell, level, cell).mean(axis=(3, 5))

        total, weights = ((student - teacher) ** 2).mean(), 1.0
        for order, level in enumerate(levels, start=1):
            weight = 0.5**order
            total += weight * ((pooled(student, level) - pooled(teacher, level)) ** 2).mean()
            weights += weight
        found = hierarchical_context(torch.from_numpy(student), torch.from_numpy(teacher))
        assert float(found) == pytest.approx(total / weights, rel=1e-12)

    def test_attention(self) -> None:
        def activity(values: np.ndarray) -> np.ndarray:
            flat = (values**2).mean(axis=1).reshape(3, -1)
            return flat / np.sqrt((flat**2).sum(axis=1, keepdims=True))

        expected = ((activity(self.student.numpy()) - activity(self.teacher.numpy())) ** 2).mean()
        assert float(attention_transfer(self.student, self.teacher)) == pytest.approx(expected, rel=1e-10)

    def test_attention_ignores_scale_and_the_order_and_number_of_channels(self) -> None:
        changed = torch.cat([3.7 * self.teacher.flip(1)] * 2, dim=1)
        assert float(attention_transfer(changed, self.teacher)) == pytest.approx(0.0, abs=1e-18)

    def test_attention_tells_tiny_activations_apart(self) -> None:
        found = attention_transfer(1e-6 * self.student, self.teacher)
        assert float(found) == pytest.approx(float(attention_transfer(self.student, self.teacher)), rel=1e-9)

    def test_distances_are_symmetric(self) -> None:
        for distance in (mean_squared_error, hierarchical_context, attention_transfer):
            assert torch.allclose(distance(self.student, self.teacher), distance(self.teacher, self.student))


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

    @pytest.mark.parametrize("size", [(4, 4), (16, 16), (3, 3)])
    def test_the_projection_commutes_with_resizing(self, size: tuple[int, int]) -> None:
        stage = Stage(index=0, channels=3, reduction=1, depth=0)
        projection = Projection(stage, Stage(index=0, channels=5, reduction=1, depth=0)).double()
        expected = resize(projection.convolution(self.feature_map), size)
        assert torch.allclose(projection(self.feature_map, (5, *size)), expected)


class TestGated:
    def stages(self, student: int, teacher: int) -> tuple[Stage, Stage]:
        return tuple(Stage(index=0, channels=c, reduction=1, depth=0) for c in (student, teacher))  # type: ignore[return-value]

    def test_its_parameters_are_distpros(self) -> None:
        gated: Any = get(Kind.TRANSFORM, "gated").factory(*self.stages(24, 40))
        shapes = [tuple(p.shape) for name, p in gated.named_parameters() if p.ndim == 4]
        assert shapes == [(24, 24, 3, 3), (1, 24, 1, 1), (24, 24, 3, 3), (40, 24, 3, 3)]
        assert all(module.bias is None for module in gated.modules() if isinstance(module, torch.nn.Conv2d))

    def test_the_width_between_is_at_most_512(self) -> None:
        gated: Any = get(Kind.TRANSFORM, "gated").factory(*self.stages(1024, 600))
        assert gated.gate.weight.shape[1] == 512

    def test_it_starts_as_released(self) -> None:
        torch.manual_seed(0)
        gated: Any = get(Kind.TRANSFORM, "gated").factory(*self.stages(64, 128))
        for convolution in (m for m in gated.modules() if isinstance(m, torch.nn.Conv2d)):
            out, _, kernel, _ = convolution.weight.shape
            expected = (2 / (kernel**2 * out)) ** 0.5
            count = convolution.weight.numel()
            assert float(convolution.weight.detach().std()) == pytest.approx(
                expected, rel=5 / (2 * count) ** 0.5
            )

    def test_the_gate_multiplies_without_a_sigmoid(self) -> None:
        gated: Any = get(Kind.TRANSFORM, "gated").factory(*self.stages(8, 8)).eval()
        feature_map = torch.randn(2, 8, 4, 4)
        with torch.no_grad():
            entered = gated.enter(feature_map)
            expected = gated.leave(
                gated.middle(entered * (entered * gated.gate.weight[0]).sum(1, keepdim=True))
            )
            assert torch.allclose(gated(feature_map, (8, 4, 4)), expected, atol=1e-5)


def test_a_pathways_start_does_not_depend_on_the_others() -> None:
    stage = Stage(index=0, channels=8, reduction=1, depth=0)
    first, second = (
        Pathway(teacher_stage=0, student_stage=0, transform="projection", distance=d) for d in ("mse", "hcl")
    )
    alone = build_pathway(second, student=stage, teacher=stage, seed=4)
    build_pathway(first, student=stage, teacher=stage, seed=4)
    again = build_pathway(second, student=stage, teacher=stage, seed=4)
    other = build_pathway(first, student=stage, teacher=stage, seed=4)
    assert torch.equal(alone.transform.convolution.weight, again.transform.convolution.weight)  # type: ignore[union-attr,arg-type]
    assert not torch.equal(alone.transform.convolution.weight, other.transform.convolution.weight)  # type: ignore[union-attr,arg-type]
