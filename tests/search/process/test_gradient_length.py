"""All weights together are no second learning rate: the student's gradient keeps its length."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from search.distill import Distillation
from search.process import Effective, LearnedProcess
from search.process.gradient_length import EVERY_UPDATES, NEWEST_SHARE, GradientLength
from search.records import Learning
from search.training.precision import forward_taps
from tests.search.hypergradient.runs import TRAINING, make_run
from tests.search.process.processes import START, process


class TestFactor:
    def test_it_moves_to_what_is_measured_on_a_logarithmic_scale(self) -> None:
        length = GradientLength(is_held=True)
        length.measured(start=1.0, now=16.0)
        assert length.factor == pytest.approx(0.25**NEWEST_SHARE)
        for _ in range(60):
            length.measured(start=1.0, now=16.0 * length.factor**2)
        assert length.factor == pytest.approx(0.25)

    @pytest.mark.parametrize(("start", "now"), [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)])
    def test_a_length_that_says_nothing_changes_nothing(self, start: float, now: float) -> None:
        length = GradientLength(is_held=True)
        length.measured(start=start, now=now)
        assert length.factor == 1.0

    def test_it_is_due_now_and_then_and_never_where_it_is_not_held(self) -> None:
        held, free = GradientLength(is_held=True), GradientLength(is_held=False)
        due = []
        for _ in range(2 * EVERY_UPDATES):
            due.append(held.is_due)
            assert not free.is_due
            held.updated()
            free.updated()
        assert [index for index, is_due in enumerate(due) if is_due] == [0, EVERY_UPDATES]

    def test_it_goes_on_from_its_state(self) -> None:
        length, again = GradientLength(is_held=True), GradientLength(is_held=True)
        length.measured(start=1.0, now=3.0)
        length.updated()
        again.load(length.state())
        assert (again.factor, again.is_due) == (length.factor, length.is_due)


def student_length(run: Distillation, effective: Effective) -> float:
    """Of the student's gradient of these weights' training loss on the next batch: written out anew."""
    batch = run.batch()
    logits, maps = forward_taps(run.student, batch.images, run.losses.student_stages(), keep_buffers=True)
    losses = run.losses.logit_losses(
        logits,
        batch.teacher_logits,
        batch.targets,
        teacher_temperatures=effective.teacher_temperatures,
        student_temperatures=effective.student_temperatures,
    )
    loss = effective.cross_entropy_weight * F.cross_entropy(logits, batch.targets)
    loss = loss + torch.stack(losses) @ effective.logit_weights
    loss = loss + run.losses(maps, batch.teacher_maps) @ effective.pathway_weights
    gradients = torch.autograd.grad(loss, list(run.student.parameters()), allow_unused=True)
    return math.sqrt(sum(float(value.square().sum()) for value in gradients if value is not None))


@pytest.mark.parametrize("lookahead", [1, 2])
def test_weights_that_change_leave_the_gradient_as_long_as_the_starting_weights_would(lookahead: int) -> None:
    learn = {
        "at_constant_length": True,
        "learning_rate": 0.3,
        "lookahead_steps": lookahead,
        "update_every_steps": lookahead,
    }
    run = make_run(TRAINING["momentum"], "test_resnet", learn=learn, epochs=20)
    for _ in islice(run.steps(), run.total_steps - 1):
        pass
    effective, start = run.process.at(run.step / run.total_steps), run.process.starting()
    without = effective.times(1 / run.process.length.factor)
    of_start, found, free = (student_length(run, one) for one in (start, effective, without))
    assert not 0.7 < free / of_start < 1.4, "else there would be nothing to hold"
    assert found == pytest.approx(of_start, rel=0.15)


def test_a_search_that_goes_on_from_another_keeps_its_weight_of_cross_entropy() -> None:
    begun = process(START.model_copy(update={"cross_entropy_weight": 0.3}))
    learned = LearnedProcess(begun, Learning(learning_rate=0.1, at_constant_length=True))
    assert learned.at(0.0).cross_entropy_weight == 0.3
    assert learned.starting().cross_entropy_weight == 0.3
