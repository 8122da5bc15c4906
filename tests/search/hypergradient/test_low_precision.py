"""Networks in low precision under losses in float32: the hypergradient of the network that was trained."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from search.hypergradient.finite_difference import FiniteDifference
from search.training.precision import Precision, forward_taps
from tests.search.hypergradient.runs import PAIRS, TRAINING, caught_after, make_run, relative_error, whole
from tests.search.hypergradient.straight_through import straight_through
from tests.search.hypergradient.unrolled import unrolled

STEPS = (2, 3, 4)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("optimizer", ["nesterov", "adamw"])
def test_bfloat16_equals_the_unrolled_network(
    optimizer: str, pair: str, record_property: Callable[[str, object], None]
) -> None:
    training = TRAINING[optimizer].model_copy(update={"precision": "bfloat16"})
    settings = {"dtype": torch.float32}
    found, differences, truths = [], [], []
    for steps in STEPS:
        # Fused attention rounds otherwise than the mathematical one, which alone is twice differentiable.
        with sdpa_kernel(SDPBackend.MATH):
            one, before, rates = caught_after(make_run(training, PAIRS[pair], **settings), steps)
        twin = make_run(training, PAIRS[pair], **settings)
        twin.load(before)
        truths.append(whole(unrolled(twin, rates, forward=straight_through)[0]))
        found.append(relative_error(whole(one), truths[-1]))
    other = FiniteDifference(precision="bfloat16")
    for steps, truth in zip(STEPS, truths, strict=True):
        one, _, _ = caught_after(make_run(training, PAIRS[pair], hypergradient=other, **settings), steps)
        differences.append(relative_error(whole(one), truth))
    exact, difference = statistics.median(found), statistics.median(differences)
    record_property(f"{optimizer}, {pair}", f"exact {exact:.1e}, differences in bfloat16 {difference:.1e}")
    # A last bit of a weight can decide to which side it is rounded, and then all values differ.
    assert exact < 5e-3, found
    assert exact < difference


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_differentiated_values_are_those_of_the_training_pass(precision: Precision, name: str) -> None:
    run = make_run(TRAINING["sgd"], PAIRS[name], dtype=torch.float32)
    images = run.batch().images
    with torch.no_grad():
        plain, maps = forward_taps(run.student, images, [0, 1], precision=precision, keep_buffers=True)
        exact, exact_maps = forward_taps(
            run.student, images, [0, 1], precision=precision, keep_buffers=True, exact_tangents=True
        )
    assert plain.dtype == exact.dtype == torch.float32
    assert torch.equal(plain, exact)
    assert all(torch.equal(maps[stage], exact_maps[stage]) for stage in maps)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_statistics_of_norms_stay_in_float32_and_follow(precision: Precision) -> None:
    run = make_run(TRAINING["sgd"], "test_resnet", dtype=torch.float32)
    images = run.batch().images
    twin = make_run(TRAINING["sgd"], "test_resnet", dtype=torch.float32)
    forward_taps(run.student, images, [], precision=precision)
    forward_taps(twin.student, images, [])
    for (name, low), high in zip(run.student.named_buffers(), twin.student.buffers(), strict=True):
        assert low.dtype == high.dtype, name
        torch.testing.assert_close(low, high, rtol=0.05, atol=0.02)


def test_a_search_in_float16_has_finite_hypergradients() -> None:
    training = TRAINING["adamw"].model_copy(update={"precision": "float16"})
    found, _, _ = caught_after(make_run(training, "test_vit", dtype=torch.float32), 3)
    assert whole(found).isfinite().all()
    assert whole(found).any()
