"""The training loop: runs are functions of their seed; figures are finite or the run fails."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from search import registry
from search.pathways.gated import Gated
from search.problems import NonFiniteFigure, SearchProblem
from search.recipe import Process, Stage, constant
from search.records import Learning
from search.registry import Kind, Method
from search.spec import Training
from tests.search.training.runs import finished, make_run, model, searching

SGD = Training(optimizer="sgd", learning_rate=0.05, batch_size=16, report_every_steps=1)


def test_a_replay_of_equal_seed_is_bitwise_equal_and_of_another_seed_is_not() -> None:
    process = constant(logit_loss="kd")
    runs = [make_run(SGD, process=process) for _ in range(2)]
    rows = [[report.figures["loss"] for report in run.steps() if report] for run in runs]
    assert rows[0] == rows[1]
    other = make_run(SGD, process=process, seed=6)
    assert [report.figures["loss"] for report in other.steps() if report] != rows[0]


def test_weight_zero_is_the_student_alone_bitwise() -> None:
    alone = make_run(SGD, process=constant())
    muted = make_run(SGD, process=constant(logit_loss="kd", logit_weight=0.0))
    for run in (alone, muted):
        finished(run)
    for one, other in zip(alone.student.parameters(), muted.student.parameters(), strict=True):
        assert torch.equal(one, other)


def test_scales_are_the_losses_of_the_first_step() -> None:
    run = make_run(SGD, learn=Learning(learning_rate=0.05))
    next(run.steps())
    measured = [pathway.scale for pathway in run.recorded().pathways]
    assert all(scale is not None and scale > 0 for scale in measured)
    twin = make_run(SGD)
    batch = twin.batch()
    _, maps = twin.student.forward_taps(batch.images, twin.losses.student_stages())
    twin.losses.is_measured = True
    twin.losses.scales.fill_(1.0)
    raw = twin.losses.pathway_losses(maps, batch.teacher_maps)
    assert raw.tolist() == pytest.approx(measured, rel=1e-5)


def test_a_figure_that_is_not_finite_fails_the_run() -> None:
    run = make_run(SGD, process=constant(logit_loss="kd", logit_weight=1e6, temperature=1e4))
    with torch.no_grad():
        next(run.student.parameters()).fill_(float("inf"))
    with pytest.raises(NonFiniteFigure, match="at step 1"):
        next(run.steps())


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run = make_run(SGD, learn=Learning(learning_rate=0.05))
    next(run.steps())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"student_stage": 9}, "pathway_does_not_fit", "stage 9 of the student"),
        ({"teacher_stage": 9}, "pathway_does_not_fit", "stage 9 of the teacher"),
        ({"teacher": 1}, "pathway_does_not_fit", "several teachers"),
        ({"transform": "unheard"}, "unknown_method", "plug-in"),
    ],
)
def test_a_process_of_other_models_is_refused_in_words(change: dict, code: str, said: str) -> None:
    pathway = {"teacher_stage": 0, "student_stage": 0, "transform": "projection", "distance": "mse", **change}
    process = Process.model_validate(
        {"pathways": [pathway], "points": [{"progress": 0.0, "pathway_weights": [1.0]}]}
    )
    with pytest.raises(SearchProblem, match=said) as caught:
        make_run(SGD, process=process)
    assert caught.value.code == code


def test_a_transform_that_draws_numbers_draws_them_from_the_runs_own_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = Method(Kind.TRANSFORM, "dropping", "gated, then dropout", "this test", Dropping)
    monkeypatch.setitem(registry._methods, (Kind.TRANSFORM, "dropping"), method)
    process = searching(model("test_resnet", seed=1), model("test_vit", seed=2))
    dropping = [pathway.model_copy(update={"transform": "dropping"}) for pathway in process.pathways]
    losses = []
    for outside in (1, 2):
        run = make_run(
            SGD,
            learn=Learning(learning_rate=0.05),
            process=process.model_copy(update={"pathways": dropping}),
        )
        torch.manual_seed(outside)
        losses.append([report.figures["loss"] for report in islice(run.steps(), 3) if report])
    assert losses[0] == losses[1]


class Dropping(nn.Module):
    """A transform, and dropout after it."""

    def __init__(self, student: Stage, teacher: Stage) -> None:
        super().__init__()
        self.transform = Gated(student, teacher)
        self.dropout = nn.Dropout(0.5)

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        found: Tensor = self.dropout(self.transform(student_map, teacher_shape))
        return found


def test_an_unknown_augmentation_is_refused_in_words() -> None:
    with pytest.raises(SearchProblem, match=r"training\.augmentation: unknown augmentation 'rotate'"):
        make_run(SGD.model_copy(update={"augmentation": "rotate"}))
