"""What every feature loss keeps, over the registry: a new one is covered the moment it exists."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.autograd.forward_ad as fwd
from pydantic import JsonValue
from torch import Tensor, nn

from search.data import UNLABELLED
from search.features import FeatureLossModule, ModelOutputs, Pair, Seen
from search.method_card import Need
from search.registry import Kind, Method, methods
from tests.search.features.seen import (
    PAIRS,
    built,
    equal_pair,
    learned_parts,
    pair,
    seen,
    student_changed,
    targets,
    teacher_changed,
    value,
)

OWN_RATE = {"atsc": 1e-4}
"""Of a loss's own parameters, where a step of 0.05 for each would be far: a whole teacher is anchored."""
OF_A_BATCH = {"ltd", "masked_generative", "nst", "ofd", "uskd"}
"""Losses that draw at random, or take a size or a mean from the batch: no comparison of its images."""


@pytest.fixture(params=methods(Kind.FEATURE_LOSS), ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> Method:
    found = request.param
    assert isinstance(found, Method)
    return found


@pytest.fixture(params=PAIRS)
def of(request: pytest.FixtureRequest) -> Pair:
    return pair(request.param)


def gradients(loss: FeatureLossModule, batch: Seen, *, create_graph: bool = False) -> list[Tensor]:
    """By what the student gives, then by the loss's own parameters."""
    return list(
        torch.autograd.grad(
            value(loss, batch),
            [*learned_parts(batch), *loss.parameters()],
            allow_unused=True,
            materialize_grads=True,
            create_graph=create_graph,
        )
    )


def moved(batch: Seen, by: float, *, seed: int = 3) -> Seen:
    """The student's outputs a step along a random direction."""
    return student_changed(batch, lambda each: each + by * noise_like(each, seed))


def dual(value: Tensor) -> Tensor:
    """With the tangent `noise_like(value, 3)`."""
    made: Tensor = fwd.make_dual(value.detach(), noise_like(value, 3))  # type: ignore[no-untyped-call]
    return made


def shaken(loss: FeatureLossModule) -> FeatureLossModule:
    """With other values of its own parameters: not where its training begins."""
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.01 * noise_like(parameter, 5))
    return loss


def noise_like(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)


def test_a_finite_scalar_whose_gradient_reaches_the_student_and_what_it_trains(
    method: Method, of: Pair
) -> None:
    loss = built(method.name, of)
    batch = seen(of, loss, learning=True)
    found = value(loss, batch)
    assert found.shape == ()
    assert torch.isfinite(found)
    by_part = gradients(loss, batch)
    assert all(bool(torch.isfinite(each).all()) for each in by_part)
    student = by_part[: len(learned_parts(batch))]
    assert any(bool((each != 0).any()) for each in student)
    own = by_part[len(student) :]
    assert bool(own) == method.card.trains
    assert not own or any(bool((each != 0).any()) for each in own)


def test_no_gradient_reaches_the_teacher(method: Method, of: Pair) -> None:
    loss = built(method.name, of)
    batch = seen(of, loss, learning=True)
    teacher = ModelOutputs(
        batch.teacher.logits.requires_grad_(),
        {tap: each.requires_grad_() for tap, each in batch.teacher.maps.items()},
    )
    value(loss, replace(batch, teacher=teacher)).backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is None for each in [teacher.logits, *teacher.maps.values()])
    if of.teacher.model is not None:
        assert all(parameter.grad is None for parameter in of.teacher.model.parameters())


def test_zero_between_equals_exactly_where_its_card_says_so(method: Method) -> None:
    of = equal_pair()
    loss = built(method.name, of)
    found = float(value(loss, seen(of, loss)))
    assert (abs(found) < 1e-9) == method.card.zero_at_equality


def test_forward_mode_agrees_with_reverse_mode_and_with_differences(method: Method, of: Pair) -> None:
    loss = built(method.name, of)
    batch = seen(of, loss, learning=True)
    with torch.no_grad(), fwd.dual_level():
        found = value(loss, student_changed(batch, dual))
        tangent = fwd.unpack_dual(found).tangent  # type: ignore[no-untyped-call]
    parts = learned_parts(batch)
    expected = sum(
        (slope * noise_like(part, 3)).sum()
        for slope, part in zip(gradients(loss, batch), parts, strict=False)
    )
    assert tangent is not None
    torch.testing.assert_close(tangent, expected, rtol=1e-7, atol=1e-10)


def test_it_can_be_differentiated_twice(method: Method) -> None:
    loss = built(method.name, pair())
    batch = seen(pair(), loss, learning=True)
    first = gradients(loss, batch, create_graph=True)
    along = sum((slope * noise_like(slope, 4)).sum() for slope in first)
    assert isinstance(along, Tensor)
    if not along.requires_grad:
        return
    second = torch.autograd.grad(
        along, [*learned_parts(batch), *loss.parameters()], allow_unused=True, materialize_grads=True
    )
    assert all(bool(torch.isfinite(each).all()) for each in second)


@pytest.mark.parametrize("size", [1e3, 1e-4, 0.0], ids=["huge", "tiny", "silent"])
def test_extreme_outputs_stay_finite(method: Method, size: float) -> None:
    loss = built(method.name, pair()).float()
    batch = seen(pair(), loss)

    extreme = student_changed(batch, lambda each: (size * each.detach()).float().requires_grad_())
    extreme = teacher_changed(extreme, lambda each: (size * each).float())
    assert torch.isfinite(value(loss, extreme))
    assert all(bool(torch.isfinite(each).all()) for each in gradients(loss, extreme))


def test_it_is_finite_under_bfloat16(method: Method, of: Pair) -> None:
    loss = built(method.name, of).float()
    batch = student_changed(seen(of, loss), lambda each: each.bfloat16().float().requires_grad_())
    batch = teacher_changed(batch, lambda each: each.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(value(loss, batch))
        assert all(bool(torch.isfinite(each).all()) for each in gradients(loss, batch))


@pytest.mark.parametrize("images", [1, 2])
def test_a_small_batch_is_no_trouble(method: Method, images: int) -> None:
    loss = built(method.name, pair())
    batch = seen(pair(), loss, rows=slice(images), learning=True)
    assert torch.isfinite(value(loss, batch))
    assert all(bool(torch.isfinite(each).all()) for each in gradients(loss, batch))


def test_the_same_seed_gives_the_same_loss(method: Method, of: Pair) -> None:
    first, again = (built(method.name, of, seed=4) for _ in range(2))
    batch = seen(of, first)
    assert torch.equal(value(first, batch, seed=1), value(again, batch, seed=1))
    if method.card.trains:
        other = built(method.name, of, seed=5)
        assert not torch.equal(value(first, batch, seed=1), value(other, seen(of, other), seed=1))


def test_it_is_restored_from_its_state(method: Method, of: Pair) -> None:
    whole = built(method.name, of, seed=4)
    batch = seen(of, whole)
    with torch.random.fork_rng():
        whole(batch)
    other = built(method.name, of, seed=6)
    other.load_state_dict(whole.state_dict())
    assert torch.equal(value(whole, batch), value(other, batch))


def test_it_falls_when_outputs_follow_it(method: Method, of: Pair) -> None:
    """The student's outputs on eight images, and the loss's own parameters, by Adam.

    The teacher is made sure of itself: untrained, it knows nothing, and soft cross-entropy has no way to go.
    """
    loss = built(method.name, of)
    batch = moved(seen(of, loss), 0.0)
    batch = student_changed(batch, lambda each: nn.Parameter(each.detach()))
    sure = batch.teacher.logits / batch.teacher.logits.std() * 3
    batch = replace(batch, teacher=ModelOutputs(sure, batch.teacher.maps))
    groups = [
        {"params": learned_parts(batch), "lr": 0.05},
        {"params": list(loss.parameters()), "lr": OWN_RATE.get(method.name, 0.05)},
    ]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    values = []
    for _ in range(100):
        optimizer.zero_grad()
        found = value(loss, batch)
        found.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(float(found.detach()))
    assert values[-1] < values[0] - 0.1 * abs(values[0])


def test_every_setting_at_both_ends_of_its_range_gives_another_loss(method: Method) -> None:
    batch_of = shaken(built(method.name, pair()))
    before = value(batch_of, seen(pair(), batch_of))
    for setting, searched in method.card.ranges().items():
        for end in ("low", "high"):
            loss = shaken(built(method.name, pair(), {setting: searched[end]}))
            found = value(loss, seen(pair(), loss))
            assert torch.isfinite(found)
            assert found != before


def options(method: Method) -> list[dict[str, JsonValue]]:
    """The defaults, and every value of the settings that are one of a few."""
    properties = method.card.config.model_json_schema().get("properties", {})
    return [{}, *({name: value} for name, how in properties.items() for value in how.get("enum", ()))]


def test_its_card_says_whether_it_teaches_the_students_logits(method: Method) -> None:
    """With any of its settings: by this it is kept from methods that put another head there."""
    taught = False
    for config in options(method):
        loss = built(method.name, pair(), config)
        batch = seen(pair(), loss, learning=True)
        taught |= bool((gradients(loss, batch)[0] != 0).any())
    assert taught == method.card.teaches_logits


def test_images_are_compared_with_each_other_where_its_card_asks_for_several(method: Method) -> None:
    """Else the loss of a batch is the mean of its halves', and a batch may be as small as it likes."""
    loss = built(method.name, pair())
    whole = value(loss, seen(pair(), loss))
    halves = [value(loss, seen(pair(), loss, rows=rows)) for rows in (slice(4), slice(4, 8))]
    is_mean = torch.allclose(whole, torch.stack(halves).mean(), rtol=1e-6, atol=1e-9)
    assert is_mean == (method.card.least_batch == 1 and method.name not in OF_A_BATCH)


@pytest.mark.parametrize(
    "method",
    [one for one in methods(Kind.FEATURE_LOSS) if Need.LABELS not in one.card.needs],
    ids=lambda method: method.name,
)
def test_a_method_that_needs_no_labels_reads_none(method: Method, of: Pair) -> None:
    """Other labels, in lessons too, leave its loss as it was, to the bit."""
    values = []
    for labels in (targets(), torch.full_like(targets(), UNLABELLED)):
        loss = built(method.name, of, labels=labels)
        batch = seen(of, loss)
        values.append(value(loss, replace(batch, targets=labels[: len(batch.targets)])))
    assert torch.equal(*values)
