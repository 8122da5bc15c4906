"""The exact hypergradient against an independent oracle: unrolled steps, differentiated, in float64."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from search.hypergradient import HyperGradient, Parameters, Step
from search.hypergradient.exact import Exact
from search.randomness import mix
from search.recipe import LogitLoss, Pathway, Point, Process
from tests.search.hypergradient.runs import PAIRS, PARTS, TRAINING, caught_after, make_run, relative_error
from tests.search.hypergradient.unrolled import unrolled


def assert_exact(optimizer: str, student: str, *, steps: int, **settings: Any) -> None:
    """What the last window within so many steps finds is the derivative of those steps."""
    training = TRAINING[optimizer].model_copy(update=settings.pop("training", {}))
    run = make_run(training, student, **settings)
    found, before, rates = caught_after(run, steps)
    twin = make_run(training, student, **settings)
    twin.load(before)
    expected, after = unrolled(twin, rates)
    for name, value in run.student.named_parameters():
        torch.testing.assert_close(after[name], value.detach(), rtol=1e-11, atol=1e-11)
    for name in PARTS:
        error = relative_error(getattr(found, name), getattr(expected, name))
        assert error < 1e-9, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("optimizer", TRAINING)
def test_one_step_equals_the_unrolled_derivative(optimizer: str, pair: str) -> None:
    assert_exact(optimizer, PAIRS[pair], steps=4)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("optimizer", TRAINING)
def test_three_steps_equal_the_unrolled_derivative(optimizer: str, pair: str) -> None:
    assert_exact(optimizer, PAIRS[pair], steps=6, learn={"lookahead_steps": 3, "update_every_steps": 3})


def test_transforms_with_norms_are_carried_back_too() -> None:
    learn = {"lookahead_steps": 2, "update_every_steps": 3}
    assert_exact("nesterov", "test_resnet", steps=5, transform="gated", learn=learn)


@pytest.mark.parametrize("lookahead", [1, 2])
@pytest.mark.parametrize("transform", ["projection", "gated"])
def test_a_transform_that_pathways_share_stays_the_optimisers(transform: str, lookahead: int) -> None:
    """Whatever is put in the place of its parameters is taken out again, and it goes on learning."""
    names = [(transform, "mse"), (transform, "hcl"), (f"{transform}+max_pool2", "mse")]
    process = Process(
        logit_losses=[LogitLoss()],
        pathways=[
            Pathway(teacher_stage=1, student_stage=1, transform=name, distance=distance)
            for name, distance in names
        ],
        points=[
            Point(
                progress=0.0,
                logit_weights=[1.0],
                pathway_weights=[0.7, 0.2, 1.5],
                teacher_temperatures=[2.0],
                student_temperatures=[2.5],
            )
        ],
    )
    learn = {"lookahead_steps": lookahead, "update_every_steps": 2}
    assert_exact("nesterov", "test_resnet", steps=2 + lookahead, learned=process, learn=learn)
    run = make_run(TRAINING["nesterov"], "test_resnet", learned=process, learn=learn)
    shared = dict(run.losses.named_parameters())
    starts = {name: value.detach().clone() for name, value in shared.items()}
    for _ in zip(run.steps(), range(4), strict=False):
        after = dict(run.losses.named_parameters())
        assert all(after[name] is value for name, value in shared.items())
        assert all(not torch.equal(value, starts[name]) for name, value in shared.items())
        starts = {name: value.detach().clone() for name, value in shared.items()}


@pytest.mark.parametrize("lookahead", [1, 2])
@pytest.mark.parametrize(
    "chain",
    [
        "projection+channel_attention+max_pool2+l2_channels",
        "gated+random_mask+softmax_places+batch_norm",
        "linear+spatial_attention+multi_scale+min_max",
    ],
)
def test_operators_are_differentiated_too(chain: str, lookahead: int) -> None:
    """A mask is drawn again as it was drawn in the step."""
    learn = {"lookahead_steps": lookahead, "update_every_steps": 2}
    assert_exact("nesterov", "test_resnet", steps=2 + lookahead, transform=chain, learn=learn)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("lookahead", [1, 2])
def test_feature_losses_are_differentiated_by_embeddings_too(lookahead: int, pair: str) -> None:
    learn = {"lookahead_steps": lookahead, "update_every_steps": 2}
    assert_exact("nesterov", PAIRS[pair], steps=2 + lookahead, whole=["rkd"], learn=learn)


# Between two steps the student takes over the bias that atsc's teacher learned: a constant, not a derivative.
@pytest.mark.parametrize(
    ("loss", "lookahead"), [("norm", 1), ("norm", 2), ("simkd", 1), ("simkd", 2), ("atsc", 1)]
)
def test_a_part_of_the_students_own_is_differentiated_too(loss: str, lookahead: int) -> None:
    learn = {"lookahead_steps": lookahead, "update_every_steps": 2}
    assert_exact("nesterov", "test_resnet", steps=2 + lookahead, whole=[loss], learn=learn)


@pytest.mark.parametrize("lookahead", [1, 2])
@pytest.mark.parametrize("loss", ["mlkd", "sskd"])
def test_further_views_are_differentiated_too(loss: str, lookahead: int) -> None:
    learn = {"lookahead_steps": lookahead, "update_every_steps": 2}
    assert_exact("nesterov", "test_resnet", steps=2 + lookahead, whole=[loss], learn=learn)


@pytest.mark.parametrize("loss", ["ltd", "r2kd"])
def test_attacks_and_a_pruned_teachers_answers_are_constants_of_a_step(loss: str) -> None:
    assert_exact("nesterov", "test_vit", steps=3, whole=[loss])


@pytest.mark.parametrize("lookahead", [1, 2])
def test_a_step_in_parts_is_the_mean_over_them(lookahead: int) -> None:
    learn = {"lookahead_steps": lookahead, "update_every_steps": 2}
    assert_exact("adamw", "test_resnet", steps=2 + lookahead, learn=learn, training={"accumulate_parts": 2})


@pytest.mark.parametrize("lookahead", [1, 2])
@pytest.mark.parametrize("optimizer", ["nesterov", "adamw"])
def test_at_constant_length_it_is_the_derivative_of_gradients_that_only_turn(
    optimizer: str, lookahead: int
) -> None:
    learn = {"lookahead_steps": lookahead, "update_every_steps": 2, "at_constant_length": True}
    assert_exact(optimizer, "test_resnet", steps=2 + lookahead, learn=learn)


class Guarded(Exact):
    """Fails where a pass leaves a trace."""

    def slope(self, step: Step, direction: Parameters) -> HyperGradient:
        before = everything(step)
        result = super().slope(step, direction)
        assert all(torch.equal(one, other) for one, other in zip(before, everything(step), strict=True))
        return result

    def pull_back(self, step: Step, direction: Parameters) -> tuple[HyperGradient, dict[str, Tensor]]:
        before = everything(step)
        result = super().pull_back(step, direction)
        assert all(torch.equal(one, other) for one, other in zip(before, everything(step), strict=True))
        return result


def everything(step: Step) -> list[Tensor]:
    modules = [step.student, step.losses]
    return [
        *(value.clone() for module in modules for value in module.state_dict().values()),
        *(p.grad.clone() for module in modules for p in module.parameters() if p.grad is not None),
        torch.get_rng_state(),
    ]


@pytest.mark.parametrize("pair", PAIRS)
def test_leaves_weights_buffers_and_random_state_as_they_were(pair: str) -> None:
    learn = {"lookahead_steps": 2, "update_every_steps": 2}
    run = make_run(TRAINING["nesterov"], PAIRS[pair], hypergradient=Guarded(), learn=learn)
    assert sum(1 for _, _ in zip(run.steps(), range(4), strict=False)) == 4


class Nothing(Exact):
    """Finds that nothing matters, after all the work."""

    def slope(self, step: Step, direction: Parameters) -> HyperGradient:
        found = super().slope(step, direction)
        return HyperGradient(
            **{field.name: torch.zeros_like(getattr(found, field.name)) for field in fields(HyperGradient)}
        )


def test_a_search_that_learns_nothing_is_bitwise_a_replay() -> None:
    """Meta pass, hypergradient and bookkeeping leave no trace in weights, buffers and data order."""
    searching = make_run(TRAINING["adamw"], "test_resnet", transform="gated", hypergradient=Nothing())
    started = searching.recorded()
    for _ in searching.steps():
        pass
    learned = searching.recorded()
    assert all(point.pathway_weights == started.points[-1].pathway_weights for point in learned.points)
    replay = make_run(TRAINING["adamw"], "test_resnet", transform="gated", process=learned)
    for _ in replay.steps():
        pass
    for module in ("student", "losses"):
        ended = getattr(replay, module).state_dict()
        for name, value in getattr(searching, module).state_dict().items():
            assert torch.equal(value, ended[name]), name


def test_seeds_of_neighbouring_steps_differ() -> None:
    assert (
        len({mix(seed, kind, index) for seed in range(5) for kind in range(4) for index in range(50)}) == 1000
    )
