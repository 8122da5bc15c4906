"""Pathways: every transform with every distance that fits it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from search.pathway_rules import MapFacts, fits
from search.pathways import PathwayLoss, build_pathway, build_pathways
from search.recipe import Pathway
from search.registry import Kind, methods
from tests.search.pathways.maps import Case, case_of, normal, stage

TRANSFORMS = [method.name for method in methods(Kind.TRANSFORM)]
STEP = 1e-8
FACTS = MapFacts.of({card["id"]: card for card in (method.described() for method in methods())})
DISTANCES = [method.name for method in methods(Kind.DISTANCE)]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", ["cnn-last", "vit-up", "mixed-down"])
class TestEveryPathway:
    @pytest.fixture
    def case(self, name: str, transform: str, distance: str) -> Case:
        """Where the transform cannot bridge a difference in width, the student's channels are repeated."""
        case = case_of(name)
        if transform not in FACTS.keeps_channels or distance in FACTS.ignores_channels:
            return case
        width = case.teacher.channels
        channels = torch.arange(width) % case.student.channels
        student = case.student.model_copy(update={"channels": width})
        return replace(case, student=student, student_map=case.student_map[:, channels])

    @pytest.fixture
    def loss(self, case: Case, transform: str, distance: str) -> PathwayLoss:
        pathway = Pathway(
            teacher_stage=case.teacher.index,
            student_stage=case.student.index,
            transform=transform,
            distance=distance,
        )
        assert fits(pathway, case.teacher, case.student, FACTS) is None
        return build_pathway(pathway, student=case.student, teacher=case.teacher, seed=1).double()

    def test_its_forward_mode_derivative_is_the_gradient_along_the_tangent(
        self, loss: PathwayLoss, case: Case
    ) -> None:
        """Along the student's map and the transform's weights, as looking ahead differentiates."""
        leaves = leaves_of(loss, case)
        tangents = tangents_of(leaves)
        gradients = torch.autograd.grad(value(loss, leaves, case), list(leaves.values()))
        with torch.no_grad(), forward_ad.dual_level():
            duals = {
                name: forward_ad.make_dual(leaf.detach(), tangents[name]) for name, leaf in leaves.items()
            }
            derivative = forward_ad.unpack_dual(value(loss, duals, case)).tangent
        expected = sum(
            float((gradient * tangent).sum())
            for gradient, tangent in zip(gradients, tangents.values(), strict=True)
        )
        assert float(derivative) == pytest.approx(expected, rel=1e-9, abs=1e-15)

    def test_its_second_derivative_is_the_difference_of_gradients(
        self, loss: PathwayLoss, case: Case
    ) -> None:
        """Looking more than one step ahead needs the Hessian along a direction."""
        leaves = leaves_of(loss, case)
        tangents = tangents_of(leaves)
        gradients = torch.autograd.grad(value(loss, leaves, case), list(leaves.values()), create_graph=True)
        along = sum(
            (gradient * tangent).sum() for gradient, tangent in zip(gradients, tangents.values(), strict=True)
        )
        found = torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)
        ahead, behind = (
            torch.autograd.grad(
                value(loss, moved := shifted(leaves, tangents, by=sign * STEP), case), list(moved.values())
            )
            for sign in (1, -1)
        )
        for hessian, one, other in zip(found, ahead, behind, strict=True):
            expected = (one - other) / (2 * STEP)
            size = max(float(h.abs().max()) for h in found)
            torch.testing.assert_close(hessian, expected, rtol=1e-5, atol=1e-5 * size + 1e-9)

    def test_the_teacher_has_no_say(self, loss: PathwayLoss, case: Case) -> None:
        """Neither in reverse nor in forward mode; the distance alone would let it."""
        teacher = case.teacher_map.clone().requires_grad_()
        student = case.student_map.clone().requires_grad_()
        loss(student, teacher).backward()
        assert teacher.grad is None
        with torch.no_grad(), forward_ad.dual_level():
            dual = forward_ad.make_dual(teacher.detach(), torch.ones_like(teacher))
            assert forward_ad.unpack_dual(loss(student, dual)).tangent is None

    def test_the_same_seed_gives_the_same_value_and_leaves_the_random_state(
        self, loss: PathwayLoss, case: Case
    ) -> None:
        state = torch.get_rng_state()
        twin = build_pathway(loss.pathway, student=case.student, teacher=case.teacher, seed=1).double()
        assert torch.equal(torch.get_rng_state(), state)
        values = [pathway(case.student_map, case.teacher_map) for pathway in (loss, twin)]
        assert torch.equal(*values)


def leaves_of(loss: PathwayLoss, case: Case) -> dict[str, Tensor]:
    """The student's map, and the transform's weights by name."""
    # Two maps after a ReLU agree where both are silent, which is where an absolute value has its kink.
    untied = case.student_map + 0.01 * normal(*case.student_map.shape, seed=1)
    named = {"map": untied, **dict(loss.named_parameters())}
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in named.items()}


def tangents_of(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: normal(*leaf.shape, seed=seed) for seed, (name, leaf) in enumerate(leaves.items(), start=2)}


def shifted(leaves: dict[str, Tensor], tangents: dict[str, Tensor], *, by: float) -> dict[str, Tensor]:
    return {name: (leaf.detach() + by * tangents[name]).requires_grad_() for name, leaf in leaves.items()}


def value(loss: PathwayLoss, leaves: dict[str, Tensor], case: Case) -> Tensor:
    replaced = {name: leaf for name, leaf in leaves.items() if name != "map"}
    replaced |= {name: buffer.clone() for name, buffer in loss.named_buffers()}
    found: Tensor = torch.func.functional_call(loss, replaced, (leaves["map"], case.teacher_map))
    return found


def of(transform: str, distance: str, *, student_stage: int = 0) -> Pathway:
    return Pathway(teacher_stage=0, student_stage=student_stage, transform=transform, distance=distance)


def test_a_pathways_start_depends_on_its_stages_and_transform_alone() -> None:
    asked = [of("projection", "hcl"), of("linear", "hcl"), of("projection", "mse"), of("projection", "hcl")]
    starts = [
        [
            value.detach()
            for value in build_pathway(one, student=stage(8), teacher=stage(8), seed=4).parameters()
        ]
        for one in asked
    ]
    assert all(torch.equal(starts[0][0], starts[place][0]) for place in (2, 3))
    assert not torch.equal(starts[0][0].flatten(), starts[1][0].flatten())


@pytest.mark.system("fitnet")
def test_a_regressor_that_maps_the_student_to_the_teacher_has_no_loss_and_learns_alone() -> None:
    narrow, wide = stage(4), stage(6)
    pathway = Pathway(teacher_stage=0, student_stage=0, transform="projection", distance="mse")
    loss = build_pathway(pathway, student=narrow, teacher=wide, seed=0)
    student = normal(8, 4, 5, 5, seed=0).float().requires_grad_()
    with torch.no_grad():
        taught, _ = loss.transformed(student, torch.empty(8, 6, 5, 5))
    assert float(loss(student, taught).detach()) == 0.0
    teacher = normal(8, 6, 5, 5, seed=1).float().requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    for parameter in (student, *loss.transform.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


class TestSharing:
    stages = (stage(8), stage(8))

    def built(self, *pathways: Pathway) -> list[PathwayLoss]:
        return build_pathways(pathways, student=self.stages, teacher=self.stages, seed=4)

    def test_pathways_that_differ_in_their_distance_alone_share_a_transform(self) -> None:
        mse, hcl, other_stage, other_transform = self.built(
            of("projection", "mse"),
            of("projection", "hcl"),
            of("projection", "mse", student_stage=1),
            of("linear", "mse"),
        )
        assert mse.transform is hcl.transform
        assert len({id(one.transform) for one in (mse, other_stage, other_transform)}) == 3

    def test_it_changes_no_ones_start(self) -> None:
        pathways = [of("projection", "mse"), of("projection", "attention")]
        for shared, pathway in zip(self.built(*pathways), pathways, strict=True):
            (alone,) = self.built(pathway)
            assert torch.equal(next(shared.parameters()), next(alone.parameters()))
