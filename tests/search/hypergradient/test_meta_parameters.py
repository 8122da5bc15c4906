"""The hypergradient by transforms' meta parameters: against unrolled steps, and against differences."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from search import registry
from search.distill import Distillation
from search.hypergradient import Step
from search.hypergradient.exact import Exact
from search.hypergradient.finite_difference import FiniteDifference
from search.pathways.dynamic_kernel import DynamicKernel
from search.pathways.meta_parameters import set_meta_parameters
from search.recipe import Pathway, Point, Process
from search.registry import Kind, Method
from search.training.precision import forward_taps
from tests.search.hypergradient.runs import PAIRS, PARTS, TRAINING, caught_after, make_run, relative_error
from tests.search.hypergradient.straight_through import straight_through
from tests.search.hypergradient.test_approximations import a_direction, a_step
from tests.search.hypergradient.unrolled import unrolled

SIZE = 233
EXACT = 1e-9
STEP = 1e-5
"""So small that no activation changes its sign."""


def parameters(seed: int = 0) -> list[float]:
    """Of a net that has learned something: none of its kernels is the identity."""
    generator = torch.Generator().manual_seed(seed)
    return (0.4 * torch.randn(SIZE, generator=generator, dtype=torch.float64)).tolist()


def a_run(optimizer: str = "nesterov", student: str = "test_resnet", **settings: Any) -> Distillation:
    training = TRAINING[optimizer].model_copy(update=settings.pop("training", {}))
    # Between maps of more than one place, where kernels have something to do.
    chosen = {"transform": "dynamic_kernel", "stages": (1, 0), "parameters": parameters()}
    return make_run(training, student, **(chosen | settings))


def assert_exact(optimizer: str, student: str, *, steps: int, **settings: Any) -> None:
    found, before, rates = caught_after(a_run(optimizer, student, **settings), steps)
    twin = a_run(optimizer, student, **settings)
    twin.load(before)
    expected, _ = unrolled(twin, rates)
    for name in (*PARTS, "meta_parameters"):
        error = relative_error(getattr(found, name), getattr(expected, name))
        assert error < EXACT, f"{name}: relative error {error:.1e}"


@pytest.mark.system("meta_kd_sr")
class TestUnrolled:
    """Below 1e-9 in float64: d meta loss / d phi through the steps that were taken."""

    @pytest.mark.parametrize("pair", PAIRS)
    @pytest.mark.parametrize("optimizer", TRAINING)
    def test_one_step(self, optimizer: str, pair: str) -> None:
        assert_exact(optimizer, PAIRS[pair], steps=3)

    @pytest.mark.parametrize("optimizer", TRAINING)
    def test_three_steps(self, optimizer: str) -> None:
        learn = {"lookahead_steps": 3, "update_every_steps": 3}
        assert_exact(optimizer, "test_resnet", steps=6, learn=learn)

    def test_three_steps_of_a_transformer(self) -> None:
        learn = {"lookahead_steps": 3, "update_every_steps": 3}
        assert_exact("adamw", "test_vit", steps=3, learn=learn)

    def test_from_the_identity(self) -> None:
        assert_exact("nesterov", "test_resnet", steps=3, parameters=None)

    @pytest.mark.parametrize("lookahead", [1, 2])
    def test_in_parts(self, lookahead: int) -> None:
        learn = {"lookahead_steps": lookahead, "update_every_steps": 2}
        assert_exact(
            "adamw", "test_resnet", steps=2 + lookahead, learn=learn, training={"accumulate_parts": 2}
        )

    @pytest.mark.parametrize("lookahead", [1, 2])
    def test_at_constant_length(self, lookahead: int) -> None:
        learn = {"lookahead_steps": lookahead, "update_every_steps": 2, "at_constant_length": True}
        assert_exact("nesterov", "test_resnet", steps=2 + lookahead, learn=learn)


def after_one_step(run: Distillation, before: dict[str, Any], phi: Tensor) -> Tensor:
    """The meta loss after one real step with these parameters."""
    run.load(copy.deepcopy(before))
    (owner,) = run.losses.meta_owners()
    set_meta_parameters(owner.transform, phi)
    run.learning = None
    meta = run.meta_batch()
    next(run.steps())
    with torch.no_grad():
        logits, _ = forward_taps(run.student, meta[0], [], keep_buffers=True)
        return F.cross_entropy(logits, meta[1])


@pytest.mark.system("meta_kd_sr")
def test_it_is_the_difference_of_meta_losses_after_real_steps() -> None:
    """Central differences along a few directions, of whole training steps by the loop itself."""
    found, before, _ = caught_after(a_run(), 3)
    (owner,) = a_run().losses.meta_owners()
    flat = torch.cat([before["losses"][name].flatten() for name in owner.values()])
    for seed in range(3):
        along = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ahead, behind = (after_one_step(a_run(), before, flat + sign * STEP * along) for sign in (1, -1))
        expected = float(ahead - behind) / (2 * STEP)
        assert float(found.meta_parameters @ along) == pytest.approx(expected, rel=1e-5)


class TestApproximations:
    @pytest.fixture
    def step(self) -> Step:
        run = a_run()
        next(run.steps())
        return a_step(run)

    def test_differences_come_near(self, step: Step) -> None:
        direction = a_direction(step)
        expected = Exact().slope(step, direction).meta_parameters
        for found in (
            Exact().pull_back(step, direction)[0],
            FiniteDifference(radius=1e-2).slope(step, direction),
            FiniteDifference(radius=1e-2).pull_back(step, direction)[0],
        ):
            assert relative_error(found.meta_parameters, expected) < 5e-3

    def test_an_inactive_pathway_has_none(self, step: Step) -> None:
        direction = a_direction(step)
        for active in ((1, 2), ()):
            some = Step(**{**vars(step), "active": active})
            for approximation in (Exact(), FiniteDifference()):
                found = approximation.slope(some, direction).meta_parameters
                assert found.shape == (SIZE,)
                assert not found.any()
        alone = Exact().slope(Step(**{**vars(step), "active": (0,)}), direction).meta_parameters
        torch.testing.assert_close(alone, Exact().slope(step, direction).meta_parameters)

    def test_without_meta_parameters_there_are_none(self) -> None:
        run = a_run(transform="projection", parameters=None)
        next(run.steps())
        step = a_step(run)
        for approximation in (Exact(), FiniteDifference()):
            assert approximation.slope(step, a_direction(step)).meta_parameters.shape == (0,)


def shared_process(run: Distillation) -> Process:
    """Two distances after one transform, and the same transform between other stages."""
    last = run.parameters.process.pathways[0]
    assert isinstance(last, Pathway)
    pathways = [
        last.model_copy(update={"distance": "l1", "parameters": None}),
        last.model_copy(update={"teacher_stage": 1, "student_stage": 1, "distance": "cosine"}),
        last,
    ]
    point = Point(progress=0.0, pathway_weights=[0.7, 0.4, 0.2])
    return Process(pathways=pathways, points=[point])


def shared_run() -> Distillation:
    run = a_run(process=shared_process(a_run()))
    (first, second) = run.losses.meta_owners()
    assert (first.pathways, second.pathways) == ((0, 2), (1,))
    next(run.steps())
    return run


def test_pathways_that_share_a_transform_share_its_gradient() -> None:
    run = shared_run()
    step = Step(**{**vars(a_step(run)), "active": (2, 0, 1)})
    direction = a_direction(step)
    slope, (pulled, _) = Exact().slope(step, direction), Exact().pull_back(step, direction)
    assert slope.meta_parameters.shape == (2 * SIZE,)
    assert relative_error(slope.meta_parameters, pulled.meta_parameters) < EXACT
    alone = [
        Exact().slope(Step(**{**vars(step), "active": (place,)}), direction).meta_parameters
        for place in (0, 1, 2)
    ]
    torch.testing.assert_close(sum(alone), slope.meta_parameters)


class Dropping(DynamicKernel):
    """Kernels, and the same random places of both maps left out."""

    def both(self, student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
        student, teacher = super().both(student_map, teacher_map)
        kept = nn.functional.dropout(torch.ones_like(student), 0.5)
        return student * kept, teacher * kept


def test_random_numbers_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    key = (Kind.TRANSFORM, "dropping")
    monkeypatch.setitem(registry._methods, key, Method(*key, "Drops.", "test", Dropping))
    run = a_run(transform="dropping")
    next(run.steps())
    step = a_step(run)
    direction = a_direction(step)
    slope, (pulled, _) = Exact().slope(step, direction), Exact().pull_back(step, direction)
    for name in (*PARTS, "meta_parameters"):
        assert relative_error(getattr(slope, name), getattr(pulled, name)) < EXACT, name


@pytest.mark.parametrize("pair", PAIRS)
def test_of_a_network_in_bfloat16(pair: str) -> None:
    """Its own values, exact derivatives."""
    settings = {"dtype": torch.float32, "training": {"precision": "bfloat16"}}
    with sdpa_kernel(SDPBackend.MATH):
        found, before, rates = caught_after(a_run("nesterov", PAIRS[pair], **settings), 2)
    twin = a_run("nesterov", PAIRS[pair], **settings)
    twin.load(before)
    truth, _ = unrolled(twin, rates, forward=straight_through)
    assert relative_error(found.meta_parameters, truth.meta_parameters) < 5e-3


@pytest.mark.parametrize(("precision", "lookahead"), [("bfloat16", 2), ("float16", 1)])
@pytest.mark.parametrize("name", ["exact", "finite_difference"])
def test_it_is_finite_in_low_precision(name: str, precision: str, lookahead: int) -> None:
    learn = {"hypergradient": name, "lookahead_steps": lookahead, "update_every_steps": 2}
    run = a_run("adamw", "test_vit", dtype=torch.float32, training={"precision": precision}, learn=learn)
    found = caught_after(run, 4)[0].meta_parameters
    assert found.isfinite().all()
    assert found.any()
