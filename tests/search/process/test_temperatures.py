"""A learned temperature follows what it does to the target, not the factor that keeps the gradient's size."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from torch import Tensor, nn

import search.training.losses
from search.distill import Distillation
from search.hypergradient import HyperGradient
from search.logits import build_logit_loss
from search.process import LearnedProcess
from search.recipe import LogitLoss, Point, Process
from search.records import Learning
from search.spec import Training
from tests.search.training.runs import make_run

TRAINING = Training(optimizer="sgd", learning_rate=0.05, batch_size=16, report_every_steps=1)
TEACHER, STUDENT, WEIGHTS = [2.0, 3.5], [2.5, 1.7], [1.0, 0.3]
PROCESS = Process(
    logit_losses=[LogitLoss(), LogitLoss()],
    points=[
        Point(
            progress=0.0,
            logit_weights=WEIGHTS,
            teacher_temperatures=TEACHER,
            student_temperatures=STUDENT,
        )
    ],
)


class Bare(nn.Module):
    """KL divergence without its factor, times a factor of the test's own."""

    def __init__(self, factor: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.factor = factor
        self.kd = build_logit_loss("kd")

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, **settings: Tensor) -> Tensor:
        teacher, student = settings["teacher_temperature"], settings["student_temperature"]
        loss: Tensor = self.kd(student_logits, teacher_logits, **settings)
        return loss / (teacher * student).detach() * self.factor(teacher, student)


def hypergradient(monkeypatch: pytest.MonkeyPatch, losses: list[nn.Module] | None) -> HyperGradient:
    """Of the first step of a search in float64, with these logit losses in place of the product's."""
    seen: list[HyperGradient] = []
    monkeypatch.setattr(LearnedProcess, "update", lambda _self, found, active: seen.append(found))
    run = make_run(TRAINING, process=PROCESS, learn=Learning(learning_rate=0.1))
    for model in (run.student, run.teacher):
        assert model is not None
        model.double()
    if losses is not None:
        given = cycle(losses)  # Built once to see that they can be, and once more to be used.
        monkeypatch.setattr(search.training.losses, "build_logit_loss", lambda _name, _config: next(given))
    double = Distillation(run.material, run.parameters, run.training, seed=run.seed)
    next(double.steps())
    monkeypatch.undo()
    return seen[0]


def held(teacher: float, student: float) -> nn.Module:
    return Bare(lambda _t, _s: torch.tensor(teacher * student, dtype=torch.float64))


def test_the_hypergradient_of_temperatures_is_that_of_a_loss_with_a_number_as_its_factor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    product = hypergradient(monkeypatch, None)
    expected = hypergradient(monkeypatch, [held(t, s) for t, s in zip(TEACHER, STUDENT, strict=True)])
    for name in ("teacher_temperatures", "student_temperatures", "logit_weights"):
        torch.testing.assert_close(getattr(product, name), getattr(expected, name), rtol=1e-10, atol=0)
        assert (getattr(product, name).abs() > 0).all()


def test_a_factor_that_is_learned_too_would_add_a_pull_on_the_temperatures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """d(T_t T_s)/dT_t = T_s: the loss's weight would be learned once more, by its temperatures."""
    product = hypergradient(monkeypatch, None)
    attached = hypergradient(monkeypatch, [Bare(lambda t, s: t * s) for _ in TEACHER])
    by_weight = product.logit_weights * torch.tensor(WEIGHTS)
    for name, temperatures in (("teacher_temperatures", TEACHER), ("student_temperatures", STUDENT)):
        pull = by_weight / torch.tensor(temperatures, dtype=torch.float64)
        torch.testing.assert_close(getattr(attached, name) - getattr(product, name), pull, rtol=1e-7, atol=0)


def test_each_logit_losss_temperatures_answer_for_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one loss's teacher as it was and the other's silent, the first one's hypergradient stays."""
    product = hypergradient(monkeypatch, None)
    silent = Bare(lambda _t, _s: torch.zeros((), dtype=torch.float64))
    first = hypergradient(monkeypatch, [held(TEACHER[0], STUDENT[0]), silent])
    assert first.teacher_temperatures[1] == 0
    assert first.student_temperatures[1] == 0
    assert torch.sign(first.teacher_temperatures[0]) == torch.sign(product.teacher_temperatures[0])
