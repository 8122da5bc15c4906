"""What every logit loss keeps, over the registry: a new one is covered the moment it exists."""

from __future__ import annotations

import pytest
import torch

from search.data import UNLABELLED
from search.logits import build_logit_loss
from search.method_card import Need
from search.registry import Kind, Method, methods
from tests.search.logits.logits import TWO, logits_of, loss_of, targets

HELD = {"wsld"}
"""Losses with a part that depends on the student and is held: there the gradient's derivative is not its
difference."""


@pytest.fixture(params=methods(Kind.LOGIT_LOSS), ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> Method:
    found = request.param
    assert isinstance(found, Method)
    return found


@pytest.fixture
def name(method: Method) -> str:
    return method.name


def test_a_finite_scalar_whose_gradient_reaches_the_student_only(name: str) -> None:
    student, teacher = logits_of(0).requires_grad_(), logits_of(1).requires_grad_()
    loss = loss_of(name, student, teacher)
    assert loss.shape == ()
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_it_is_zero_between_equals_where_its_card_says_so_and_nowhere_else(method: Method) -> None:
    student = logits_of(0).requires_grad_()
    loss = loss_of(method.name, student, logits_of(0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert (abs(float(loss.detach())) < 1e-12) == method.card.zero_at_equality
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-12 or not method.card.zero_at_equality


def test_its_gradient_can_be_differentiated_by_the_temperatures_of_its_card(method: Method) -> None:
    student = logits_of(0).requires_grad_()
    temperatures = {
        side: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for side, value in (("teacher", 2.0), ("student", 3.0))
    }
    loss = build_logit_loss(method.name)(
        student,
        logits_of(1),
        teacher_temperature=temperatures["teacher"],
        student_temperature=temperatures["student"],
        targets=targets(),
    )
    (slope,) = torch.autograd.grad(loss, student, create_graph=True)
    found = torch.autograd.grad(
        (slope * logits_of(2)).sum(), [*temperatures.values()], allow_unused=True, materialize_grads=True
    )
    moving = {side for side, value in zip(temperatures, found, strict=True) if value != 0}
    assert moving == set(method.card.temperatures)
    assert all(torch.isfinite(value) for value in found)


def test_its_second_derivative_by_the_logits_is_that_of_differences(name: str) -> None:
    if name in HELD:
        return
    student, direction = logits_of(0).requires_grad_(), logits_of(2)

    def slope(at: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss_of(name, at, logits_of(1)), at, create_graph=True)[0]

    (found,) = torch.autograd.grad((slope(student) * direction).sum(), student)
    with torch.no_grad():
        ahead, behind = (student + sign * 1e-5 * direction for sign in (1, -1))
    expected = (slope(ahead.requires_grad_()) - slope(behind.requires_grad_())) / 2e-5
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("size", [1e4, 1e-6, 0.0], ids=["huge", "tiny", "zero"])
def test_extreme_logits_stay_finite(name: str, size: float) -> None:
    student = (size * logits_of(0).float()).requires_grad_()
    loss = loss_of(name, student, size * logits_of(1).float())
    (slope,) = torch.autograd.grad(loss, student, create_graph=True)
    (second,) = torch.autograd.grad((slope * logits_of(2).float()).sum(), student, allow_unused=True)
    assert torch.isfinite(loss)
    assert torch.isfinite(slope).all()
    assert second is None or torch.isfinite(second).all()


def test_it_is_finite_on_what_a_network_gives_under_bfloat16(name: str) -> None:
    student = logits_of(0).bfloat16().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(name, student, logits_of(1).bfloat16().float())
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("images", [1, 2])
def test_a_small_batch_and_two_classes_are_no_trouble(name: str, images: int) -> None:
    student = logits_of(0)[:images, :2].clone().requires_grad_()
    loss = build_logit_loss(name)(
        student,
        logits_of(1)[:images, :2],
        teacher_temperature=TWO,
        student_temperature=TWO,
        targets=targets()[:images],
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_it_falls_when_logits_follow_it(name: str) -> None:
    student = logits_of(0).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)
    values = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = loss_of(name, student, logits_of(1))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0] - 0.1 * abs(values[0])


def test_the_same_logits_give_the_same_loss(name: str) -> None:
    student, teacher = logits_of(0), logits_of(1)
    assert torch.equal(loss_of(name, student, teacher), loss_of(name, student, teacher))


def test_every_setting_at_both_ends_of_its_range_gives_another_loss(method: Method) -> None:
    before = loss_of(method.name, logits_of(0), logits_of(1))
    for setting, searched in method.card.ranges().items():
        for end in ("low", "high"):
            found = loss_of(method.name, logits_of(0), logits_of(1), **{setting: searched[end]})
            assert torch.isfinite(found)
            assert found != before


def test_images_are_compared_with_each_other_where_its_card_asks_for_several(method: Method) -> None:
    """Else the loss of a batch is the mean of its halves', and a batch may be as small as it likes."""
    loss = build_logit_loss(method.name)

    def value(rows: slice) -> torch.Tensor:
        found: torch.Tensor = loss(
            logits_of(0)[rows],
            logits_of(1)[rows],
            teacher_temperature=TWO,
            student_temperature=TWO,
            targets=targets()[rows],
        )
        return found

    halves = torch.stack([value(slice(8)), value(slice(8, 16))]).mean()
    assert torch.allclose(value(slice(16)), halves, rtol=1e-9) == (method.card.least_batch == 1)


@pytest.mark.parametrize(
    "method",
    [one for one in methods(Kind.LOGIT_LOSS) if Need.LABELS not in one.card.needs],
    ids=lambda method: method.name,
)
def test_a_method_that_needs_no_labels_reads_none(method: Method) -> None:
    values = [
        build_logit_loss(method.name)(
            logits_of(0), logits_of(1), teacher_temperature=TWO, student_temperature=TWO, targets=labels
        )
        for labels in (targets(), torch.full_like(targets(), UNLABELLED))
    ]
    assert torch.equal(*values)
