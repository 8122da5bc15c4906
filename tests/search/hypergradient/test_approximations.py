"""What holds for every approximation, and how near the finite differences come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from search.distill import Distillation
from search.hypergradient import Step, build_approximation
from search.hypergradient.exact import Exact
from search.hypergradient.finite_difference import FiniteDifference
from search.registry import Kind, UnknownMethodError, methods
from tests.search.hypergradient.runs import PARTS, TRAINING, make_run, relative_error, whole

NAMES = [method.name for method in methods(Kind.HYPERGRADIENT)]


def traces(run: Distillation) -> Iterator[torch.Tensor]:
    for module in (run.student, run.losses):
        yield from (value.clone() for value in module.state_dict().values())
        yield from (p.grad.clone() for p in module.parameters() if p.grad is not None)
    yield torch.get_rng_state()


def a_step(run: Distillation) -> Step:
    """Where the run stands, as a step."""
    live = {f"student.{name}": value.detach() for name, value in run.student.named_parameters()}
    live |= {f"losses.{name}": value.detach() for name, value in run.losses.named_parameters()}
    return Step(
        student=run.student,
        losses=run.losses,
        before=live,
        parts=[run.batch()],
        random_seeds=[5],
        effective=run.process.at(0.5),
        active=(0, 1, 2),
    )


def a_direction(step: Step) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: 0.01 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in step.before.items()
    }


@pytest.fixture(scope="module")
def run() -> Distillation:
    started = make_run(TRAINING["nesterov"], "test_vit")
    next(started.steps())
    return started


def test_there_are_two_ways_at_least() -> None:
    assert {"exact", "finite_difference"} <= set(NAMES)
    with pytest.raises(UnknownMethodError, match="known: exact"):
        build_approximation("guess")


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_exact_one_and_leaves_no_trace(name: str, run: Distillation) -> None:
    step = a_step(run)
    direction = a_direction(step)
    before = list(traces(run))
    slope = build_approximation(name).slope(step, direction)
    pulled, hessian = build_approximation(name).pull_back(step, direction)
    assert all(torch.equal(a, b) for a, b in zip(before, traces(run), strict=True))
    expected, expected_hessian = Exact().pull_back(step, direction)
    for part in PARTS:
        for found in (slope, pulled):
            assert getattr(found, part).dtype == torch.float64
            assert relative_error(getattr(found, part), getattr(expected, part)) < 5e-3, part
    assert hessian.keys() == step.before.keys()
    flat, expected_flat = (
        torch.cat([value.flatten() for value in values.values()]) for values in (hessian, expected_hessian)
    )
    assert relative_error(flat, expected_flat) < 5e-3


@pytest.mark.system("distpro")
def test_differences_nearer_by_are_nearer(run: Distillation) -> None:
    step = a_step(run)
    direction = a_direction(step)
    exact = whole(Exact().slope(step, direction))
    errors = [
        relative_error(
            whole(FiniteDifference(radius=radius, precision="float32").slope(step, direction)), exact
        )
        for radius in (1e-1, 1e-2, 1e-3)
    ]
    assert errors[0] > 30 * errors[1] > 900 * errors[2], (
        errors
    )  # second order: a hundredth each, but rounding


def test_skipped_pathways_have_no_gradient(run: Distillation) -> None:
    step = a_step(run)
    everything = Exact().slope(step, a_direction(step)).pathway_weights
    some = Step(**{**vars(step), "active": (2, 0)})
    found = Exact().slope(some, a_direction(step)).pathway_weights
    assert found[1] == 0
    torch.testing.assert_close(found[[0, 2]], everything[[0, 2]])
    none = Step(**{**vars(step), "active": ()})
    assert not Exact().slope(none, a_direction(step)).pathway_weights.any()
    assert not FiniteDifference().slope(none, a_direction(step)).pathway_weights.any()


def test_a_direction_of_zeros_has_no_slope(run: Distillation) -> None:
    step = a_step(run)
    direction = {name: torch.zeros_like(value) for name, value in step.before.items()}
    for name in NAMES:
        assert not whole(build_approximation(name).slope(step, direction)).any()


@pytest.mark.parametrize("lookahead", [1, 2])
def test_a_search_runs_with_differences(lookahead: int) -> None:
    learn = {
        "hypergradient": "finite_difference",
        "lookahead_steps": lookahead,
        "update_every_steps": 2,
    }
    searched = make_run(TRAINING["adamw"], "test_vit", dtype=torch.float32, learn=learn)
    started = searched.recorded().points[-1].pathway_weights
    for _, _ in zip(range(2), searched.steps(), strict=False):
        pass
    assert searched.recorded().points[-1].pathway_weights != started
